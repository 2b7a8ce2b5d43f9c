"""Training of the progressive explainer against a frozen black box (paper B, section 3).

B = Singla et al., "Explaining the black-box smoothly: a counterfactual approach", Medical Image Analysis 84, 2023.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, WeightedRandomSampler
from transformers import get_scheduler
from transformers.trainer_utils import TrainOutput

from ...black_box import ImageClassifier, StudentClassifier
from ...images.grey_levels import image_grid
from ...metrics.exaggeration import exaggeration_curve
from ...metrics.validity import decision_flipped
from ...models.progressive_explainer import ExplainerDiscriminator, ProgressiveExplainerModel
from ...models.progressive_explainer.conditional_norm import ConditionalNorm2d
from ..augmentation import CXRAugmentation
from ..loop.trainer import CXRTrainer
from .arguments import ExplainerConfig
from .caches import QUESTION_IMAGES, ExplainerBatches
from .losses import context_aware_reconstruction, discriminator_hinge_loss, posterior_kl

CONDITION_LR_SCALE = 3.0  # of the rows per bin, which start alike for all bins and have the longest way to go
AUGMENTED_SHARE = 0.8  # of the steps: what augmentation scatters is right on average, not as it is
SAMPLE_IMAGES = 8
_DISCRIMINATOR = 1 << 22  # keys of its noise, apart from the generator's


class _Learner(nn.Module):
    """A network whose forward is its loss, so that DistributedDataParallel sees one pass per gradient."""

    def __init__(self, network: nn.Module, loss: Callable) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(batch)


class ExplainerTrainer(CXRTrainer):
    """Alternates `discriminator_steps` steps of the discriminator, each on images of its own, and one of the generator.

    Per generator step with targets t drawn uniformly from the bins: E(x) is computed once and decoded for t and for
    the image's own bin; the explanation is encoded (embedding distance) and decoded back (cycle). The classifier is
    asked about the explanation and the cycle. Its answers to the images themselves come with the batches, in which
    every bin of the posterior is equally frequent.

    Two optimisers are more than Trainer's loop knows: in its place is one on Accelerate, with the callbacks, records and
    checkpoints of the other stages.

    Args (besides `CXRTrainer`'s):
        model: the generator.
        train_dataset, eval_dataset: `ExplainerBatches`; the latter may be None.
        classifier: what is explained, differentiable: the black box or its student. Never changed.
        discriminator: of the generator's size and bins; not needed where there are no steps for it.
        prior: changes of images to a length, for `mahalanobis_weight`; see `MahalanobisPrior`.
        black_box: the original of a student, which is asked too at evaluations.

    Raises:
        ValueError: for a classifier without gradient, fp16, a discriminator of other images or bins, `lungs_only`
            without lungs, or too few images for a step.
    """

    records_usual_films = True

    def __init__(
        self,
        model: ProgressiveExplainerModel,
        args: ExplainerConfig,
        train_dataset: ExplainerBatches,
        eval_dataset: ExplainerBatches | None = None,
        *,
        classifier: ImageClassifier,
        discriminator: ExplainerDiscriminator | None = None,
        prior: nn.Module | None = None,
        black_box: ImageClassifier | None = None,
        **kwargs: Any,
    ) -> None:
        discriminator = discriminator if args.discriminator_steps else None
        _check(args, model, classifier, discriminator, train_dataset.labels)
        super().__init__(model, args, train_dataset, eval_dataset, **kwargs)
        self.classifier = classifier.to(args.device)
        self.black_box = None if black_box is classifier else black_box
        self.prior = prior.to(args.device) if prior is not None and args.mahalanobis_weight else None
        self.augment, self.bins = CXRAugmentation(args.augmentation), model.bins
        self.labels = list(train_dataset.labels)
        # a step's images are those of all its discriminator steps; the generator takes the last part of them
        self.slices = args.discriminator_steps or 1
        self.step_images *= self.slices
        self.largest_norm = args.max_grad_norm or math.inf
        self.max_steps = args.max_steps
        if self.max_steps <= 0:
            self.max_steps = math.ceil(args.num_train_epochs * self.steps_per_epoch)
        self.learner = _Learner(model, self.generator_loss)
        self.optimizer, self.lr_scheduler = self._adam(model)
        self.register("explained", self)
        self.discriminator = discriminator
        if discriminator is not None:
            layout = torch.channels_last if args.channels_last else torch.contiguous_format
            discriminator.to(args.device, memory_format=layout).train()
            self.critic = _Learner(discriminator, self.discriminator_loss)
            self.critic_optimizer, self.critic_scheduler = self._adam(discriminator)
            self.register("discriminator", discriminator)
            self.register("discriminator_optimizer", self.critic_optimizer)
            self.register("discriminator_scheduler", self.critic_scheduler)

    def _adam(self, network: nn.Module) -> tuple[Any, Any]:
        """Its optimiser, with a learning rate of their own for rows per bin of conditional norms, and its schedule."""
        args = self.args
        norms = [m for m in network.modules() if isinstance(m, ConditionalNorm2d) and len(m.gamma) > 1]
        rows = {id(p): p for norm in norms for p in norm.parameters()}
        groups = [{"params": [p for p in network.parameters() if id(p) not in rows]}]
        if rows:
            groups.append({"params": list(rows.values()), "lr": args.learning_rate * CONDITION_LR_SCALE})
        kind, settings = self.get_optimizer_cls_and_kwargs(args)
        optimizer = kind(groups, **settings, weight_decay=args.weight_decay)
        warmup = args.get_warmup_steps(self.max_steps)
        return optimizer, get_scheduler(args.lr_scheduler_type, optimizer, warmup, self.max_steps)

    # ------------------------------------------------------------ the images

    def get_train_dataloader(self) -> DataLoader:
        """Images of the whole run, of every bin that has any equally often: a function of the seed."""
        bins = self.bins.index(self.train_dataset.posterior)
        weights = 1 / torch.bincount(bins)[bins]
        generator = torch.Generator().manual_seed(self.args.seed)
        return DataLoader(
            self.train_dataset,
            self.args.train_batch_size * self.slices,
            sampler=WeightedRandomSampler(weights, self.max_steps * self.step_images, generator=generator),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )

    def _slice(self, batch: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
        """The images of one discriminator step (the last ones are the generator's too)."""
        size = self.args.train_batch_size
        return self._prepare_inputs({k: v[index * size : (index + 1) * size] for k, v in batch.items()})

    # ------------------------------------------------------------ the losses

    def generator_loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's weighted loss; its unweighted terms, and the mean distance to the target centres.

        Args:
            batch: `"pixel_values"` `(B, 1, H, W)`, `"posterior"` `(B,)` and, where there are labels, `"masks"`.
        """
        args, pixels, posterior = self.args, batch["pixel_values"], batch["posterior"]
        own, targets = self.bins.index(posterior), self._draw_targets(pixels)
        embedding = self.model.encode(pixels)
        explained, repeated = self.model.decode(
            torch.cat([embedding, embedding]), torch.cat([targets, own]), torch.cat([pixels, pixels])
        ).chunk(2)
        back = self.model.encode(explained)
        cycle = self.model.decode(back, own, explained)
        shown = torch.cat([explained, cycle])
        if self.state.global_step < AUGMENTED_SHARE * self.max_steps:
            shown = self.augment(shown)
        reached, returned = self.classifier(shown).chunk(2)
        centres = self.bins.centre(targets)
        logs = {
            "kl_target": posterior_kl(centres, reached),
            "kl_cycle": posterior_kl(posterior, returned),
            "l1_self": self._reconstruction(batch, repeated),
            "l1_cycle": self._reconstruction(batch, cycle),
            "embedding_distance": nn.functional.mse_loss(embedding.float(), back.float()),
        }
        share = args.preservation_share(self.state.global_step)
        loss = args.classifier_weight * (logs["kl_target"] + logs["kl_cycle"])
        loss = loss + args.reconstruction_weight * (share * (logs["l1_self"] + logs["l1_cycle"]))
        loss = loss + args.embedding_weight * (share * logs["embedding_distance"])
        if self.prior is not None:
            logs["mahalanobis"] = self.prior(explained - pixels)
            loss = loss + args.mahalanobis_weight * logs["mahalanobis"]
        if self.discriminator is not None:
            with _frozen(self.discriminator):
                logs["adversarial"] = -self.discriminator(explained, targets).scores.float().mean()
            loss = loss + logs["adversarial"]
        logs["target_error"] = (reached - centres).abs().mean()
        logs["change"] = (explained - pixels).abs().mean() * 127.5
        logs["preservation_share"] = loss.new_tensor(share)
        return loss, logs

    def _reconstruction(self, batch: Mapping[str, Tensor], reconstruction: Tensor) -> Tensor:
        masks = batch["masks"] if self.labels else batch["pixel_values"][:, :0]
        if self.args.lungs_only:
            masks = masks[:, [self.labels.index("lungs")]]
        background = not self.args.lungs_only
        return context_aware_reconstruction(batch["pixel_values"], reconstruction, masks, background)

    def discriminator_loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Hinge loss of real images in their own bins and of their explanations in random ones.

        Both go through in one pass, so that the estimate of the singular values moves once. The generator is used
        without gradient, and its running statistics are as before afterwards.
        """
        pixels = batch["pixel_values"]
        targets = self._draw_targets(pixels)
        with torch.no_grad():
            kept = [buffer.clone() for buffer in self.model.buffers()]
            explained = self.model.decode(self.model.encode(pixels), targets, pixels)
            for buffer, before in zip(self.model.buffers(), kept, strict=True):
                buffer.copy_(before)
        bins = torch.cat([self.bins.index(batch["posterior"]), targets])
        real, fake = self.discriminator(torch.cat([pixels, explained]), bins).scores.chunk(2)
        return discriminator_hinge_loss(real, fake), {}

    def _draw_targets(self, pixels: Tensor) -> Tensor:
        return torch.randint(self.bins.num_bins, (len(pixels),)).to(pixels.device)

    # -------------------------------------------------------------- the loop

    def _inner_training_loop(self, batch_size, args, resume_from_checkpoint, trial, ignore_keys_for_eval):
        """In place of Trainer's: all steps of both networks, each with its own `Accelerator.prepare`."""
        epochs = math.ceil(self.max_steps / self.steps_per_epoch)
        self._init_training_state(self.max_steps, self.steps_per_epoch, epochs, resume_from_checkpoint, trial)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        learner, optimizer, loader = self.accelerator.prepare(
            self.learner, self.optimizer, self.get_train_dataloader()
        )
        if self.discriminator is not None:
            critic = self.accelerator.prepare(self.critic, self.critic_optimizer)
        state, handler = self.state, self.callback_handler
        self._globalstep_last_logged, self._total_loss_scalar = state.global_step, 0.0
        total, started = torch.zeros((), device=args.device), time.time()
        self.control = handler.on_train_begin(args, state, self.control)
        done = state.global_step * args.gradient_accumulation_steps
        batches = iter(self.accelerator.skip_first_batches(loader, done))
        self.model.train()
        while state.global_step < state.max_steps and not self.control.should_training_stop:
            images = [next(batches) for _ in range(args.gradient_accumulation_steps)]
            self.control = handler.on_step_begin(args, state, self.control)
            self.parts = self._train_discriminator(*critic, images) if self.discriminator is not None else {}
            bad = self.parts.pop("bad", 0.0)
            self.parts |= self._backward(learner, images, self.slices - 1)
            self.parts["bad"] = self.parts["bad"] + bad
            total += self.parts["loss"].nan_to_num(0.0, 0.0, 0.0)
            self.grad_norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.largest_norm)
            self.control = handler.on_pre_optimizer_step(args, state, self.control)
            optimizer.step()
            optimizer.zero_grad()
            self.lr_scheduler.step()
            state.global_step += 1
            state.epoch = state.global_step / self.steps_per_epoch
            self.control = handler.on_step_end(args, state, self.control)
            self._maybe_log_save_evaluate(total, self.grad_norm, learner, trial, state.epoch, None, started)
        self.control = handler.on_train_end(args, state, self.control)
        return TrainOutput(state.global_step, 0.0, {})

    def _backward(
        self, learner: nn.Module, batches: list[Mapping[str, Tensor]], index: int, *key: int
    ) -> dict[str, Tensor]:
        """Mean gradient over micro-batches and processes; the mean of what their losses log, with `loss` and `bad`."""
        parts: dict[str, Any] = {}
        for micro, batch in enumerate(batches):
            self.seed_noise(self.state.global_step, *key, micro, self.args.process_index)
            last = micro == len(batches) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(learner):
                loss, logs = learner(self._slice(batch, index))
                self.accelerator.backward(loss / len(batches))
            for name, value in {**logs, "loss": loss, "bad": ~loss.isfinite()}.items():
                parts[name] = parts.get(name, 0.0) + self._scalar(value) / len(batches)
        return parts

    def _train_discriminator(
        self, critic: nn.Module, optimizer: Any, batches: list[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """All of a step's discriminator updates, but for bad ones; what they log, and whether one was `bad`."""
        found = []
        for index in range(self.slices):
            parts = self._backward(critic, batches, index, _DISCRIMINATOR + index)
            norm = self.accelerator.clip_grad_norm_(self.discriminator.parameters(), self.largest_norm)
            bad = self.accelerator.reduce(parts["bad"]) + ~norm.isfinite()
            bad = bad + (norm > (self.args.skip_threshold or math.inf))
            if not bad:
                optimizer.step()
            optimizer.zero_grad()
            found.append(torch.stack([parts["loss"], norm, (bad > 0).float()]))
        self.critic_scheduler.step()
        names = ("discriminator_loss", "discriminator_grad_norm", "bad")
        return dict(zip(names, torch.stack(found).mean(0), strict=True))

    def state_dict(self) -> dict[str, str]:
        """Whose posteriors the explainer learns, for a checkpoint."""
        return {"fingerprint": self.classifier.fingerprint()}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Raises ValueError for another classifier's checkpoint."""
        if state != (mine := self.state_dict()):
            raise ValueError(
                f"the run explained the classifier {state['fingerprint']}, this command gives {mine['fingerprint']}"
            )

    # ------------------------------------------------------ what came of it

    def finalize(self, folder: Path) -> None:
        """Keeps the student beside its explainer."""
        if isinstance(self.classifier, StudentClassifier) and self.args.should_save:
            self.classifier.save_pretrained(folder / "student")

    def evaluation_metrics(self) -> dict[str, float]:
        """Exaggeration and validity on the validation images, each explained for every bin.

        `slope`, `mae` and their values by source group (factual decision); `validity`, the share whose decision flips
        at the last bin beyond the boundary; `l1_self` and `l1_far` in grey levels, the change at the own bin and at
        that last bin; with a student, `mae_black_box` and `validity_black_box`: the original's answers to the
        same explanations.
        """
        rows = []
        for batch in self.eval_batches():
            pixels = batch["pixel_values"]
            with self.accelerator.autocast():
                series = self.model.series(pixels)  # (B, bins, 1, H, W)
            change = (series - pixels[:, None]).abs().mean((2, 3, 4)) * 127.5
            row = [change, batch["posterior"], _ask(self.classifier, series)]
            if self.black_box is not None:
                row += [self.black_box.posterior(pixels), _ask(self.black_box, series)]
            rows.append(row)
        joined = (self.gather_eval(torch.cat(column)).cpu() for column in zip(*rows, strict=True))
        change, source, reached, *original = joined
        metrics = self._curves(source, reached)
        for name, bins in (("l1_self", self.bins.index(source)), ("l1_far", self._far_bin(source))):
            metrics[name] = float(change.gather(1, bins[:, None]).mean())
        if original:
            found = self._curves(*original)
            metrics |= {f"{name}_black_box": found[name] for name in ("mae", "validity")}
        return metrics

    def _far_bin(self, source: Tensor) -> Tensor:
        """The last bin on the other side of the decision boundary."""
        return torch.where(source >= self.classifier.threshold, 0, self.bins.num_bins - 1)

    def _curves(self, source: Tensor, reached: Tensor) -> dict[str, float]:
        centres, threshold = self.bins.centres.expand(len(source), -1), self.classifier.threshold
        curves = exaggeration_curve(
            source, centres, reached, self.bins.num_bins, threshold=threshold, n_resamples=1
        )
        metrics = {}
        for group, curve in curves.items():
            if curve.images:
                suffix = "" if group == "all" else f"_{group}"
                metrics |= {f"slope{suffix}": float(curve.slope[0]), f"mae{suffix}": float(curve.mae[0])}
        far = reached.gather(1, self._far_bin(source)[:, None])[:, 0]
        return metrics | {"validity": float(decision_flipped(source, far, threshold=threshold).mean())}

    def sample_images(self) -> dict[str, np.ndarray]:
        """A row per image, of evenly spaced ranks of the posterior: the image, then its explanations for every bin."""
        source = self.eval_dataset if self.eval_dataset is not None else self.train_dataset
        ranks = torch.linspace(0, len(source) - 1, min(SAMPLE_IMAGES, len(source))).round().long()
        batch = source.__getitems__(source.posterior.argsort()[ranks].tolist())
        pixels = self._prepare_inputs(batch)["pixel_values"]
        with self.accelerator.autocast():
            rows = torch.cat([pixels[:, None], self.model.series(pixels)], dim=1)
        return {"explanations": image_grid(list(rows))}


def _check(
    args: Any, model: Any, classifier: ImageClassifier, discriminator: Any, labels: Sequence[str]
) -> None:
    if not classifier.differentiable:
        raise ValueError(
            f"The classifier of {classifier.class_name!r} has no gradient to train an explainer with: train a "
            "student of it (cf_cxr.black_box.distil), and give the original as black_box."
        )
    if args.mixed_precision == "fp16":
        raise ValueError(
            "The explainer's two optimisers do not scale losses for fp16: use --bf16 or neither."
        )
    if args.lungs_only and "lungs" not in labels:
        raise ValueError(f"--lungs_only needs masks with the label 'lungs', there are {list(labels)}.")
    for name in () if discriminator is None else ("image_size", "num_channels", "num_bins"):
        mine, other = getattr(model.config, name), getattr(discriminator.config, name)
        if mine != other:
            raise ValueError(f"{name} is {mine} in the generator, but {other} in the discriminator.")


def _ask(classifier: ImageClassifier, series: Tensor) -> Tensor:
    return classifier.posterior(series.flatten(0, 1), QUESTION_IMAGES).unflatten(0, series.shape[:2])


@contextlib.contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    network.requires_grad_(False)
    yield
    network.requires_grad_(True)
