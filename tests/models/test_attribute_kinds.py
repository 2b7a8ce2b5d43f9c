"""A new kind of attribute is a class of values, a class of heads and a mechanism; nothing else knows the kinds."""

import numpy as np
import pytest
import torch

from cf_cxr import AttributeSchema, AttributeValueError, CausalGraph
from cf_cxr.attributes import KINDS, CategoricalAttribute
from cf_cxr.black_box import as_image_classifier
from cf_cxr.metrics.amplification import amplification
from cf_cxr.metrics.bootstrap import patient_weights
from cf_cxr.models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from cf_cxr.models.attribute_classifier.heads import HEADS, CategoricalHead
from cf_cxr.models.attribute_scm import AttributeSCMConfig, AttributeSCMModel
from cf_cxr.models.attribute_scm.mechanisms import MECHANISMS, GumbelMaxMechanism


@pytest.fixture
def schema(monkeypatch):
    """A variable of ordered classes, coded by the thresholds it passes, beside a continuous and a binary one."""
    for table in (KINDS, HEADS, MECHANISMS):
        for kind in table:
            monkeypatch.setitem(table, kind, table[kind])  # restores the table afterwards

    class OrdinalAttribute(CategoricalAttribute, kind="ordinal"):
        @property
        def size(self):
            return self.n_classes - 1

        def encode(self, raw):
            return (raw[:, None] > torch.arange(self.size)).to(raw.dtype)

        def decode(self, code):
            return (code > 0.5).sum(1).to(code.dtype)

    monkeypatch.setitem(HEADS, "ordinal", CategoricalHead)
    monkeypatch.setitem(MECHANISMS, "ordinal", GumbelMaxMechanism)
    age = {"name": "age", "kind": "continuous", "minimum": 0, "maximum": 100}
    sex = {"name": "sex", "kind": "binary", "categories": ["Male", "Female"]}
    grade = {"name": "grade", "kind": "ordinal", "categories": ["none", "mild", "severe"]}
    yield AttributeSchema([age, sex, grade])
    KINDS.pop("ordinal")


GRAPH = {"age": [], "sex": [], "grade": ["age"]}


def test_values_encode_and_come_back(schema):
    raw = schema.to_tensor({"age": [40, 70], "sex": ["Male", "Female"], "grade": ["severe", "mild"]})
    assert schema.encode(raw)[:, schema.slices()["grade"]].tolist() == [[1, 1], [1, 0]]
    assert torch.equal(schema.decode(schema.encode(raw)), raw)
    assert AttributeSchema(schema.to_list()) == schema
    with pytest.raises(AttributeValueError, match="grade is ordinal, give one of 'none', 'mild', 'severe'"):
        schema["grade"].parse("deadly")


def test_mechanism_head_black_box_and_metric_know_it(schema, tmp_path):
    scm = AttributeSCMModel(AttributeSCMConfig(attributes=schema.to_list(), graph=GRAPH))
    raw = scm.sample(40, torch.Generator().manual_seed(0))
    assert torch.equal(scm.counterfactual(raw, {}), raw)
    assert (scm.counterfactual(raw, {"grade": "mild"})[:, 2] == 1).all()
    backbone = {
        "model_type": "bit",
        "embedding_size": 8,
        "hidden_sizes": [16],
        "depths": [1],
        "num_groups": 4,
    }
    config = AttributeClassifierConfig(attributes=schema.to_list(), backbone_config=backbone)
    model = AttributeClassifierModel(config).eval()
    x = torch.rand(40, 1, 16, 16) * 2 - 1
    model(x, raw).loss.backward()
    posterior = model.predict(x)
    assert set(posterior.records()[0]["grade"]) == {"none", "mild", "severe"}
    schema.to_tensor(posterior.mode())
    assert as_image_classifier(model, class_name="grade=mild").posterior(x).shape == (40,)
    values = {name: np.asarray(v[0] if name == "age" else v) for name, v in posterior.items()}
    weights = patient_weights(np.arange(40), 5, 0)
    graph = CausalGraph(GRAPH, schema.names)
    assert (
        "grade" in amplification(schema, graph, values, {"sex": values}, raw.numpy(), weights).matrix["sex"]
    )
