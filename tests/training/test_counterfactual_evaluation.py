"""The evaluation command and packaging, on a tiny random model and radiograph-like noise in the parquet layout."""

import io
import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from cf_cxr import (
    AttributeClassifierConfig,
    AttributeClassifierModel,
    AttributeSCMConfig,
    AttributeSCMModel,
    CausalHVAEConfig,
    CausalHVAEModel,
    DeepSCMModel,
    cxr_schema,
)
from cf_cxr.metrics.discrimination import attribute_score
from cf_cxr.training.counterfactual_evaluation import SameJudgeError, collect, main, summarise
from cf_cxr.training.packaging import main as package

SCHEMA, GRAPH = cxr_schema("parquet")
BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [4, 8],
    "depths": [1, 1],
    "layer_type": "basic",
}


def classifier(seed):
    torch.manual_seed(seed)
    config = AttributeClassifierConfig(
        attributes=SCHEMA.to_list(), image_size=16, backbone_config=BACKBONE, initializer_range=1.0
    )
    return AttributeClassifierModel(config).eval()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of the four trained parts."""
    root = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    AttributeSCMModel(AttributeSCMConfig(attributes=SCHEMA.to_list(), graph=GRAPH.to_dict())).save_pretrained(
        root / "scm"
    )
    CausalHVAEModel(
        CausalHVAEConfig(
            image_size=16,
            context_dim=4,
            encoder_blocks="16b1d4,4b1d4,1b1",
            decoder_blocks="1b1,4b1,16b1",
            widths=[8, 8, 8],
            z_dim=2,
            bottleneck=2,
            z_max_res=4,
            bias_max_res=4,
        )
    ).save_pretrained(root / "hvae")
    for seed, name in enumerate(("classifier", "second", "judge")):
        classifier(seed).save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def model_folder(parts):
    words = [
        "--attribute_scm", parts / "scm", "--image_mechanism", parts / "hvae", "--classifier", parts / "classifier",
        "--training_classifiers", parts / "second", "--output_dir", parts / "deep_scm",
    ]  # fmt: skip
    return package([str(w) for w in words])


def write_split(folder, split, patients, rng):
    rows = []
    for i, patient in enumerate(patients):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(buffer, "PNG")
        rows.append(
            {
                "image": {"bytes": buffer.getvalue(), "path": None},
                "image_id": f"{patient}_{i}",
                "patient_id": str(patient),
                "age": 20 + i % 60,
                "sex": ("Male", "Female")[i % 2],
                "view": ("PA", "AP")[i // 2 % 2],
                "findings": [[], ["Effusion"], ["Mass"]][i % 3],
            }
        )
    data = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    data.to_parquet(folder / f"{split}.parquet")


@pytest.fixture
def data_dir(tmp_path):
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    for split, start in (("train", 0), ("validation", 100), ("test", 200)):
        write_split(folder, split, range(start, start + 24), rng)
    return folder


def evaluate(model_folder, parts, data_dir, tmp_path, *words, judge="judge"):
    arguments = [
        "--model", model_folder, "--judge", parts / judge, "--data_dir", data_dir, "--cache_dir", tmp_path / "cache",
        "--output_dir", tmp_path / "out", "--n_resamples", 20, *words,
    ]  # fmt: skip
    return main([str(w) for w in arguments])


def test_results_files_hold_every_number_and_its_identity(model_folder, parts, data_dir, tmp_path):
    results = evaluate(model_folder, parts, data_dir, tmp_path)
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert stored["do"].keys() == {"age", "sex", "view", "finding"}
    assert stored["composition"][0] < 1e-3
    assert stored["identity"]["images"] == 16 and stored["identity"]["patients"] == 16  # a third is "other"
    assert set(stored["do"]["age"]["amplification"]) == {"sex", "view"}  # finding descends from age
    assert set(stored["do"]["sex"]["amplification"]) == {"age", "view", "finding"}
    assert "Amplification" in (tmp_path / "out" / "results.md").read_text()
    assert results["identity"]["judge_is_training_classifier"] is False
    with pytest.raises(FileExistsError, match="overwrite_output_dir"):
        evaluate(model_folder, parts, data_dir, tmp_path)


@pytest.mark.parametrize("judge", ["classifier", "second"])
def test_classifiers_used_in_training_may_not_judge(model_folder, parts, data_dir, tmp_path, judge):
    with pytest.raises(SameJudgeError, match="cannot grade itself"):
        evaluate(model_folder, parts, data_dir, tmp_path, judge=judge)
    assert not (tmp_path / "out").exists()


def test_patients_of_the_training_split_are_refused(model_folder, parts, data_dir, tmp_path):
    write_split(data_dir, "test", range(20, 40), np.random.default_rng(1))
    with pytest.raises(ValueError, match="patient 20 in both train and test"):
        evaluate(model_folder, parts, data_dir, tmp_path)


def test_numbers_follow_from_the_images(model_folder):
    """Effectiveness and amplification recomputed from the model's own images, one at a time."""
    model, judge = DeepSCMModel.from_pretrained(model_folder).eval(), classifier(7)
    g = torch.Generator().manual_seed(0)
    n = 12
    pixels = torch.rand(n, 1, 16, 16, generator=g) * 2 - 1
    factual = torch.stack([torch.arange(n) + 30.0, *(torch.arange(n) // d % 2.0 for d in (1, 2, 4))], dim=1)
    do = np.random.default_rng(0).integers(0, 2, n).astype(np.float32)
    batches = [{"pixel_values": p, "attributes": a} for p, a in zip(pixels.split(5), factual.split(5))]
    data = collect(model, judge, batches, {"sex": do}, seed=0, progress=False)
    results = summarise(data, SCHEMA, GRAPH, list(range(n)), seed=0, n_resamples=10)
    images = torch.cat(
        [
            model.counterfactual(p[None], a[None], {"sex": torch.tensor([v])}).pixel_values[:, 0]
            for p, a, v in zip(pixels, factual, do)
        ]
    )
    after, before = judge.predict(images), judge.predict(pixels)
    assert results["do"]["sex"]["effectiveness"][0] == pytest.approx(
        attribute_score("binary", after["sex"], do), abs=1e-3
    )
    drift = attribute_score("binary", after["view"], factual[:, 2]) - attribute_score(
        "binary", before["view"], factual[:, 2]
    )
    assert results["do"]["sex"]["amplification"]["view"][0] == pytest.approx(drift, abs=1e-3)
    age = np.abs(after["age"][0].numpy() - factual[:, 0].numpy()).mean()
    real = np.abs(before["age"][0].numpy() - factual[:, 0].numpy()).mean()
    assert results["do"]["sex"]["amplification"]["age"][0] == pytest.approx(age - real, abs=1e-3)


def test_an_amplifying_model_is_caught_with_the_right_sign(model_folder):
    """A judge that reads sex from the left half; a 'model' whose do(view) brightens that half by the factual sex."""

    class Judge(AttributeClassifierModel):
        def forward(self, pixel_values, labels=None, **kwargs):
            left = pixel_values[..., :8].mean((1, 2, 3))
            zero = torch.zeros_like(left)
            logits = torch.stack([zero, zero, left, zero, zero], dim=1)
            return type("Output", (), {"logits": logits})()

    model = DeepSCMModel.from_pretrained(model_folder).eval()
    judge = Judge(classifier(7).config).eval()
    g = torch.Generator().manual_seed(0)
    factual = torch.stack(
        [torch.full((60,), 50.0), *(torch.randint(2, (60,), generator=g).float() for _ in range(3))], 1
    )
    brightness = 0.05 * torch.randn(60, generator=g) + 0.03 * (2 * factual[:, 1] - 1)
    pixels = torch.rand(60, 1, 16, 16, generator=g) * 0.02 + brightness[:, None, None, None]
    sign = {"now": 0.0}
    decode = model.image_mechanism.decode

    def amplifying(noise, parents):
        return (decode(noise, parents) + sign["now"] * (2 * parents[:, 1] - 1)[:, None, None, None]).clamp(
            -1, 1
        )

    model.image_mechanism.decode = amplifying
    do = {"view": np.zeros(60, np.float32)}
    found = []
    for sign["now"] in (0.05, 0.0, -0.05):
        data = collect(model, judge, [{"pixel_values": pixels, "attributes": factual}], do, 0, progress=False)
        row = summarise(data, SCHEMA, GRAPH, list(range(60)), 0, 100)["do"]["view"]
        found.append(row["amplification"]["sex"])
    assert found[0][1] > 0 and found[2][2] < 0, "the interval must exclude 0"
    assert abs(found[1][0]) < abs(found[0][0]) and abs(found[1][0]) < abs(found[2][0])


def test_package_writes_one_repository_with_a_card(parts, model_folder, data_dir, tmp_path):
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= {
        p.name for p in model_folder.iterdir()
    }
    card = (model_folder / "README.md").read_text()
    assert card.startswith("---\n") and "| finding | binary | No Finding, Effusion | age |" in card
    assert "Not evaluated." in card and "Not for diagnosis" in card
    model = DeepSCMModel.from_pretrained(model_folder)
    assert len(model.config.training_classifiers) == 2
    with pytest.raises(FileExistsError, match="already holds a model"):
        package(["--output_dir", str(model_folder)])
    evaluate(model_folder, parts, data_dir, tmp_path)
    words = [
        "--attribute_scm", parts / "scm", "--image_mechanism", parts / "hvae", "--classifier", parts / "classifier",
        "--output_dir", tmp_path / "again", "--results", tmp_path / "out" / "results.json",
    ]  # fmt: skip
    card = (package([str(w) for w in words]) / "README.md").read_text()
    assert "by an independent judge" in card and "effectiveness of do(sex)" in card
