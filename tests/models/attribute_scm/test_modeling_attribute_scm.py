"""AttributeSCMModel: interventions with known answers, exact null interventions, clear errors."""

import pytest
import torch

from cf_cxr.attributes import AttributeValueError, UnknownAttributeError
from cf_cxr.causal_graph import CausalGraphError
from cf_cxr.models.attribute_scm import AttributeNoise, AttributeSCMConfig, AttributeSCMModel
from tests.models.test_modeling_common import ModelCommonTestsMixin

ATTRIBUTES = [
    {"name": "age", "kind": "continuous", "minimum": 18.0, "maximum": 95.0, "unit": "years"},
    {"name": "finding", "kind": "binary", "categories": ["No Finding", "Effusion"]},
    {"name": "site", "kind": "categorical", "categories": ["A", "B", "C"]},
    {"name": "volume", "kind": "continuous", "minimum": -2.0, "maximum": 7.0, "unit": "l"},
    {"name": "view", "kind": "binary", "categories": ["PA", "AP"]},
]
# age -> finding -> volume and view; site -> volume. Neither the order here nor the alphabet is topological.
GRAPH = {"volume": ["finding", "site"], "finding": ["age"], "age": [], "view": ["finding"], "site": []}
AGE, FINDING, SITE, VOLUME, VIEW = range(5)


def small_config(**kwargs) -> AttributeSCMConfig:
    return AttributeSCMConfig(attributes=ATTRIBUTES, graph=GRAPH, hidden_sizes=[8], num_bins=4, **kwargs)


def rows(batch: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(batch, 5, generator=generator)
    low, span = torch.tensor([18.0, 0, 0, -2, 0]), torch.tensor([77.0, 2, 3, 9, 2])
    raw = low + u * span
    raw[:, [FINDING, SITE, VIEW]] = raw[:, [FINDING, SITE, VIEW]].floor()
    return raw


@pytest.fixture
def model() -> AttributeSCMModel:
    """Weights large enough that every edge matters."""
    torch.manual_seed(0)
    model = AttributeSCMModel(small_config(initializer_range=1.0)).eval()
    for name in model.graph.names:
        if not model.graph.parents(name):  # roots start uniform
            torch.nn.init.normal_(model.mechanism(name).conditioner.root)
    return model


class TestAttributeSCMCommon(ModelCommonTestsMixin):
    model_class = AttributeSCMModel
    prediction = "log_prob"

    def config(self):
        return small_config()

    def inputs(self):
        raw = rows()
        raw[0, FINDING] = raw[1, AGE] = torch.nan
        return {"attributes": raw}

    def batch_outputs(self, model, inputs):
        raw = inputs["attributes"]
        noise = AttributeNoise(
            {
                a.name: torch.full((len(raw), *([a.n_classes] if a.is_discrete else [])), 0.3)
                for a in model.schema
            }
        )
        noise = AttributeNoise({k: v.double() for k, v in noise.items()})
        return {
            "log_prob": model(raw).log_prob,
            "age": model.abduct(raw)["age"],
            "counterfactual": model.counterfactual(raw, {"age": 30.0}, noise=noise),
        }

    def random_outputs(self, model, inputs, generator):
        raw = inputs["attributes"].repeat(50, 1)
        return {
            "sample": model.sample(50, generator),
            "noise": model.abduct(raw, generator)["site"],
            "counterfactual": model.counterfactual(raw, {"age": 94.0, "site": "C"}, generator=generator),
        }


def test_loss_is_the_sum_of_means_over_known_values(model):
    raw = rows(6)
    raw[0, FINDING] = raw[3, FINDING] = raw[2, VOLUME] = torch.nan
    raw[:, VIEW] = torch.nan
    output = model(raw)
    known = ~raw.isnan()
    assert (output.log_prob[~known] == 0).all()
    expected = -sum(output.log_prob[known[:, i], i].mean() for i in range(5) if known[:, i].any())
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_children_read_only_their_parents(model):
    raw = rows(3)
    base = model.log_prob(raw)
    for changed, moved in ((AGE, {AGE, FINDING}), (SITE, {SITE, VOLUME}), (VIEW, {VIEW})):
        other = raw.clone()
        other[:, changed] = 90.0 if changed == AGE else (raw[:, changed] + 1) % (3 if changed == SITE else 2)
        differs = (model.log_prob(other) != base).any(0)
        assert {i for i in range(5) if differs[i]} == moved


def test_fit_recovers_the_law_of_the_data():
    """P(finding | age) = 0.1 below 50 years and 0.8 above; age uniform on two intervals."""
    generator = torch.Generator().manual_seed(0)
    n = 4000
    old = torch.rand(n, generator=generator) < 0.3
    age = torch.where(
        old, 60 + 20 * torch.rand(n, generator=generator), 20 + 20 * torch.rand(n, generator=generator)
    )
    finding = (torch.rand(n, generator=generator) < torch.where(old, 0.8, 0.1)).float()
    raw = torch.stack([age, finding], 1)
    torch.manual_seed(0)
    model = AttributeSCMModel(
        AttributeSCMConfig(
            attributes=ATTRIBUTES[:2], graph={"age": [], "finding": ["age"]}, hidden_sizes=[16]
        )
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(250):
        optimizer.zero_grad()
        model(raw).loss.backward()
        optimizer.step()
    sample = model.sample(20_000, generator)
    old_sample = sample[:, 0] > 50
    assert abs(old_sample.float().mean() - 0.3) < 0.03
    assert ((sample[:, 0] > 42) & (sample[:, 0] < 58)).float().mean() < 0.03
    assert abs(sample[old_sample, 1].mean() - 0.8) < 0.04
    assert abs(sample[~old_sample, 1].mean() - 0.1) < 0.04
    # do(age) on those without a finding: P(finding' | finding = 0) under Gumbel-max, in closed form
    young = torch.tensor([[30.0, 0.0]]).repeat(20_000, 1)
    moved = model.counterfactual(young, {"age": 70.0}, generator=generator)[:, 1].mean()
    p = model.mechanism("finding")(model.encode_parents("finding", torch.tensor([[30.0, 0.0], [70.0, 0.0]])))
    p0, p1 = p.softmax(-1)[:, 1].tolist()
    assert abs(moved - (p1 - p0) / (1 - p0)) < 0.015


def test_sample_has_the_closed_form_frequencies(model):
    sample = model.sample(50_000, torch.Generator().manual_seed(0))
    assert (sample[:, AGE] >= 18).all() and (sample[:, AGE] <= 95).all()
    probabilities = model.mechanism("view")(model.encode_parents("view", sample)).softmax(-1)[:, 1]
    for finding in (0, 1):
        rows_ = sample[:, FINDING] == finding
        assert abs(sample[rows_, VIEW].mean() - probabilities[rows_][0]) < 0.015


def test_null_intervention_is_the_input_to_the_bit(model):
    raw = rows(2000)
    assert torch.equal(model.counterfactual(raw, {}), raw)
    for name in model.schema.names:  # do(X = the value X has)
        same = model.counterfactual(raw, {name: raw[:, model.schema.index(name)]})
        assert torch.equal(same, raw), name


def test_continuous_round_trip(model):
    raw = rows(2000)
    raw[:2, VOLUME] = torch.tensor([-2.0, 7.0])  # the ends of the range
    raw[:2, AGE] = torch.tensor([18.0, 95.0])
    noise = model.abduct(raw)
    for name, column in (("age", AGE), ("volume", VOLUME)):
        back = model.mechanism(name).decode(noise[name], model.encode_parents(name, raw))
        assert (back - raw[:, column]).abs().max() < 1e-3


def test_intervention_changes_descendants_only(model):
    raw = rows(500)
    result = model.counterfactual(raw, {"finding": "Effusion"}, generator=torch.Generator().manual_seed(0))
    assert (result[:, FINDING] == 1).all()
    assert torch.equal(result[:, [AGE, SITE]], raw[:, [AGE, SITE]])
    was = raw[:, FINDING] == 1
    assert torch.equal(result[was], raw[was])
    assert (result[~was, VOLUME] != raw[~was, VOLUME]).any() and (result[~was, VIEW] != raw[~was, VIEW]).any()
    assert (result[:, VOLUME] >= -2).all() and (result[:, VOLUME] <= 7).all()
    both = model.counterfactual(raw, {"finding": 1, "volume": 3.0})
    assert (both[:, VOLUME] == 3).all()


def test_chain_uses_the_counterfactual_parent(model):
    """age -> finding -> view: under do(age) view moves only in rows whose finding moved."""
    raw = rows(5000)
    result = model.counterfactual(raw, {"age": 95.0}, generator=torch.Generator().manual_seed(0))
    moved = result[:, FINDING] != raw[:, FINDING]
    assert moved.any() and (result[moved, VIEW] != raw[moved, VIEW]).any()
    assert torch.equal(result[~moved][:, [VOLUME, VIEW]], raw[~moved][:, [VOLUME, VIEW]])


def test_one_noise_answers_many_questions(model):
    raw = rows(200)
    noise = model.abduct(raw, torch.Generator().manual_seed(5))
    assert {k: tuple(v.shape) for k, v in noise.items()} == {
        "age": (200,), "finding": (200, 2), "site": (200, 3), "volume": (200,), "view": (200, 2),
    }  # fmt: skip
    with_noise = model.counterfactual(raw, {"age": 90.0}, noise=noise)
    without = model.counterfactual(raw, {"age": 90.0}, generator=torch.Generator().manual_seed(5))
    assert torch.equal(with_noise, without)
    assert isinstance(noise.to("cpu"), AttributeNoise)


def test_per_row_tensor_and_human_values_agree(model):
    raw = rows(3)
    do = {"site": torch.tensor([2.0, 0.0, 1.0]), "view": "AP", "age": "063Y"}
    result = model.counterfactual(raw, do)
    assert result[:, SITE].tolist() == [2, 0, 1]
    assert result[:, VIEW].tolist() == [1, 1, 1] and result[:, AGE].tolist() == [63, 63, 63]


def test_unknown_values_stay_unknown_unless_set(model):
    raw = rows(4)
    raw[0, VOLUME] = raw[1, FINDING] = raw[2, SITE] = torch.nan
    result = model.counterfactual(raw, {"age": 80.0})
    assert torch.equal(result.isnan(), raw.isnan())
    assert not model.counterfactual(raw, {"finding": 1.0})[1].isnan().any()
    assert model.counterfactual(raw, {})[1, FINDING].isnan()


def test_bf16_model_answers_in_float32_and_keeps_ages(model):
    model.to(torch.bfloat16)
    raw = rows(300)
    assert model(raw).loss.dtype == torch.float32
    result = model.counterfactual(raw, {"finding": raw[:, FINDING]})
    assert torch.equal(result, raw)
    assert model.sample(5).dtype == torch.float32


def test_sampling_survives_save_and_load(model, tmp_path):
    """JSON sorts the graph's keys: the order in which variables are drawn must not follow it."""
    model.save_pretrained(tmp_path)
    loaded = AttributeSCMModel.from_pretrained(tmp_path)
    draws = [m.sample(20, torch.Generator().manual_seed(1)) for m in (model, loaded)]
    assert torch.equal(*draws)


@pytest.mark.parametrize(
    ("do", "error", "message"),
    [
        ({"sex": 1}, UnknownAttributeError, "sex.*age"),
        ({"sex": torch.zeros(3)}, UnknownAttributeError, "sex.*age"),
        ({"age": -3}, AttributeValueError, "age=-3.*18 to 95"),
        ({"age": torch.tensor([20.0, 30.0, 96.0])}, AttributeValueError, "age=96.*18 to 95"),
        ({"site": "Banana"}, AttributeValueError, "Banana.*'A', 'B', 'C'"),
        ({"site": torch.tensor([0.0, 1.0, 3.0])}, AttributeValueError, "site=3"),
        ({"age": torch.tensor([20.0, 30.0])}, AttributeValueError, r"shape \(2,\).*\(3,\)"),
        ({"age": torch.tensor([20.0, 30.0, torch.nan])}, AttributeValueError, "NaN"),
        (["age"], TypeError, "mapping"),
        (None, TypeError, "mapping"),
    ],
)
def test_impossible_interventions(model, do, error, message):
    with pytest.raises(error, match=message):
        model.counterfactual(rows(3), do)


def test_impossible_attributes(model):
    bad = rows(3)
    bad[1, FINDING] = 0.5
    for call in (model, model.log_prob, model.abduct, lambda x: model.counterfactual(x, {"age": 50})):
        with pytest.raises(AttributeValueError, match="finding=0.5"):
            call(bad)
        with pytest.raises(AttributeValueError, match="shape"):
            call(rows(3)[:, :4])


def test_exports_and_compiles_to_one_graph():
    graph = {"age": [], "finding": ["age"]}
    settings = {"hidden_sizes": [8], "num_transforms": 1, "num_bins": 4}
    model = AttributeSCMModel(AttributeSCMConfig(attributes=ATTRIBUTES[:2], graph=graph, **settings)).eval()
    inputs, other = rows()[:, :2], rows(seed=1)[:, :2]
    inputs[0, FINDING] = other[1, AGE] = torch.nan
    exported = torch.export.export(model, (inputs,)).module()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for traced in (exported, compiled):
        for attributes in (inputs, other):
            torch.testing.assert_close(traced(attributes).log_prob, model(attributes).log_prob)


def test_noise_of_other_rows_is_refused(model):
    with pytest.raises(ValueError, match="does not belong"):
        model.counterfactual(rows(3), {"age": 50.0}, noise=model.abduct(rows(2)))
    with pytest.raises(ValueError, match="does not belong"):
        model.counterfactual(rows(3), {"age": 50.0}, noise=AttributeNoise())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"graph": {**GRAPH, "age": ["view"]}}, CausalGraphError, "cycle"),
        ({"attributes": []}, ValueError, "at least one"),
        ({"num_bins": 0}, ValueError, "num_bins"),
        ({"hidden_sizes": [8, 0]}, ValueError, "hidden_sizes"),
    ],
)
def test_impossible_configurations(change, error, message):
    with pytest.raises(error, match=message):
        AttributeSCMConfig(**{"attributes": ATTRIBUTES, "graph": GRAPH, **change})


def test_default_configuration_is_paper_a():
    config = AttributeSCMConfig()
    assert config.schema.dim == 6
    assert config.causal_graph.parents("finding") == ("age",)
