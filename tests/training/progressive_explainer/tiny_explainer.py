"""A training of the explainer small enough for tests: 16x16 images whose posterior is their patch's brightness.

    python -m tests.training.progressive_explainer.tiny_explainer DIR

is the whole training of `RESUMED`, killed with SIGKILL right after its fourth step; with several processes two trainings
with the same noise in all of them, in DIR/generator and, with a discriminator, DIR/both.
"""

import os
import signal
import sys

import datasets
import torch

from cf_cxr.black_box import ImageClassifier
from cf_cxr.models.progressive_explainer import (
    ExplainerDiscriminator,
    ExplainerDiscriminatorConfig,
    ProgressiveExplainerConfig,
    ProgressiveExplainerModel,
)
from cf_cxr.training.progressive_explainer.arguments import ExplainerConfig
from cf_cxr.training.progressive_explainer.caches import ExplainerBatches
from cf_cxr.training.progressive_explainer.trainer import ExplainerTrainer

SIZE = 16
SETTINGS = {
    "seed": 3,
    "per_device_train_batch_size": 4,
    "max_steps": 4,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "sample_steps": 0,
    "ema_decay": 0.9,
    "segmenter": "own",
    "augmentation": "none",
    "discriminator_steps": 2,
    "classifier_weight": 1.0,
    "reconstruction_weight": 100.0,
    "embedding_weight": 100.0,
    "mahalanobis_weight": 0.0,
    "preservation_warmup_steps": 0,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
#: of runs that are interrupted
RESUMED = {"max_steps": 5, "save_steps": 2, "save_strategy": "steps", "gradient_accumulation_steps": 2}
RESUMED |= {"per_device_train_batch_size": 3}


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

    labels = ("lungs", "devices")

    def __init__(self, size=40, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.rand(size, 1, SIZE, SIZE, generator=generator) * 0.2 - 0.1
        level = torch.linspace(-0.8, 0.8, size)[torch.randperm(size, generator=generator)]
        self.images[:, :, 4:12, 4:12] += level[:, None, None, None]
        self.images[:, :, 1] = 0.7
        self.masks = torch.zeros(size, 2, SIZE, SIZE, dtype=torch.bool)
        self.masks[:, 0, 4:12, 4:12] = True
        self.masks[:, 1, 1] = True
        self.rows = datasets.Dataset.from_dict({"image": [f"{seed}:{i}" for i in range(size)]})

    def __len__(self):
        return len(self.images)

    def __getitems__(self, indices):
        chosen = torch.as_tensor(list(indices))
        return {"pixel_values": self.images[chosen], "masks": self.masks[chosen]}


def explained(classifier, size=40, seed=0, **parts):
    data = PatchData(size, seed)
    return ExplainerBatches(data, classifier.posterior(data.images), **parts)


def tiny_generator(**settings):
    torch.manual_seed(0)
    settings = {"image_size": SIZE, "widths": [8, 16], "residual_output": True, **settings}
    return ProgressiveExplainerModel(ProgressiveExplainerConfig(**settings))


def whole_generator(**settings):
    """One that decodes the image: a residual output starts at the identity, where many gradients are zero."""
    return tiny_generator(residual_output=False, **settings)


def tiny_explainer_trainer(
    output_dir, *, kind=ExplainerTrainer, classifier=None, train=None, model=None, prior=None, **settings
):
    """Further keywords are those of `ExplainerConfig`."""
    classifier, model = classifier or PatchClassifier(), model or tiny_generator()
    args = ExplainerConfig(output_dir=str(output_dir), **(SETTINGS | settings))
    torch.manual_seed(1)
    discriminator = ExplainerDiscriminator(ExplainerDiscriminatorConfig.for_explainer(model.config))
    parts = {"classifier": classifier, "discriminator": discriminator, "prior": prior}
    return kind(model, args, train or explained(classifier), explained(classifier, 9, seed=1), **parts)


class KilledTrainer(ExplainerTrainer):
    def after_step(self, logs):
        if self.state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)


class SameNoiseTrainer(ExplainerTrainer):
    def seed_noise(self, *key):
        super().seed_noise(key[0])


def predict(pixel_values):
    """A function without gradients, for `module:function`: brightness of the lower left of a radiograph."""
    part = pixel_values[:, 0, pixel_values.shape[2] // 2 :, : pixel_values.shape[3] // 2]
    return 1 / (1 + 2.718281828 ** (-6 * part.mean((1, 2))))


def make_classifier():
    """A factory, for `module:function`."""
    return PatchClassifier()


def same_noise_run(folder, discriminator_steps, **settings):
    settings |= {"max_steps": 3, "discriminator_steps": discriminator_steps}
    model = whole_generator(norm_type="group")
    tiny_explainer_trainer(folder, kind=SameNoiseTrainer, model=model, **settings).train()


def main(folder):
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        same_noise_run(f"{folder}/generator", 0)
        same_noise_run(f"{folder}/both", 2)
    else:
        tiny_explainer_trainer(folder, kind=KilledTrainer, model=whole_generator(), **RESUMED).train()


if __name__ == "__main__":
    main(*sys.argv[1:])
