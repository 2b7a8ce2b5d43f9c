from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cf_cxr.black_box import BlackBoxError, RadiographPreprocessing, as_image_classifier, from_module
from tests.black_box.helpers import SIZE, Linear, assert_gradient, images
from tests.optional_libraries import import_optional


def test_a_linear_classifier_has_its_closed_form_posterior_and_gradient():
    module, x = Linear(), images()
    classifier = from_module(module, class_name="effusion")
    expected = module.logits(x)[:, 0].sigmoid()
    torch.testing.assert_close(classifier.posterior(x).double(), expected, atol=1e-6, rtol=0)
    assert expected.std() > 0.05
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(x).sum(), x)
    slope = (expected * (1 - expected))[:, None] * module.layer.weight.detach().double()
    torch.testing.assert_close(gradient.flatten(1).double(), slope, atol=1e-6, rtol=1e-4)
    assert_gradient(classifier, images(2))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_activations_over_several_outputs(activation):
    module, x = Linear(classes=4), images()
    logits = module.logits(x)
    expected = logits.sigmoid() if activation == "sigmoid" else logits.softmax(1)
    for index in range(4):
        classifier = from_module(module, index=index, activation=activation)
        torch.testing.assert_close(classifier.posterior(x).double(), expected[:, index], atol=1e-6, rtol=0)
        assert classifier.class_name == f"output {index}"


def test_outputs_of_every_form():
    plain = Linear().eval()
    expected = from_module(plain, class_name="x")(images())
    forms = {
        "one axis": lambda x: plain(x)[:, 0],
        "a mapping": lambda x: {"logits": plain(x)},
        "an object": lambda x: SimpleNamespace(logits=plain(x)),
    }
    for form in forms.values():
        module = nn.Module()
        module.forward = form
        assert torch.equal(from_module(module, class_name="x")(images()), expected)
    probabilities = nn.Sequential(plain, nn.Sigmoid())
    assert torch.equal(from_module(probabilities, activation=None, class_name="x")(images()), expected)


def test_three_channels_at_the_networks_size():
    module = Linear(classes=2, size=8, channels=3)
    transform = RadiographPreprocessing((8, 8), mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4])
    classifier, x = from_module(module, transform, index=1, class_name="x"), images()
    expected = module.logits(transform(x))[:, 1].sigmoid()
    torch.testing.assert_close(classifier.posterior(x).double(), expected, atol=1e-5, rtol=0)
    assert_gradient(classifier, images(2))


def test_a_preprocessing_through_numpy_has_no_gradient_and_says_so():
    def through_numpy(x):
        return torch.from_numpy(x.detach().numpy() * 1)

    classifier = from_module(Linear(), through_numpy, class_name="x")
    with pytest.raises(BlackBoxError, match="no gradient.*differentiable=False"):
        classifier(images().requires_grad_())


def test_torchvision():
    models = import_optional("torchvision.models")
    torch.manual_seed(0)
    network = models.resnet18(weights=None, num_classes=5).train()
    preset = models.ResNet18_Weights.DEFAULT.transforms(crop_size=32, resize_size=36)
    classifier = as_image_classifier(network, "effusion", preprocess=preset, index=2, activation="softmax")
    x = images(3, 48)
    network.eval()
    with torch.no_grad():
        expected = network(preset(((x + 1) / 2).expand(-1, 3, -1, -1))).softmax(1)[:, 2]
    network.train()
    torch.testing.assert_close(classifier.posterior(x), expected, atol=1e-5, rtol=1e-4)
    assert network.training
    assert_gradient(classifier, x[:1], tolerance=0.05)


def test_timm():
    timm = import_optional("timm")
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=3, in_chans=1)
    settings = {**network.pretrained_cfg, "input_size": (1, 32, 32)}
    classifier = as_image_classifier(network, "effusion", preprocess=settings, index=0)
    assert classifier.validate(images(3, 48)).shape == (3,)
    assert classifier.preprocess.channels == 1 and SIZE < 32
