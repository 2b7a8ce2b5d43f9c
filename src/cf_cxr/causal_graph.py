"""The directed acyclic graph over the attributes. Every attribute is, besides, a parent of the image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter


class CausalGraphError(ValueError):
    """A graph that is not a DAG over known variables."""


class CausalGraph:
    """Parents per variable, with the queries that abduction, intervention and soft targets need.

    Args:
        parents: variable -> its parents, e.g. `{"age": [], "sex": [], "finding": ["age"]}`.
        names: if given, the variables that must appear, no more and no fewer (a schema's names).

    Raises:
        CausalGraphError: for a cycle (which is named), an unknown or a missing variable, or a parent listed twice.
    """

    def __init__(self, parents: Mapping[str, Iterable[str]], names: Iterable[str] | None = None):
        self._parents = {name: tuple(ps) for name, ps in parents.items()}
        expected = list(self._parents) if names is None else list(names)
        if unknown := [n for n in self._parents if n not in expected]:
            raise CausalGraphError(f"The graph has {unknown}, which are not attributes; known: {expected}.")
        if missing := [n for n in expected if n not in self._parents]:
            raise CausalGraphError(
                f"The graph does not mention {missing}; give a list of parents ([] for a root)."
            )
        for name, ps in self._parents.items():
            if bad := [p for p in ps if p not in self._parents]:
                raise CausalGraphError(f"{name} has unknown parents {bad}; known: {list(self._parents)}.")
            if len(set(ps)) != len(ps):
                raise CausalGraphError(f"{name} lists a parent twice: {list(ps)}.")
        try:
            self._order = tuple(TopologicalSorter(self._parents).static_order())
        except CycleError as error:
            raise CausalGraphError(
                f"The causal graph has a cycle: {' -> '.join(error.args[1])}. Remove one of its edges."
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CausalGraph) and self._parents == other._parents

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._parents.items())))

    def __repr__(self) -> str:
        edges = [f"{p} -> {n}" for n, ps in self._parents.items() for p in ps]
        return f"CausalGraph({', '.join(edges) or 'no edges'}; {len(self._parents)} variables)"

    @property
    def names(self) -> tuple[str, ...]:
        """All variables, as given."""
        return tuple(self._parents)

    @property
    def order(self) -> tuple[str, ...]:
        """A topological order: parents before children."""
        return self._order

    def parents(self, name: str) -> tuple[str, ...]:
        """Direct causes of a variable."""
        if name not in self._parents:
            raise CausalGraphError(f"Unknown variable {name!r}; known: {', '.join(self._parents)}.")
        return self._parents[name]

    def descendants(self, names: str | Iterable[str]) -> frozenset[str]:
        """Everything downstream of one or several variables, these themselves not included."""
        start, found = {names} if isinstance(names, str) else set(names), set()
        for name in start:
            self.parents(name)
        for name in self._order:
            if (start | found).intersection(self._parents[name]):
                found.add(name)
        return frozenset(found - start)

    def to_dict(self) -> dict[str, list[str]]:
        """JSON-serialisable definition; `CausalGraph(graph.to_dict()) == graph`."""
        return {name: list(ps) for name, ps in self._parents.items()}
