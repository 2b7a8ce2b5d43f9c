import pytest
import torch
from PIL import Image
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from cf_cxr.black_box import BlackBoxError, RadiographPreprocessing, from_transformers, load_image_classifier
from tests.black_box.helpers import images

LABELS = {0: "No Finding", 1: "Pleural Effusion", 2: "Cardiomegaly"}
PROCESSOR = ViTImageProcessorPil(size={"height": 32, "width": 32})


def vit(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    sizes["initializer_range"] = 0.3
    options = {"id2label": LABELS, "image_size": 32, "patch_size": 8, **sizes, **options}
    model = ViTForImageClassification(ViTConfig(**options)).eval()
    return _livelier(model)


def resnet(**options):
    torch.manual_seed(0)
    options = {"id2label": LABELS, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], **options}
    return _livelier(ResNetForImageClassification(ResNetConfig(layer_type="basic", **options)).eval())


def _livelier(model):
    """A head with large weights, so that posteriors are spread."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("classifier") and weight.ndim == 2:
                weight.normal_(0, 0.5)
    return model


def pictures(x):
    array = ((x[:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
    return [Image.fromarray(a) for a in array]


def scores(answers, label):
    """Of one label, in a pipeline's answers."""
    return torch.tensor([next(a["score"] for a in row if a["label"] == label) for row in answers])


@pytest.mark.parametrize("make", [vit, resnet])
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", None])
def test_agrees_with_the_pipeline_on_pictures(make, problem):
    model, x = make(problem_type=problem), images(4, 48)
    asked = pipeline("image-classification", model=model, image_processor=PROCESSOR)
    answers = asked(pictures(x), top_k=3)
    for label in LABELS.values():
        expected = scores(answers, label)
        for given in ((asked, label), (model, label.upper(), PROCESSOR)):
            classifier = from_transformers(*given)
            error = (classifier.posterior(x) - expected).abs().max()
            assert error < 0.2 * expected.std() and error < 0.02  # pictures are rounded to 8 bits
            assert classifier.class_name == label


def test_a_single_output_is_a_sigmoid_and_a_regression_nothing():
    single = vit(id2label={0: "effusion"})
    with torch.no_grad():
        logit = single(RadiographPreprocessing((32, 32), mean=0.5, std=0.5)(images(4))).logits[:, 0]
    torch.testing.assert_close(from_transformers(single, 0, PROCESSOR).posterior(images(4)), logit.sigmoid())
    regression = vit(id2label={0: "effusion"}, problem_type="regression")
    with pytest.raises(BlackBoxError, match="looks like logits"):
        from_transformers(regression, 0, PROCESSOR)(images(4))


def test_the_pipelines_own_function_is_respected():
    options = {"image_processor": PROCESSOR, "function_to_apply": "sigmoid"}
    asked, x = pipeline("image-classification", model=vit(), **options), images(4, 32)
    expected = scores(asked(pictures(x)), LABELS[1])
    torch.testing.assert_close(from_transformers(asked, 1).posterior(x), expected, atol=5e-3, rtol=0)


def test_a_grey_model_gets_one_channel():
    grey, plain = vit(num_channels=1), ViTImageProcessorPil(do_resize=False, do_normalize=False)
    assert from_transformers(grey, 1, plain)(images(2, 32)).shape == (2,)
    with pytest.raises(BlackBoxError, match="3 values for 1 channels"):
        from_transformers(grey, 1, PROCESSOR)


def test_half_precision():
    model = vit()
    expected = from_transformers(model, 1, PROCESSOR).posterior(images(4))
    answer = from_transformers(model.bfloat16(), 1, PROCESSOR).posterior(images(4))
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, expected, atol=0.05, rtol=0)


def test_fingerprint_survives_saving_and_sees_processor_and_configuration(tmp_path):
    model = vit()
    first = from_transformers(model, 1, PROCESSOR).fingerprint()
    model.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    loaded = load_image_classifier(tmp_path, "pleural effusion")
    assert loaded.fingerprint() == first
    assert torch.equal(loaded(images(2)), from_transformers(model, 1, PROCESSOR)(images(2)))
    other = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.4] * 3)
    assert from_transformers(model, 1, other).fingerprint() != first
    assert from_transformers(model, 2, PROCESSOR, class_name=LABELS[1]).fingerprint() != first
    model.config.hidden_act = "relu"
    assert from_transformers(model, 1, PROCESSOR).fingerprint() != first
