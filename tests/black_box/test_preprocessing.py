import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from cf_cxr import CXRImageProcessor
from cf_cxr.black_box import BlackBoxError, RadiographPreprocessing, as_preprocessing, probe_images
from tests.black_box.helpers import images
from tests.optional_libraries import import_optional

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def pictures(x):
    """RGB pictures of images that are 8-bit exact."""
    array = ((x[:, 0].double() + 1) * 127.5).round().to(torch.uint8).numpy()
    return [Image.fromarray(a).convert("RGB") for a in array]


PROCESSORS = {
    "ViT": ViTImageProcessorPil(size={"height": 32, "width": 32}),
    "ViT, up": ViTImageProcessorPil(size={"height": 96, "width": 80}),
    "ViT, imagenet": ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD),
    "ViT, not normalised": ViTImageProcessorPil(size={"height": 32, "width": 32}, do_normalize=False),
    "ViT, not resized": ViTImageProcessorPil(do_resize=False),
    "ViT, not rescaled": ViTImageProcessorPil(
        do_resize=False, do_rescale=False, image_mean=MEAN, image_std=[60] * 3
    ),
    "BiT, bicubic": BitImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
    "BiT, crop beyond the image": BitImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 37, "width": 40}, do_normalize=False
    ),
    "BiT, odd crop": BitImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 33, "width": 31}),
    "ConvNeXT, cropped": ConvNextImageProcessorPil(size={"shortest_edge": 28}),
    "ConvNeXT, full": ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "EfficientNet, offset": EfficientNetImageProcessorPil(
        size={"height": 48, "width": 48}, rescale_factor=1 / 127.5, rescale_offset=True, include_top=False
    ),
    "EfficientNet, normalised twice": EfficientNetImageProcessorPil(
        size={"height": 48, "width": 48}, image_mean=MEAN, image_std=STD
    ),
    "EfficientNet, only the second time": EfficientNetImageProcessorPil(
        size={"height": 48, "width": 48}, do_normalize=False
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("shape", ["square", "oblong"])
def test_agrees_with_the_processor_up_to_8_bit_rounding(name, shape):
    processor, x = PROCESSORS[name], probe_images(64)[[0, 7]]
    x = x if shape == "square" else x[..., 4:54, :]
    expected = processor(pictures(x), return_tensors="pt")["pixel_values"]
    got = as_preprocessing(processor)(x)
    assert got.shape == expected.shape
    unit = (2 / 255) / min(processor.image_std) ** (2 if getattr(processor, "include_top", False) else 1)
    if not processor.do_rescale:
        unit *= 255
    difference = (got - expected).abs()
    assert difference.max() < 2 * unit and difference.mean() < unit / 3


def test_values_by_hand():
    x = torch.tensor([[[[-1.0, 1.0], [0.0, 0.5]]]])
    got = RadiographPreprocessing(channels=3, mean=MEAN, std=STD)(x)
    for channel in range(3):
        expected = (torch.tensor([[0.0, 1.0], [0.5, 0.75]]) - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(got[0, channel], expected)
    got = RadiographPreprocessing(channels=1, value_range=(-1024, 1024))(x)
    assert got.flatten().tolist() == [-1024, 1024, 0, 512]
    halved = RadiographPreprocessing(size=(1, 1), channels=1, value_range=(-1, 1))(x)
    assert float(halved) == pytest.approx(0.125)  # antialiased: the mean of all four


def test_is_linear_in_the_image_and_its_gradient_is_exact():
    for interpolation in ("bilinear", "bicubic", "nearest"):
        transform = RadiographPreprocessing(
            (7, 9), channels=3, mean=MEAN, std=STD, interpolation=interpolation
        )
        x = images(2, 12, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(transform, x)


def test_down_sampling_is_antialiased():
    stripes = torch.tensor([-1.0, 1.0]).repeat(32)[None, None, None].expand(1, 1, 64, 64)
    out = RadiographPreprocessing((16, 16), channels=1, value_range=(-1, 1))(stripes)
    assert out.abs().max() < 0.2  # sampled without a filter it would be +-1 or an alias


def test_none_leaves_images_alone():
    x = images()
    assert torch.equal(as_preprocessing(None)(x), x)


def test_the_packages_own_processor_and_functions_and_mappings():
    assert as_preprocessing(CXRImageProcessor(size=32), channels=1)(images()).shape == (6, 1, 32, 32)
    function = torch.nn.Identity()
    assert as_preprocessing(function) is function
    own = RadiographPreprocessing(size=8)
    assert as_preprocessing(own) is own
    settings = as_preprocessing({"size": [8, 8], "value_range": (0, 255)}).to_dict()
    assert settings["size"] == [8, 8] and settings["value_range"] == [0, 255] and settings["channels"] == 3
    assert RadiographPreprocessing(**settings).to_dict() == settings


class Preset:
    """The attributes of `torchvision.transforms._presets.ImageClassification`, and what it does, by transformers."""

    resize_size, crop_size, mean, std = [40], [32], MEAN, STD
    interpolation = SimpleNamespace(value="bilinear")
    same = BitImageProcessorPil(
        size={"shortest_edge": 40},
        crop_size={"height": 32, "width": 32},
        image_mean=MEAN,
        image_std=STD,
        resample=2,
    )

    def __call__(self, x):
        array = [(255 * image).round().to(torch.uint8).numpy() for image in x]
        return self.same(array, return_tensors="pt")["pixel_values"]


def test_a_torchvision_preset():
    x = probe_images(64)
    torch.testing.assert_close(as_preprocessing(Preset())(x), as_preprocessing(Preset.same)(x))


def test_a_real_torchvision_preset_with_gradients():
    presets = import_optional("torchvision.transforms._presets")
    preset, x = presets.ImageClassification(crop_size=32, resize_size=40), probe_images(64)
    expected = preset(((x + 1) / 2).expand(-1, 3, -1, -1))
    torch.testing.assert_close(as_preprocessing(preset)(x), expected, atol=1e-5, rtol=1e-5)


def test_timm_settings():
    settings = {"input_size": (3, 32, 32), "crop_pct": 0.875, "mean": MEAN, "std": STD}
    settings["interpolation"] = "bicubic"
    got = as_preprocessing(settings).to_dict()
    assert got["size"] == math.floor(32 / 0.875) == 36 and got["crop"] == [32, 32]
    assert got["mean"] == MEAN and got["interpolation"] == "bicubic" and got["channels"] == 3
    assert as_preprocessing(SimpleNamespace(data_config=settings)).to_dict() == got
    grey = as_preprocessing({**settings, "input_size": (1, 32, 32)}).to_dict()
    assert grey["channels"] == 1 and grey["mean"] == pytest.approx([np.mean(MEAN)])
    assert as_preprocessing({**settings, "crop_mode": "squash"}).to_dict()["size"] == [36, 36]
    with pytest.raises(BlackBoxError, match="crop_mode='border'"):
        as_preprocessing({**settings, "crop_mode": "border"})


def test_a_lanczos_filter_is_replaced_with_a_warning():
    with pytest.warns(UserWarning, match="Lanczos.*bicubic"):
        assert as_preprocessing(ViTImageProcessorPil(resample=1)).interpolation == "bicubic"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_preprocessing(ViTImageProcessorPil())


def test_a_step_that_the_settings_do_not_tell_is_found():
    class Mirrored(ViTImageProcessorPil):
        def preprocess(self, images, *args, **kwargs):
            return super().preprocess([picture.transpose(0) for picture in images], *args, **kwargs)

    class Shrunk(Preset):
        def __call__(self, x):
            return super().__call__(x)[..., 1:]

    with pytest.raises(BlackBoxError, match=r"Mirrored does something.*differ by 0\.\d+ standard"):
        as_preprocessing(Mirrored())
    with pytest.raises(BlackBoxError, match=r"Shrunk makes tensors \(2, 3, 32, 31\)"):
        as_preprocessing(Shrunk())


def test_a_step_that_is_not_known_is_named():
    class Padding(ViTImageProcessorPil):
        def to_dict(self):
            return {**super().to_dict(), "do_pad": True}

    with pytest.raises(BlackBoxError, match="Padding applies do_pad"):
        as_preprocessing(Padding())
