import pytest

from cf_cxr import CausalGraph, CausalGraphError

CHAIN = CausalGraph({"c": ["b"], "a": [], "b": ["a"], "d": ["a", "c"], "e": []})


def test_order_puts_parents_first():
    order = CHAIN.order
    assert set(order) == {"a", "b", "c", "d", "e"}
    assert all(order.index(p) < order.index(n) for n in order for p in CHAIN.parents(n))


def test_relatives():
    assert CHAIN.descendants("a") == {"b", "c", "d"}
    assert CHAIN.descendants("b") == {"c", "d"}
    assert CHAIN.descendants(["b", "e"]) == {"c", "d"}
    assert CHAIN.descendants("e") == frozenset()
    assert CHAIN.descendants(["a", "b"]) == {"c", "d"}


def test_cycle_is_named():
    with pytest.raises(CausalGraphError, match="cycle: .*(b -> c|c -> b)"):
        CausalGraph({"a": [], "b": ["a", "c"], "c": ["b"]})
    with pytest.raises(CausalGraphError, match="cycle"):
        CausalGraph({"a": ["a"]})


def test_unknown_and_missing_names():
    with pytest.raises(CausalGraphError, match="zzz"):
        CausalGraph({"a": ["zzz"]})
    with pytest.raises(CausalGraphError, match="does not mention.*b"):
        CausalGraph({"a": []}, names=["a", "b"])
    with pytest.raises(CausalGraphError, match="not attributes"):
        CausalGraph({"a": [], "b": []}, names=["a"])
    with pytest.raises(CausalGraphError, match="zzz"):
        CHAIN.descendants("zzz")
    with pytest.raises(CausalGraphError, match="twice"):
        CausalGraph({"a": [], "b": ["a", "a"]})


def test_definition_round_trip():
    assert CausalGraph(CHAIN.to_dict()) == CHAIN
