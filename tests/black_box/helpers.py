"""Small classifiers with known answers, and images for them."""

import torch
from torch import nn

from cf_cxr.attributes import Attribute, AttributeSchema
from cf_cxr.black_box import ImageClassifier
from cf_cxr.models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel

SIZE = 16
SCHEMA = AttributeSchema(
    [
        Attribute("age", "continuous", minimum=0, maximum=100, unit="years"),
        Attribute("finding", "binary", ("healthy", "effusion")),
        Attribute("site", "categorical", ("A", "B", "C")),
    ]
)
TINY_BACKBONE = {"model_type": "bit", "embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]}
TINY_BACKBONE["num_groups"] = 4


def images(count=6, size=SIZE, seed=0, dtype=torch.float32):
    """Smooth images in [-0.9, 0.9]."""
    coarse = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    coarse = coarse * 1.8 - 0.9
    return nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


class Linear(nn.Module):
    """Logits `(N, classes)` = W vec(x) + b, with dropout and batch norm that matter in training mode only."""

    def __init__(self, classes=1, size=SIZE, channels=1, seed=0, scale=0.2):
        super().__init__()
        self.noise = nn.Sequential(nn.BatchNorm2d(channels, affine=False), nn.Dropout(0.5))
        self.layer = nn.Linear(channels * size * size, classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.layer.weight.normal_(0, scale, generator=generator)
            self.layer.bias.normal_(0, scale, generator=generator)

    def forward(self, x):
        return self.layer((self.noise(x) if self.training else x).flatten(1))

    def logits(self, x):
        """The closed form in float64."""
        weight, bias = (p.detach().double() for p in self.layer.parameters())
        return x.double().flatten(1) @ weight.T + bias


class MeanBrightness(ImageClassifier):
    """A subclass as a user would write it: f(x) = (1 + mean) / 2."""

    def __init__(self, **options):
        super().__init__("bright", **options)

    def compute_posterior(self, pixel_values):
        return (pixel_values.mean((1, 2, 3)) + 1) / 2


def attribute_model(seed=0, **options):
    """A tiny attribute classifier in evaluation mode whose weights are away from their initial values."""
    torch.manual_seed(seed)
    given = {"attributes": SCHEMA.to_list(), "temperature": {"finding": 1.7}, "image_size": SIZE}
    given["backbone_config"] = dict(TINY_BACKBONE)
    model = AttributeClassifierModel(AttributeClassifierConfig(**given | options))
    with torch.no_grad():
        for head in model.heads:
            head.weight.normal_(0, 1)
    return model.eval()


def assert_gradient(classifier, x, tolerance=0.03):
    """Autograd agrees with central differences along random directions (relative to the gradient's length)."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(x).sum(), x)
    assert gradient.any() and gradient.isfinite().all()
    step = min(0.001 / float(gradient.norm()), 0.3)  # a change of the posterior above float32's rounding
    for seed in range(3):
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        # mostly along the gradient, so that rounding does not hide the slope
        direction = direction / direction.norm() + gradient / gradient.norm()
        with torch.no_grad():
            rise = (classifier(x + step * direction) - classifier(x - step * direction)).double().sum()
        rise = rise / (2 * step)
        slope = (gradient * direction).sum()
        assert abs(rise - slope) <= tolerance * abs(slope), (float(rise), float(slope))
