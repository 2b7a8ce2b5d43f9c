"""Classifiers, answers, images and settings that cannot be are refused with a message that says what to do."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from cf_cxr.black_box import (
    BlackBoxError,
    as_image_classifier,
    as_preprocessing,
    check_images,
    check_not_constant,
    check_posterior,
    distil,
    from_attribute_classifier,
    from_callable,
    from_module,
    from_torchxrayvision,
    from_transformers,
)
from cf_cxr.black_box.checks import check_repeated, find_name
from tests.black_box.helpers import SIZE, Linear, MeanBrightness, attribute_model, images
from tests.black_box.test_student import QUICK, black_box, service
from tests.black_box.test_torchxrayvision_adapter import POINTS, LikeTorchXRayVision
from tests.black_box.test_transformers_adapter import PROCESSOR, vit


class Answers(torch.nn.Module):
    """Answers the same whatever it is asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer


def module(network, **options):
    return lambda: from_module(network, class_name="effusion", differentiable=False, **options)(images())


def function(answer, **options):
    return lambda: from_callable(answer, "effusion", **options)(images())


def student(given, fn=lambda x: np.clip(0.5 + x.mean((1, 2, 3)), 0, 1), **options):
    return lambda: distil(black_box(fn), given, **{**QUICK, "held_out": 0.4, **options})


def answered(*values):
    return lambda: check_posterior(torch.tensor(values), 2, "My classifier")


XRV, NAMES = LikeTorchXRayVision, ["Effusion", "", "Pleural_Thickening", "No Finding"]
CASES = [
    # answers
    (answered(0.2, -3.5), r"-3.5 to image 1 of 2.*looks like logits.*activation='sigmoid'"),
    (answered(0.2, 1.01), "looks like logits"),
    (answered(80.0, 12.0), "divide percentages by 100"),
    (answered(0.2, math.nan), "nan to image 1 of 2.*diverged"),
    (answered(math.inf, 0.5), "inf to image 0"),
    (answered(0.2), r"must answer with one posterior each, \(2,\), got the shape \(1,\)"),
    (answered([0.2], [0.2]), r"shape \(2, 1\).*drop a last axis"),
    (lambda: check_posterior([0.1, 0.2], 2), "must answer with a tensor"),
    (lambda: check_not_constant(torch.full((4,), 0.7)), "answers 0.7 to all of 4 images.*class index"),
    (lambda: check_repeated(torch.tensor([0.2, 0.7]), torch.tensor([0.2, 0.4]), "My classifier"),
     "My classifier answers 0.7 and, asked again.*, 0.4 to the same"),
    (module(Linear(scale=2), activation=None), "no probability.*looks like logits: pass activation='sigmoid'"),
    (module(Linear(classes=3)), "answers for 3 classes: say which by index=0 to 2"),
    (module(Linear(classes=3), index=3), "no class of index 3: it answers for 3, 0 to 2"),
    (module(Linear(), activation="softmax"), "softmax is always 1"),
    (module(Answers(torch.zeros(5))), r"asked about 6 images.*shape \(5,\)"),
    (module(Answers(torch.zeros(6, 2, 3)), index=0), r"shape \(6, 2, 3\)"),
    (module(Answers((torch.zeros(6),))), "answers with tuple"),
    (module(Answers(None)), "answers with NoneType"),
    (function(lambda x: 0.5), r"shape \(\)"),
    (function(lambda x: ["effusion"] * len(x)), "answers with list, which is no array of numbers"),
    (function(lambda x: None), "nan|no array of numbers|shape"),
    (function(lambda x: [{"score": 0.3}] * len(x)), "no array of numbers"),
    # images
    (lambda: check_images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)), "floating point.*torch.uint8"),
    (lambda: check_images([[0.0]]), "got <class 'list'>"),
    (lambda: check_images(torch.zeros(2, 3, 8, 8)), r"grey images.*\(2, 3, 8, 8\)"),
    (lambda: check_images(torch.zeros(0, 1, 8, 8)), "at least 1"),
    (lambda: check_images(torch.full((1, 1, 8, 8), 255.0)), "255 to 255.*CXRImageProcessor"),
    (lambda: check_images(torch.full((1, 1, 8, 8), math.nan)), "got NaN"),
    # names
    (lambda: find_name("Efusion", NAMES, "label"), "Unknown label 'Efusion'.*'Effusion', 'Pleural_Thickening'.*mean 'Effusion'"),
    (lambda: find_name("", NAMES, "label"), "Unknown"),
    (lambda: find_name("a", ["A", "A "], "label"), r"occurs 2 times \(positions \[0, 1\]\)"),
    (lambda: find_name("x", [f"class {i}" for i in range(1000)], "label"), r"'class 29', \.\.\."),
    (lambda: from_transformers(vit(), "Edema", PROCESSOR), "Unknown label 'Edema'.*'No Finding', 'Pleural Effusion'"),
    *((lambda i=i: from_transformers(vit(), i, PROCESSOR), "the model has 3, 0 to 2") for i in (3, -1, True)),
    (lambda: as_image_classifier(vit(), None, processor=PROCESSOR), "class_name= one of 'No Finding', 'Pleural Effusion'"),
    (lambda: as_image_classifier(XRV()), "class_name= one of 'Effusion', 'Pleural_Thickening', 'Edema'"),
    (lambda: from_torchxrayvision(XRV(), "Mass"), "Unknown pathology 'Mass'; .* 'Effusion', 'Pleural_Thickening', 'Edema'"),
    (lambda: from_attribute_classifier(attribute_model(), "race"), "Unknown attribute 'race'; .* 'age', 'finding', 'site'"),
    (lambda: from_attribute_classifier(attribute_model(), "age"), "continuous"),
    (lambda: from_attribute_classifier(attribute_model(), "site"), "give value= one of A, B, C"),
    (lambda: from_attribute_classifier(attribute_model(), "site", "D"), "Unknown value of 'site' 'D'.*'A', 'B', 'C'"),
    *((lambda n=n: as_image_classifier(attribute_model(), n), "finding=effusion") for n in (None, "oedema", "age")),
    (lambda: as_image_classifier(lambda x: x), "class_name="),
    (lambda: as_image_classifier(MeanBrightness(), "oedema"), "posterior of 'bright', not of 'oedema'"),
    # classifiers and settings
    (lambda: as_image_classifier(MeanBrightness(), threshold=0.4), "no further options, got threshold"),
    (lambda: as_image_classifier(3, "x"), "int cannot be asked about images"),
    (lambda: as_image_classifier(None), "NoneType cannot be asked"),
    (lambda: as_image_classifier(Linear(), "x", processor=3), "adapter of Linear has no such option.*'processor'"),
    (module(Linear(), index=-1), "index=-1 must be a whole number"),
    (module(Linear(), index=1.0), "index=1.0"),
    (module(Linear(), activation="relu"), "activation='relu' is unknown"),
    (module(lambda x: x), "torch.nn.Module.*from_callable"),
    (function(3), "needs a function, got <class 'int'>"),
    (lambda: from_transformers(vit(), 1), "processor=AutoImageProcessor"),
    (lambda: from_transformers(AutoModel.from_config(vit().config), 1, PROCESSOR), "ViTModel has no classification head"),
    (lambda: from_transformers(torch.nn.Linear(1, 1), 1, PROCESSOR), "Linear is no transformers model"),
    (lambda: from_torchxrayvision(XRV(), "Edema"), "'Edema' has no operating point.*They know Effusion, Pleural_Thickening"),
    (lambda: from_torchxrayvision(XRV(apply_sigmoid=True), "Effusion"), "sigmoid twice"),
    (lambda: from_torchxrayvision(XRV(POINTS[:3]), "Effusion"), "3 operating points for 4 pathologies"),
    (lambda: from_torchxrayvision(Linear(), "Effusion"), "no list of pathologies"),
    (lambda: as_preprocessing(ViTImageProcessorPil(resample=5)), "filter 5"),
    (lambda: as_preprocessing(ViTImageProcessorPil(size={"longest_edge": 64})), "longest_edge"),
    (lambda: as_preprocessing(3), "Cannot read a preprocessing from"),
    (lambda: as_preprocessing({"size": (0, 8)}), r"size must be \(height, width\)"),
    (lambda: as_preprocessing({"channels": 0}), "channels"),
    (lambda: as_preprocessing({"interpolation": "lanczos"}), "bilinear, bicubic, nearest"),
    (lambda: as_preprocessing({"value_range": (1, -1)}), "from black up to white"),
    (lambda: as_preprocessing({"mean": [0.5, 0.5]}), "mean has 2 values for 3 channels"),
    (lambda: as_preprocessing({"std": 0}), "std must be positive"),
    # students
    (student([]), "no images to ask"),
    (student(images(3)), "3 images are too few"),
    (student([images(2)[0], images(2, size=32)[0]]), "one size"),
    (student(["file.png"]), "processor=CXRImageProcessor"),
    (student([torch.zeros(3, 8, 8)]), "grey images"),
    (student(torch.zeros(20, 1, SIZE, SIZE)), "constant has no explanation"),
    (student(images(40)[..., 1:]), "square images, got 16x15"),
    (student(images(20), held_out=1.0), "held_out=1.0"),
    (student(images(20), epochs=0), "epochs=0"),
    (student(images(20), batch_size=0), "batch_size=0"),
    (lambda: distil(service, images(20)), "as_image_classifier"),
]  # fmt: skip


@pytest.mark.parametrize("call, message", CASES, ids=[message for _, message in CASES])
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(BlackBoxError, match=message):
        call()
