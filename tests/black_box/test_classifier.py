import pytest
import torch
from torch import nn

from cf_cxr.black_box import BlackBoxError, ImageClassifier, from_module, probe_images
from tests.black_box.helpers import SIZE, Linear, MeanBrightness, images


def test_a_subclass_with_a_known_answer_and_gradient():
    classifier, x = MeanBrightness(), images().requires_grad_()
    posterior = classifier(x)
    torch.testing.assert_close(posterior, (x.detach().mean((1, 2, 3)) + 1) / 2)
    posterior.sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.5 / SIZE**2))


def test_a_module_in_training_mode_answers_in_evaluation_mode_and_is_put_back():
    module = Linear()
    classifier, x = from_module(module, class_name="x"), images()
    expected = classifier(x)
    module.train()
    module.noise[0].eval()  # a mixture must come back as it was
    modes = [m.training for m in module.modules()]
    statistics = module.noise[0].running_mean.clone()
    assert torch.equal(classifier(x), expected) and torch.equal(classifier.posterior(x), expected)
    assert [m.training for m in module.modules()] == modes and any(modes) and not all(modes)
    assert torch.equal(module.noise[0].running_mean, statistics)
    assert classifier.train() is classifier and classifier.eval() is classifier and not classifier.training
    assert [m.training for m in module.modules()] == modes


def test_modes_come_back_after_an_error_too():
    class Broken(Linear):
        def forward(self, x):
            raise RuntimeError("out of memory")

    module = Broken().train()
    with pytest.raises(RuntimeError, match="out of memory"):
        from_module(module, class_name="x")(images())
    assert module.training and all(p.requires_grad for p in module.parameters())


def test_a_cut_gradient_is_found():
    class Cut(Linear):
        def forward(self, x):
            return super().forward(x.detach())

    classifier, x = from_module(Cut(), class_name="x"), images().requires_grad_()
    with pytest.raises(BlackBoxError, match="posterior has no gradient.*differentiable=False"):
        classifier(x)
    assert classifier.posterior(x).shape == (6,)
    honest = from_module(Cut(), class_name="x", differentiable=False)
    assert not honest(x).requires_grad and not honest.differentiable


def test_validate_finds_constants_and_dead_gradients():
    good = from_module(Linear(), class_name="x")
    assert torch.equal(good.validate(images()), good.posterior(images()))
    flat = Linear()
    nn.init.zeros_(flat.layer.weight)
    with pytest.raises(BlackBoxError, match="to all of 6 images: a constant"):
        from_module(flat, class_name="x").validate(images())

    class Steps(Linear):
        def forward(self, x):
            return super().forward(x).sign() + 0 * x.sum()

    with pytest.raises(BlackBoxError, match="gradient that is zero"):
        from_module(Steps(), class_name="x").validate(images())

    class Infinite(Linear):
        def forward(self, x):
            return super().forward(x) + 0 * (x - x.detach()).abs().sqrt().sum()

    with pytest.raises(BlackBoxError, match="gradient that is NaN"):
        from_module(Infinite(), class_name="x").validate(images())


def test_validate_finds_chance_and_answers_that_depend_on_batch_mates():
    class Dropout(Linear):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, 0.5))  # always on

    class BatchNorm(Linear):
        def forward(self, x):
            return super().forward((x - x.mean()) / x.std())  # of the batch

    for network in (Dropout(), BatchNorm()):
        with pytest.raises(BlackBoxError, match="asked again with other images.*evaluation mode"):
            from_module(network, class_name="x").validate(images())


def test_a_constant_is_told_from_a_classifier_that_is_certain():
    class Step(ImageClassifier):
        def compute_posterior(self, pixel_values):
            return (pixel_values.mean((1, 2, 3)) > 0.9).float()

    certain = Step("white", differentiable=False)
    certain.refuse_constant(certain(images()), SIZE)
    flat = Linear()
    nn.init.zeros_(flat.layer.weight)
    flat = from_module(flat, class_name="x")
    with pytest.raises(BlackBoxError, match="to all of 11 images: a constant"):
        flat.refuse_constant(flat(images(1)), SIZE)


# --- fingerprints -----------------------------------------------------------------------------------------


def test_a_fingerprint_is_deterministic_and_leaves_nothing_changed():
    module = Linear(classes=3).train()
    classifier = from_module(module, index=1, class_name="x")
    first, again = classifier.fingerprint(), Linear(classes=3)
    assert module.training
    classifier(images())
    assert classifier.fingerprint() == first
    compiled = nn.Module()
    compiled._orig_mod = again  # as torch.compile wraps a module
    assert from_module(compiled, index=1, class_name="x").fingerprint() == first
    again.layer.weight.data = again.layer.weight.data.T.contiguous().T  # another layout, the same numbers
    assert from_module(again, index=1, class_name="x").fingerprint() == first


def test_a_fingerprint_is_this_one_on_every_machine():
    """A known answer: weights of whole numbers, so that no rounding enters."""
    module = Linear(size=8)
    with torch.no_grad():
        module.layer.weight.copy_(torch.arange(64.0)[None])
        module.layer.bias.zero_()
    expected = "sha256:16b5f02f3ab580c9b1d220c78cc7525f6bcdce8110d2d95d30ad201fd3924628"
    assert from_module(module, class_name="x").fingerprint() == expected


def _one_weight(module, options):
    with torch.no_grad():
        module.layer.weight[1, 7] += 1e-6


def _buffer(module, options):
    module.noise[0].running_var += 1


class Other(Linear):
    pass


CHANGES = {
    "one weight": _one_weight,
    "a buffer": _buffer,
    "class index": lambda m, o: o.update(index=2),
    "class name": lambda m, o: o.update(class_name="y"),
    "class": lambda m, o: setattr(m, "__class__", Other),
    "precision": lambda m, o: m.double(),
    "activation": lambda m, o: o.update(activation="softmax"),
    "mean": lambda m, o: o.update(preprocess={"channels": 1, "value_range": (-1, 1), "mean": 0.01}),
    "preprocessing function": lambda m, o: o.update(preprocess=lambda x: x * 0.99),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_changes_with(change):
    module, options = Linear(classes=3), {"index": 1, "class_name": "x"}
    before = from_module(module, **options).fingerprint()
    CHANGES[change](module, options)
    assert from_module(module, **options).fingerprint() != before


def test_preprocessing_functions_are_told_apart_by_what_they_do():
    def prints(function):
        return from_module(Linear(), preprocess=function, class_name="x").fingerprint()

    plain = prints(lambda x: x + 0)
    assert plain == prints(lambda x: x * 1)
    others = [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: -x, lambda x: x[..., 1:]]
    assert len({plain, *map(prints, others)}) == 5


def test_probe_images_are_eight_different_pictures_of_8_bits():
    for size in (12, 64):
        probes = probe_images(size)
        assert probes.shape == (8, 1, size, size) and probes.abs().max() <= 1
        levels = (probes.double() + 1) * 127.5
        assert (levels - levels.round()).abs().max() < 1e-4
        assert len({p.numpy().tobytes() for p in probes}) == 8
    with pytest.raises(ValueError, match="at least 12"):
        probe_images(8)
