"""Training of the progressive explainer against a frozen black box (paper B, section 3).

B = Singla et al., "Explaining the black-box smoothly: a counterfactual approach", Medical Image Analysis 84, 2023.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast
from torch import Tensor
from torch.utils.data import DataLoader

from ...black_box import ImageClassifier
from ...images.grey_levels import image_grid
from ...metrics.exaggeration import exaggeration_curve
from ...metrics.validity import decision_flipped
from ...models.progressive_explainer import ExplainerDiscriminator
from ...models.progressive_explainer.conditional_norm import ConditionalNorm2d
from ..augmentation import CXRAugmentation
from ..loop.old_trainer import CXRTrainer
from ..loop.sampling import BalancedStepBatchSampler, StepBatchSampler, steps_per_epoch
from .adversary import Adversary
from .arguments import ExplainerArguments
from .losses import embedding_distance, generator_hinge_loss, posterior_kl, reconstruction_loss

_DISCRIMINATOR = 1 << 22  # keys of its noise, apart from the generator's


class ExplainerTrainer(CXRTrainer):
    """Alternates `discriminator_steps` steps of the discriminator, each on images of its own, and one of the generator.

    Per generator step with targets t drawn uniformly from the bins: E(x) is computed once and decoded for t and for
    the image's own bin; the explanation is encoded (embedding distance) and decoded back (cycle). The classifier is
    asked about the explanation and the cycle. Its answers to the images themselves come with the batches.

    Args (besides `CXRTrainer`'s):
        train_dataset, val_dataset: `ExplainerBatches`; with `"masks"` if there is no segmenter but labels.
        classifier: what is explained, differentiable: the black box or its student. Never changed.
        discriminator: of the generator's size and bins.
        stage_args: `ExplainerArguments`.
        segmenter: has `segment(pixel_values) -> {label: (B, H, W) bool}`; or None.
        mask_labels: names of the batches' masks, where they have any.
        black_box: the original of a student, which is asked too at evaluations.
        natural_change: images' changes to a length, for `natural_weight`; see `NaturalChange`.

    Raises:
        ValueError: for a classifier without gradient, fp16, a discriminator of other images or bins, or `lungs_only`
            without lungs.
    """

    def __init__(
        self,
        *args: Any,
        classifier: ImageClassifier,
        discriminator: ExplainerDiscriminator,
        stage_args: ExplainerArguments,
        segmenter: Any = None,
        mask_labels: Sequence[str] = (),
        black_box: ImageClassifier | None = None,
        natural_change: torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.stage_args, self.weights = stage_args, stage_args.loss_weights()
        self._check(classifier, discriminator)
        self.classifier = classifier.to(self.device)
        self.black_box = None if black_box is classifier else black_box
        self.segmenter, self.mask_labels = segmenter, list(mask_labels)
        self.natural_change = None if natural_change is None else natural_change.to(self.device)
        if isinstance(segmenter, torch.nn.Module):
            segmenter.to(self.device).eval().requires_grad_(False)
        self.augment = CXRAugmentation(stage_args.augmentation)
        self.bins = self.model.bins
        self.best_metric = "mae" if stage_args.keep == "best" else None
        self.adversary: Adversary | None = None
        if self.weights.adversarial > 0:
            self.adversary = self._make_adversary(discriminator)
            self.register_for_checkpointing("adversary", self.adversary)
        self.register_for_checkpointing("explained", _Identity(self.classifier))
        # A step's images are those of all its discriminator steps; the generator takes the last part of them.
        self.parts = stage_args.discriminator_steps if self.adversary is not None else 1
        self.step_images *= self.parts
        self.steps_per_epoch = steps_per_epoch(len(self.train_dataset), self.step_images)
        if self.args.max_steps <= 0:
            self.max_steps = math.ceil(self.args.num_epochs * self.steps_per_epoch)

    def _check(self, classifier: ImageClassifier, discriminator: ExplainerDiscriminator) -> None:
        if not classifier.differentiable:
            raise ValueError(
                f"The classifier of {classifier.class_name!r} has no gradient to train an explainer with: train a "
                "student of it (cf_cxr.black_box.distil), and give the original as black_box."
            )
        if self.accelerator.mixed_precision == "fp16":
            raise ValueError("The explainer's two optimisers do not scale losses for fp16: use bf16 or no.")
        for name in ("image_size", "num_channels", "num_bins"):
            mine, other = getattr(self.model.config, name), getattr(discriminator.config, name)
            if mine != other:
                raise ValueError(f"{name} is {mine} in the generator, but {other} in the discriminator.")

    def _make_adversary(self, discriminator: ExplainerDiscriminator) -> Adversary:
        discriminator = discriminator.to(self.device)
        if self.args.channels_last:
            discriminator.to(memory_format=torch.channels_last)
        if self.accelerator.num_processes > 1:
            with torch.no_grad():
                for tensor in [*discriminator.parameters(), *discriminator.buffers()]:
                    tensor.copy_(broadcast(tensor.detach().clone()))
        rate = self.stage_args.discriminator_learning_rate or self.args.learning_rate
        return Adversary(discriminator, self.args, rate)

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Adam with a learning rate of its own for the rows per bin."""
        optimizer = super().create_optimizer()
        scale = self.stage_args.condition_lr_scale
        if scale != 1:
            rows = {
                id(p)
                for module in self.model.modules()
                if isinstance(module, ConditionalNorm2d) and len(module.gamma) > 1
                for p in module.parameters()
            }
            (group,) = optimizer.param_groups
            conditional = [p for p in group["params"] if id(p) in rows]
            group["params"] = [p for p in group["params"] if id(p) not in rows]
            optimizer.add_param_group({"params": conditional, "lr": group["lr"] * scale})
        return optimizer

    # ------------------------------------------------------------ the images

    def _train_loader(self) -> DataLoader:
        settings = {
            "batch_size": self.args.per_device_batch_size * self.parts,
            "accumulation": self.args.gradient_accumulation_steps,
            "num_processes": self.accelerator.num_processes,
            "process_index": self.accelerator.process_index,
            "seed": self.args.seed,
            "start_step": self.global_step,
            "max_steps": self.max_steps,
        }
        if self.stage_args.balanced:
            bins = self.bins.index(self.train_dataset.posterior)
            sampler: StepBatchSampler = BalancedStepBatchSampler(bins, **settings)
        else:
            sampler = StepBatchSampler(len(self.train_dataset), **settings)
        return DataLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self.collate_fn,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _part(self, batch: Mapping[str, Any], index: int) -> dict[str, Tensor]:
        """The images of one discriminator step (the last ones are the generator's too)."""
        size = self.args.per_device_batch_size
        return {name: value[index * size : (index + 1) * size] for name, value in batch.items()}

    def _draw_targets(self, count: int) -> Tensor:
        return torch.randint(self.bins.num_bins, (count,)).to(self.device)

    def _masks(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, list[str]]:
        """Masks `(B, L, H, W)` and their labels; none of them without a segmenter and masks."""
        pixels = batch["pixel_values"]
        if self.segmenter is not None:
            found = self.segmenter.segment(pixels)
            return torch.stack(list(found.values()), dim=1), list(found)
        if self.mask_labels:
            return batch["masks"], self.mask_labels
        return pixels.new_zeros((len(pixels), 0, *pixels.shape[2:])), []

    # -------------------------------------------------------------- one step

    def _accumulate_gradients(self, batches: list[Any]) -> dict[str, float]:
        batches = [self.prepare_batch(batch) for batch in batches]
        logs = self._train_discriminator(batches) if self.adversary is not None else {}
        logs = {**super()._accumulate_gradients(batches), **logs}
        if not logs.get("discriminator_finite", 1.0):
            logs["loss"] = math.nan  # a step of which one half failed is skipped and counted
        return logs

    def _train_discriminator(self, batches: list[Mapping[str, Any]]) -> dict[str, float]:
        """All of a step's discriminator updates; the generator is used without gradient and left as it was."""
        scale = self.optimizer.param_groups[0]["lr"] / self.args.learning_rate
        losses, norms, finite = [], [], True
        for index in range(self.parts):
            total = torch.zeros((), device=self.device)
            for micro, batch in enumerate(batches):
                self.seed_noise(
                    self.global_step, _DISCRIMINATOR + index, micro, self.accelerator.process_index
                )
                loss = self.discriminator_loss(self._part(batch, index)) / len(batches)
                loss.backward()
                total += loss.detach()
            if self.accelerator.num_processes > 1:
                self._average_in_place([p.grad for p in self.adversary.parameters])
                total = self._reduce(total, "mean")
            norm, taken = self.adversary.step(scale)
            losses.append(float(total))
            norms.append(norm)
            finite = finite and taken
        return {
            "discriminator_loss": float(np.mean(losses)),
            "discriminator_norm": float(np.mean(norms)),
            "discriminator_finite": float(finite),
        }

    def discriminator_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Hinge loss of real images in their own bins and of their explanations in random ones."""
        pixels = batch["pixel_values"]
        targets = self._draw_targets(len(pixels))
        with self.accelerator.autocast():
            with torch.no_grad(), self._generator_untouched():
                explained = self.model.decode(self.model.encode(pixels), targets, pixels)
            return self.adversary.loss(pixels, self.bins.index(batch["posterior"]), explained, targets)

    @contextlib.contextmanager
    def _generator_untouched(self) -> Iterator[None]:
        """Running statistics of batch normalisation are as before afterwards."""
        kept = [buffer.clone() for buffer in self.model.buffers()]
        yield
        for buffer, before in zip(self.model.buffers(), kept, strict=True):
            buffer.copy_(before)

    def compute_loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """The generator's weighted loss; logs its unweighted terms and the mean distance to the target centres."""
        batch = self._part(batch, self.parts - 1)
        pixels, posterior = batch["pixel_values"], batch["posterior"]
        own, targets = self.bins.index(posterior), self._draw_targets(len(pixels))
        embedding = self.model.encode(pixels)
        explained, repeated = self.model.decode(
            torch.cat([embedding, embedding]), torch.cat([targets, own]), torch.cat([pixels, pixels])
        ).chunk(2)
        back = self.model.encode(explained)
        cycle = self.model.decode(back, own, explained)
        shown = torch.cat([explained, cycle])
        if self.global_step < self.stage_args.augmentation_until * self.max_steps:
            shown = self.augment(shown)
        reached, returned = self.classifier(shown).chunk(2)
        centres = self.bins.centre(targets)
        masks, labels = self._masks(batch)
        parts = {
            "kl_target": posterior_kl(centres, reached),
            "kl_cycle": posterior_kl(posterior, returned),
            "l1_self": reconstruction_loss(pixels, repeated, masks, labels, self.weights),
            "l1_cycle": reconstruction_loss(pixels, cycle, masks, labels, self.weights),
            "embedding_distance": embedding_distance(embedding, back),
        }
        terms = {
            "classifier": parts["kl_target"] + parts["kl_cycle"],
            "reconstruction": parts["l1_self"] + parts["l1_cycle"],
            "embedding": parts["embedding_distance"],
        }
        if self.natural_change is not None:
            terms["natural"] = parts["natural"] = self.natural_change(explained - pixels)
        if self.adversary is not None:
            terms["adversarial"] = parts["adversarial"] = generator_hinge_loss(
                self.adversary.score(explained, targets)
            )
        logs = {name: value.detach() for name, value in parts.items()}
        logs["target_error"] = (reached.detach() - centres).abs().mean()
        logs["change"] = (explained.detach() - pixels).abs().mean() * 127.5
        share = self.stage_args.preservation_share(self.global_step)
        if self.stage_args.preservation_start < 1:
            logs["preservation_share"] = share
        for name in ("reconstruction", "embedding"):
            terms[name] = share * terms[name]
        return self.weights.total(terms), logs

    # ------------------------------------------------------ what came of it

    def evaluate(self) -> dict[str, float]:
        """Exaggeration and validity on the validation images, each explained for every bin.

        `slope`, `mae` and their values by source group (factual decision); `validity`, the share whose decision flips
        at the last bin beyond the boundary; `l1_self` and `l1_far` in grey levels, the change at the own bin and at
        that last bin; with a student, `mae_black_box` and `validity_black_box`: the original's answers to the
        same explanations.
        """
        rows: dict[str, list[Tensor]] = {}
        for batch in self.validation_batches():
            for name, value in self._explain_batch(batch).items():
                rows.setdefault(name, []).append(value)
        joined = {name: self.gather_validation(torch.cat(values)).cpu() for name, values in rows.items()}
        metrics = self._curves(joined["source"], joined["reached"])
        metrics["l1_self"] = float(joined["l1_self"].mean())
        metrics["l1_far"] = float(joined["l1_far"].mean())
        if "original" in joined:
            original = self._curves(joined["original_source"], joined["original"])
            metrics |= {f"{name}_black_box": original[name] for name in ("mae", "validity")}
        return metrics

    def _explain_batch(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Answers `(B, bins)` to the explanations for every bin, and what they cost."""
        pixels, source = batch["pixel_values"], batch["posterior"]
        with self.accelerator.autocast():
            series = self.model.series(pixels)  # (B, bins, 1, H, W)
        change = (series - pixels[:, None]).abs().mean((2, 3, 4)) * 127.5
        own, far = self.bins.index(source), self._far_bin(source)
        result = {
            "source": source,
            "reached": self._ask(self.classifier, series),
            "l1_self": change.gather(1, own[:, None])[:, 0],
            "l1_far": change.gather(1, far[:, None])[:, 0],
        }
        if self.black_box is not None:
            result["original_source"] = self.black_box.posterior(pixels)
            result["original"] = self._ask(self.black_box, series)
        return result

    def _ask(self, classifier: ImageClassifier, series: Tensor) -> Tensor:
        size = self.stage_args.posterior_batch_size
        return classifier.posterior(series.flatten(0, 1), size).unflatten(0, series.shape[:2])

    def _far_bin(self, source: Tensor) -> Tensor:
        """The last bin on the other side of the decision boundary."""
        positive = source >= self.classifier.threshold
        return torch.where(positive, 0, self.bins.num_bins - 1)

    def _curves(self, source: Tensor, reached: Tensor) -> dict[str, float]:
        centres = self.bins.centres.expand(len(source), -1)
        curves = exaggeration_curve(
            source,
            centres,
            reached,
            self.bins.num_bins,
            threshold=self.classifier.threshold,
            n_resamples=1,
        )
        metrics = {}
        for group, curve in curves.items():
            suffix = "" if group == "all" else f"_{group}"
            if curve.images:
                metrics[f"slope{suffix}"] = float(curve.slope[0])
                metrics[f"mae{suffix}"] = float(curve.mae[0])
        far = reached.gather(1, self._far_bin(source)[:, None])[:, 0]
        flipped = decision_flipped(source, far, threshold=self.classifier.threshold)
        metrics["validity"] = float(flipped.mean())
        return metrics

    def sample_images(self) -> dict[str, np.ndarray]:
        """A row per image, of evenly spaced ranks of the posterior: the image, then its explanations for every bin."""
        source = self.val_dataset if self.val_dataset is not None else self.train_dataset
        count = min(self.stage_args.num_sample_images, len(source))
        ranks = torch.linspace(0, len(source) - 1, count).round().long()
        batch = self.prepare_batch(source.__getitems__(source.posterior.argsort()[ranks].tolist()))
        pixels = batch["pixel_values"]
        with self.accelerator.autocast():
            series = self.model.series(pixels)
        rows = [torch.cat([image[None], explained]) for image, explained in zip(pixels, series, strict=True)]
        return {"explanations": image_grid(rows)}


class _Identity:
    """Says in a checkpoint whose posteriors the explainer learnt, and refuses another classifier at resumption."""

    def __init__(self, classifier: ImageClassifier) -> None:
        self.fingerprint = classifier.fingerprint()

    def state_dict(self) -> dict[str, str]:
        return {"fingerprint": self.fingerprint}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"the run explained the classifier {state['fingerprint']}, this command gives {self.fingerprint}"
            )


__all__ = ["ExplainerTrainer"]
