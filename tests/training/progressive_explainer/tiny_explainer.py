"""A training of the explainer small enough for tests: 16x16 images whose posterior is their patch's brightness."""

import torch

from cf_cxr.black_box import ImageClassifier
from cf_cxr.models.progressive_explainer import (
    ExplainerDiscriminator,
    ExplainerDiscriminatorConfig,
    ProgressiveExplainerConfig,
    ProgressiveExplainerModel,
)
from cf_cxr.training.loop.old_arguments import TrainerArguments
from cf_cxr.training.loop.old_trainer import build_accelerator
from cf_cxr.training.progressive_explainer.arguments import ExplainerArguments
from cf_cxr.training.progressive_explainer.caches import ExplainerBatches
from cf_cxr.training.progressive_explainer.trainer import ExplainerTrainer
from tests.training.loop.tiny import OLD_LOOP as LOOP

SIZE = 16
LABELS = ("lungs", "devices")
EXPLAINER_LOOP = LOOP | {
    "adam_beta1": 0.0,
    "weight_decay": 0.0,
    "warmup_steps": 0,
    "lr_scheduler": "constant",
    "eval_steps": -1,
    "save_steps": 0,
    "skip_threshold": 0.0,
    "max_grad_norm": 0.0,
    "max_steps": 4,
}


class PatchClassifier(ImageClassifier):
    """sigmoid(slope * mean of the central 8x8 pixels); counts the images it is asked about."""

    def __init__(self, slope=4.0, differentiable=True):
        super().__init__("bright patch", differentiable=differentiable)
        self.slope = torch.nn.Parameter(torch.tensor(float(slope)))
        self.asked = 0

    def compute_posterior(self, pixel_values):
        self.asked += len(pixel_values)
        return torch.sigmoid(self.slope * pixel_values[:, 0, 4:12, 4:12].mean((1, 2)))


class PatchData:
    """`size` noisy images whose central patch has a brightness from -0.8 to 0.8; lungs are the patch, devices one
    bright row at the top."""

    def __init__(self, size=40, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.rand(size, 1, SIZE, SIZE, generator=generator) * 0.2 - 0.1
        level = torch.linspace(-0.8, 0.8, size)[torch.randperm(size, generator=generator)]
        self.images[:, :, 4:12, 4:12] += level[:, None, None, None]
        self.images[:, :, 1] = 0.7
        self.masks = torch.zeros(size, 2, SIZE, SIZE, dtype=torch.bool)
        self.masks[:, 0, 4:12, 4:12] = True
        self.masks[:, 1, 1] = True

    def __len__(self):
        return len(self.images)

    def __getitems__(self, indices):
        chosen = torch.as_tensor(list(indices))
        return {"pixel_values": self.images[chosen], "masks": self.masks[chosen]}


def explained(classifier, size=40, seed=0):
    data = PatchData(size, seed)
    return ExplainerBatches(data, classifier.posterior(data.images))


def tiny_generator(**settings):
    torch.manual_seed(0)
    settings = {"image_size": SIZE, "widths": [8, 16], "residual_output": True, **settings}
    return ProgressiveExplainerModel(ProgressiveExplainerConfig(**settings))


def tiny_explainer_trainer(
    output_dir, *, classifier=None, train=None, val=None, model=None, stage=None, **loop
):
    """Keywords of `ExplainerArguments` in `stage`; the rest are loop arguments."""
    classifier = classifier or PatchClassifier()
    model = model or tiny_generator()
    stage = {"segmenter": "none", "true_masks": True, "discriminator_steps": 2, **(stage or {})}
    extra = {
        name: stage.pop(name)
        for name in ("segmenter_object", "black_box", "natural_change_object")
        if name in stage
    }
    args = TrainerArguments(output_dir=str(output_dir), **(EXPLAINER_LOOP | loop))
    torch.manual_seed(1)
    discriminator = ExplainerDiscriminator(ExplainerDiscriminatorConfig.for_explainer(model.config))
    return ExplainerTrainer(
        model,
        args,
        train or explained(classifier),
        val or explained(classifier, 9, seed=1),
        accelerator=build_accelerator(args),
        classifier=classifier,
        discriminator=discriminator,
        stage_args=ExplainerArguments(**stage),
        segmenter=extra.get("segmenter_object"),
        mask_labels=LABELS,
        black_box=extra.get("black_box"),
        natural_change=extra.get("natural_change_object"),
    )


def predict(pixel_values):
    """A function without gradients, for `module:function`: brightness of the lower left of a radiograph."""
    part = pixel_values[:, 0, pixel_values.shape[2] // 2 :, : pixel_values.shape[3] // 2]
    return 1 / (1 + 2.718281828 ** (-6 * (part.mean((1, 2)) - OFFSET)))


OFFSET = 0.0


def make_classifier():
    """A factory, for `module:function`."""
    return PatchClassifier()
