import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel

from cf_cxr import CXRImageProcessor
from cf_cxr.black_box import (
    BlackBoxError,
    FidelityLimits,
    FidelityReport,
    StudentClassifier,
    StudentFidelityError,
    as_image_classifier,
    distil,
    from_callable,
    load_image_classifier,
    measure_fidelity,
)
from cf_cxr.black_box.distillation import label_images
from cf_cxr.models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from tests.black_box.helpers import SIZE, TINY_BACKBONE, attribute_model, images
from tests.training import bad_black_boxes
from tests.training.bad_black_boxes import MESSAGES

CONFIG = AttributeClassifierConfig(backbone_config=TINY_BACKBONE, standardize=False, pool_grid=2)
QUICK = {"config": CONFIG, "epochs": 12, "learning_rate": 1e-2, "progress": False, "device": "cpu"}


def service(pixels):
    """A black box: is the left lower quarter brighter than the right upper one?"""
    half = SIZE // 2
    score = pixels[:, 0, half:, :half].mean((1, 2)) - pixels[:, 0, :half, half:].mean((1, 2))
    return 1 / (1 + np.exp(-6 * score))


def black_box(fn=service, **options):
    return from_callable(fn, "effusion", identity="service, version 1", threshold=0.45, **options)


@pytest.fixture(scope="module")
def student():
    return distil(black_box(), images(800, seed=1), **QUICK)


def test_a_student_is_faithful_on_images_it_never_saw_and_says_how_much(student):
    x = images(200, seed=2)
    expected, answers = black_box().posterior(x), student.posterior(x)
    report = student.fidelity
    assert (answers - expected).abs().mean() < 0.1
    assert np.corrcoef(answers, expected)[0, 1] > 0.9
    assert report.mean_difference == pytest.approx((answers - expected).abs().mean().item(), abs=0.03)
    assert report.n_train == 640 and report.n_held_out == 160 and not report.by_patient and report.seed == 0
    assert student.class_name == "effusion" and student.threshold == 0.45
    assert "mean |difference|" in str(report) and str(report) in repr(student)
    assert student.black_box_fingerprint == black_box().fingerprint() != student.fingerprint()


def test_saving_keeps_answers_and_fidelity(student, tmp_path):
    student.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    record = json.loads((tmp_path / "config.json").read_text())["distillation"]
    assert record["fidelity"]["correlation"] == student.fidelity.correlation
    for loaded in (
        StudentClassifier.from_pretrained(tmp_path),
        load_image_classifier(tmp_path),
        as_image_classifier(tmp_path, "effusion"),
        StudentClassifier(AutoModel.from_pretrained(tmp_path)),
    ):
        assert loaded.fidelity == student.fidelity and loaded.fingerprint() == student.fingerprint()
        assert loaded.threshold == 0.45 and torch.equal(loaded(images()), student(images()))


def test_a_model_that_is_no_student_is_refused(tmp_path):
    model = attribute_model()
    with pytest.raises(BlackBoxError, match="no record of a distillation"):
        StudentClassifier(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(BlackBoxError, match="holds a attribute_classifier model, no student"):
        StudentClassifier.from_pretrained(tmp_path)


def test_every_image_is_asked_about_once_and_a_generator_is_read_once():
    asked = []

    def counted(pixels):
        asked.extend(p.tobytes() for p in pixels)
        assert len(pixels) <= 32
        return service(pixels)

    given = images(70, seed=3)
    rows = ({"pixel_values": x} for x in given)  # a generator
    options = {**QUICK, "epochs": 2, "force": True}
    with pytest.warns(UserWarning, match="does not repeat"):
        distil(black_box(counted), rows, **options)
    assert asked == [x.numpy().tobytes() for x in given]


def test_the_seed_decides_everything_and_the_global_generator_is_left_alone():
    x = images(60, seed=4)
    options = {**QUICK, "epochs": 2, "force": True}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with pytest.warns(UserWarning):
        first, again, other = (distil(black_box(), x, **options, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert first.fidelity == again.fidelity and other.fidelity.seed == 2
    assert not hasattr(CONFIG, "distillation") and CONFIG.attributes == []


def test_a_student_below_the_limits_is_refused_unless_forced():
    x = images(40, seed=5)
    options = {**QUICK, "epochs": 1, "learning_rate": 1e-6, "limits": FidelityLimits(mean_difference=1e-3)}
    with pytest.raises(
        StudentFidelityError, match=r"mean \|difference\| 0\.\d+ \(at most 0.001\).*force=True"
    ) as error:
        distil(black_box(), x, **options)
    assert error.value.report == error.value.student.fidelity
    with pytest.warns(UserWarning, match="does not repeat its black box"):
        assert distil(black_box(), x, **options, force=True).fidelity == error.value.report


def test_a_black_box_with_one_decision_only_is_refused():
    def never(pixels):
        return 0.1 * service(pixels)

    with pytest.raises(StudentFidelityError, match="balanced agreement undefined"):
        distil(black_box(never), images(60), **{**QUICK, "epochs": 1})


def test_patients_are_not_split():
    data = label_images(black_box(), images(60), progress=False)
    assert data.patients is None
    rows = [{"pixel_values": x, "patient_id": i // 6} for i, x in enumerate(images(60))]
    data = label_images(black_box(), rows, progress=False)
    train, test = data.split(0.3, seed=0)
    assert len(train) == 42 and len(test) == 18
    assert {i // 6 for i in train.tolist()}.isdisjoint(i // 6 for i in test.tolist())
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(60))
    batch = {"pixel_values": images(4), "patient_id": torch.tensor([3, 3, 4, 5])}
    assert label_images(black_box(), [batch], progress=False).patients == ["3", "3", "4", "5"]


def test_images_of_every_form_give_the_same_answers():
    x = torch.from_numpy(np.rint((images(5).numpy() + 1) * 127.5).astype(np.uint8)).float() / 127.5 - 1
    expected = black_box().posterior(x)
    arrays = [((p[0] + 1) / 2).numpy() for p in x]
    forms = [x, [x[:2], x[2:]], list(x), [{"pixel_values": p.numpy()} for p in x], iter(x)]
    for form in forms:
        data = label_images(black_box(), form, batch_size=2, progress=False)
        assert data.pixel_values.shape == (5, 1, SIZE, SIZE) and data.pixel_values.dtype == torch.float16
        torch.testing.assert_close(data.posterior, expected)
        assert (data.pixel_values.float() - x).abs().max() < 1 / 1000
    rows = [{"image": a, "patient_id": "p"} for a in arrays]
    for form in (arrays, rows):
        read = label_images(black_box(), form, processor=CXRImageProcessor(size=SIZE), progress=False)
        torch.testing.assert_close(read.posterior, expected, atol=1e-5, rtol=0)
    assert read.patients == ["p"] * 5


@pytest.mark.parametrize("name", [name for name in MESSAGES if name != "chance"])
def test_a_black_box_that_cannot_be_has_no_student(name):
    with pytest.raises(BlackBoxError, match=MESSAGES[name]):
        distil(black_box(getattr(bad_black_boxes, name)), images(20), **QUICK, force=True)


def test_chance_has_no_faithful_student():
    with pytest.raises(StudentFidelityError, match="does not repeat its black box.*correlation"):
        distil(black_box(bad_black_boxes.chance), images(40), **{**QUICK, "epochs": 1})


def test_the_default_student_is_a_small_library_network():
    with pytest.warns(UserWarning, match="does not repeat"):
        student = distil(black_box(), images(8, 32, seed=1), epochs=1, held_out=0.5, force=True, device="cpu")
    assert isinstance(student.model, AttributeClassifierModel) and not student.model.config.standardize
    assert 1e6 < student.model.num_parameters() < 2e6 and student.model.config.image_size == 32


# --- the measures -----------------------------------------------------------------------------------------


def test_fidelity_by_hand():
    truth = torch.tensor([0.1, 0.2, 0.6, 0.9])
    answer = torch.tensor([0.2, 0.6, 0.5, 0.9])
    got = measure_fidelity(answer, truth)
    assert got["mean_difference"] == pytest.approx((0.1 + 0.4 + 0.1 + 0) / 4)
    assert got["max_difference"] == pytest.approx(0.4)
    assert got["agreement"] == 0.75 and got["balanced_agreement"] == (0.5 + 1) / 2
    assert got["correlation"] == pytest.approx(np.corrcoef(answer, truth)[0, 1], abs=1e-6)
    assert measure_fidelity(answer, truth, threshold=0.55)["balanced_agreement"] == (0.5 + 0.5) / 2


def test_fidelity_of_the_truth_itself_and_where_it_is_undefined():
    truth = torch.rand(50, generator=torch.Generator().manual_seed(0))
    perfect = measure_fidelity(truth, truth)
    assert perfect["mean_difference"] == 0 and perfect["correlation"] == pytest.approx(1)
    assert perfect["agreement"] == perfect["balanced_agreement"] == 1
    assert measure_fidelity(1 - truth, truth)["correlation"] == pytest.approx(-1)
    constant = measure_fidelity(torch.full((50,), 0.7), truth)
    assert constant["correlation"] is None and constant["balanced_agreement"] == 0.5
    assert measure_fidelity(truth / 3, truth / 3)["balanced_agreement"] is None
    for a, b in ((truth, truth[:3]), (truth[:0], truth[:0])):
        with pytest.raises(BlackBoxError, match="at least one"):
            measure_fidelity(a, b)


def test_limits_name_what_falls_short():
    measures = {"mean_difference": 0.2, "max_difference": 0.5, "correlation": 0.5, "agreement": 0.9}
    rest = {
        "n_train": 8,
        "n_held_out": 2,
        "black_box_fingerprint": "sha256:0",
        "by_patient": False,
        "seed": 0,
    }
    report = FidelityReport(**measures, balanced_agreement=None, **rest)
    assert FidelityLimits().failures(report) == [
        "mean |difference| 0.200 (at most 0.1)",
        "correlation 0.500 (at least 0.9)",
        "balanced agreement undefined (at least 0.85)",
    ]
    assert FidelityLimits(0.2, 0.5, 0).failures(report) == ["balanced agreement undefined (at least 0)"]
    nan = FidelityReport(**{**measures, "mean_difference": math.nan}, balanced_agreement=1.0, **rest)
    assert len(FidelityLimits(1, 0, 0).failures(nan)) == 1
    assert FidelityReport.from_dict({**report.to_dict(), "later": 1}) == report
    assert "balanced undefined" in str(report)
