"""One batch of an evaluation: counterfactuals of every intervention, and what is measured on each image.

M = Monteiro et al., ICLR 2023; H = De Sousa Ribeiro et al., ICML 2023.

Records are float32 arrays by name, one row per image of the batch; j is an attribute, k an intervened variable:

    factual                           (B, n) raw attributes
    real/judge/{j}, real/model/{j}    the judge's and the model's own classifier's prediction on the real image:
                                      binary (B,) P(class 1), categorical (B, C), continuous (B,) mean in units
    real/embedding                    (B, D) the judge's pooled features
    real/nll, real/kl                 (B,) nats per dimension; NaN where the image mechanism cannot tell
    real/composition/{m}              (B,) grey levels, after m = 1 and 10 null interventions (M)
    do/{k}/attributes                 (B, n) raw counterfactual attributes
    do/{k}/judge/{j}, do/{k}/model/{j}, do/{k}/embedding    as above, on the counterfactual image
    do/{k}/change                     (B,) mean |x* - x|, grey levels
    do/{k}/exposure                   (B,) share of the change that is exposure, in [0, 1]; NaN if no attribute changed
    do/{k}/reversibility/{m}          (B,) grey levels, after m = 1 and 5 cycles of do(a) and back (M); NaN if no
                                      attribute changed
    images/real, images/do/{k}        (B, S, S) the images themselves, uint8, on request
    examples/image, examples/do/{k}/image, examples/factual, examples/do/{k}/attributes
                                      pictures, uint8, of the first images under interventions of their own that
                                      change something, and their attributes

With a phantom, those of `phantom_truth` too. Records of m > 1 are NaN beyond the first `num_cycle_images` images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...metrics.exposure import exposure_share
from ...metrics.soundness import image_distance
from ...models.attribute_classifier import AttributeClassifierModel
from ...models.deep_scm import DeepSCMModel
from ...models.image_mechanism import map_noise, split_options
from .phantom_truth import TrueCounterfactuals

COMPOSITION_CYCLES = 10
REVERSIBILITY_CYCLES = 5
NUM_EXAMPLES = 4


class PredictionError(ValueError):
    """A classifier predicted NaN or infinity."""


def batch_generator(seed: int, index: int) -> torch.Generator:
    """The source of all draws of a batch, on the CPU, so that every device draws the same."""
    [state] = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))


def ask(classifier: AttributeClassifierModel, images: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
    """A classifier's prediction of every attribute (continuous: the mean in units) and its pooled features."""
    output = classifier(images)
    posterior = classifier.posterior_from_logits(output.logits)
    values = {name: value[0] if isinstance(value, tuple) else value for name, value in posterior.items()}
    return values, getattr(output, "embedding", None)


class Collector:
    """Measures batches.

    Args:
        model, judge: in evaluation mode, on one device, with one schema.
        seed: of the draws, together with a batch's number.
        num_cycle_images: repeated cycles are measured on this many first images of the data set.
        num_reversibility_images: single cycles on this many; None: on all.
        keep_images: record the images too.
        autocast: context of the image mechanism's passes; classifiers run outside of it, in float32.
        truth: renders true counterfactuals, where the images are a phantom's.
        options: of the image mechanism, by name.

    Raises:
        TypeError: for an option that the mechanism does not have.
    """

    def __init__(
        self,
        model: DeepSCMModel,
        judge: AttributeClassifierModel,
        *,
        seed: int = 0,
        num_cycle_images: int = 64,
        num_reversibility_images: int | None = None,
        keep_images: bool = False,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        truth: TrueCounterfactuals | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        self.model, self.judge, self.truth = model, judge, truth
        self.seed, self.autocast = seed, autocast
        self.num_cycle_images, self.num_reversibility_images = num_cycle_images, num_reversibility_images
        self.keep_images = keep_images
        self.schema, self.device = model.schema, model.device
        self.abduct_options, self.decode_options = split_options(model.image_mechanism, options or {})

    @torch.no_grad()
    def __call__(self, index: int, first: int, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The records of a batch.

        Args:
            index: the batch's number. first: its first image's number in the data set.
            batch: `pixel_values` (B, 1, S, S) in [-1, 1]; `attributes` raw (B, n); `do`: variable -> raw values
                (B,); with a phantom, `noise`.

        Raises:
            PredictionError: a classifier predicts NaN; names it, the attribute and the number of images.
        """
        pixels, factual = batch["pixel_values"].to(self.device), batch["attributes"].to(self.device)
        generator = batch_generator(self.seed, index)
        parents = self.schema.encode(factual).to(self.device)
        records: dict[str, Any] = {"factual": factual}
        with self.autocast():
            records["real/nll"], records["real/kl"] = self._free_energy(pixels, parents, generator)
        attributes = self._counterfactual_attributes(factual, batch["do"], generator)
        moved = {k: (values != factual).any(1) for k, values in attributes.items()}
        again, counterfactuals = self._decode_all(pixels, parents, attributes, moved)
        cycles = min(max(self.num_cycle_images - first, 0), len(pixels))
        composed = self._compose(again[:cycles], parents[:cycles])
        records["real/composition/1"] = image_distance(again, pixels)
        records[f"real/composition/{COMPOSITION_CYCLES}"] = _padded(
            image_distance(composed, pixels[:cycles]), len(pixels)
        )
        for name, image in counterfactuals.items():
            records[f"do/{name}/attributes"] = attributes[name]
            records[f"do/{name}/change"] = image_distance(image, pixels)
            # an image whose parents did not change comes back but for rounding, of which there is no share
            share = exposure_share(pixels, image)
            records[f"do/{name}/exposure"] = torch.where(moved[name], share, torch.nan)
        records |= self._reversibility(first, pixels, parents, counterfactuals, attributes, moved)
        judged = {"real": pixels, **{f"do/{name}": image for name, image in counterfactuals.items()}}
        if self.keep_images:
            records |= {f"images/{name}": _grey(image)[:, 0] for name, image in judged.items()}
        if self.truth is not None:
            found = self.truth(pixels, factual, batch["noise"], counterfactuals, attributes)
            records |= found.records
            judged |= {f"do/{name}/true": image for name, image in found.images.items()}
        records |= self._ask_all(index, judged)
        count = min(max(NUM_EXAMPLES - first, 0), len(pixels))
        if count:
            found = self._examples(pixels[:count], factual[:count], batch, generator)
            records |= {f"examples/{name}": value for name, value in found.items()}
        return {name: _numpy(value) for name, value in records.items()}

    def _free_energy(self, pixels: Tensor, parents: Tensor, generator) -> tuple[Tensor, Tensor]:
        terms = getattr(self.model.image_mechanism, "free_energy_terms", None)
        if terms is None:  # an image mechanism without a likelihood
            unknown = torch.full((len(pixels),), torch.nan)
            return unknown, unknown
        return terms(pixels, parents, generator=generator)

    def _counterfactual_attributes(self, factual: Tensor, dos: Mapping, generator) -> dict[str, Tensor]:
        scm = self.model.attribute_scm
        noise = scm.abduct(factual, generator=generator)
        return {k: scm.counterfactual(factual, {k: v.to(self.device)}, noise=noise) for k, v in dos.items()}

    def _abduct(self, pixels: Tensor, parents: Tensor) -> Any:
        with self.autocast():
            return self.model.image_mechanism.abduct(pixels, parents, **self.abduct_options)

    def _decode(self, noise: Any, parents: Tensor) -> Tensor:
        with self.autocast():
            return self.model.image_mechanism.decode(noise, parents, **self.decode_options).float()

    def _decode_all(
        self, pixels: Tensor, parents: Tensor, attributes: Mapping[str, Tensor], moved: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images under the null intervention and under every other, from one abduction and one batch of decodings.

        Where an intervention changes no attribute of an image, its parents and its noise are those of the null
        intervention, and so is the image: it is not decoded twice.
        """
        noise, size = self._abduct(pixels, parents), len(pixels)
        rows = torch.cat(
            [torch.arange(size, device=self.device), *(m.nonzero()[:, 0] for m in moved.values())]
        )
        targets = [self.schema.encode(attributes[k][m]).to(self.device) for k, m in moved.items()]
        images = self._decode(map_noise(lambda t: t[rows], noise), torch.cat([parents, *targets]))
        again, *changed = images.split([size, *(int(m.sum()) for m in moved.values())])
        out = {}
        for (k, m), part in zip(moved.items(), changed):
            out[k] = again.clone()
            out[k][m] = part
        return again, out

    def _compose(self, images: Tensor, parents: Tensor) -> Tensor:
        """After `COMPOSITION_CYCLES` null interventions, of which the given images are the first."""
        if len(images):
            for _ in range(COMPOSITION_CYCLES - 1):
                images = self._decode(self._abduct(images, parents), parents)
        return images

    def _reversibility(self, first: int, pixels, parents, images, attributes, moved) -> dict[str, Tensor]:
        """Distances after 1 and `REVERSIBILITY_CYCLES` times do(a), do(back), all interventions in one batch.

        The attributes go back and forth between the same two values, so that this is the image mechanism's error.
        NaN where do(a) changed nothing, and beyond the first images that are asked for.
        """
        number = torch.arange(first, first + len(pixels), device=self.device)
        limit = math.inf if self.num_reversibility_images is None else self.num_reversibility_images
        rows = {
            k: ((number < max(limit, self.num_cycle_images)) & m).nonzero()[:, 0] for k, m in moved.items()
        }
        out = {
            f"do/{k}/reversibility/{m}": torch.full((len(pixels),), torch.nan)
            for k in rows
            for m in (1, REVERSIBILITY_CYCLES)
        }
        row, names = torch.cat(list(rows.values())), list(rows)
        which = torch.cat([torch.full_like(r, i) for i, r in enumerate(rows.values())])
        image = torch.cat([images[k][r] for k, r in rows.items()])
        there = torch.cat([self.schema.encode(attributes[k][r]).to(self.device) for k, r in rows.items()])
        for cycle in range(1, REVERSIBILITY_CYCLES + 1):
            if cycle == 2:  # only the first images go on
                keep = number[row] < self.num_cycle_images
                row, which, image, there = row[keep], which[keep], image[keep], there[keep]
            if len(row) == 0:
                break
            if cycle > 1:
                image = self._decode(self._abduct(image, parents[row]), there)
            image = self._decode(self._abduct(image, there), parents[row])
            if cycle in (1, REVERSIBILITY_CYCLES):
                distance = image_distance(image, pixels[row]).cpu()
                for i, k in enumerate(names):
                    out[f"do/{k}/reversibility/{cycle}"][row[which == i].cpu()] = distance[(which == i).cpu()]
        return out

    def _examples(self, pixels: Tensor, factual: Tensor, batch: Mapping, generator) -> dict[str, Tensor]:
        """Pictures of images under interventions that change something: another class, the range's other side."""
        dos = {}
        for k in batch["do"]:
            a, value = self.schema[k], factual[:, self.schema.index(k)]
            dos[k] = a.opposite(value)
        attributes = self._counterfactual_attributes(factual, dos, generator)
        moved = {k: (values != factual).any(1) for k, values in attributes.items()}
        _, images = self._decode_all(pixels, self.schema.encode(factual).to(self.device), attributes, moved)
        out = {"image": _grey(pixels), "factual": factual}
        for k, image in images.items():
            out |= {f"do/{k}/image": _grey(image), f"do/{k}/attributes": attributes[k]}
        if self.truth is not None:
            true = self.truth(pixels, factual, batch["noise"][: len(pixels)], images, attributes)
            out |= {f"do/{k}/true": _grey(image) for k, image in true.images.items()}
        return out

    def _ask_all(self, index: int, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions of both classifiers on all images, in one batch each; true images go to the judge only."""
        out = {}
        for who, classifier in (("judge", self.judge), ("model", self.model.classifier)):
            kinds = [name for name in images if who == "judge" or not name.endswith("/true")]
            size = len(images[kinds[0]])
            values, embedding = ask(classifier, torch.cat([images[name] for name in kinds]))
            for attribute, value in values.items():
                for kind, part in zip(kinds, value.split(size)):
                    bad = int((~part.isfinite()).reshape(size, -1).any(1).sum())
                    if bad:
                        raise PredictionError(
                            f"{'The judge' if who == 'judge' else 'The classifier inside the model'} predicts NaN or "
                            f"infinity for {attribute!r} on {bad} of {size} images of batch {index} ({kind} images). "
                            "Batches that are finished are kept; correct the classifier and run again."
                        )
                    out[f"{kind}/{who}/{attribute}"] = part
            if who == "judge" and embedding is not None:
                for kind, part in zip(kinds, embedding.split(size)):
                    if not kind.endswith("/true"):
                        out[f"{kind}/embedding"] = part
        return out


def _padded(values: Tensor, length: int) -> Tensor:
    """Values of the first images, NaN for the rest."""
    return torch.cat([values, values.new_full((length - len(values),), torch.nan)])


def _grey(images: Tensor) -> Tensor:
    """Images in [-1, 1] as 8-bit grey levels."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _numpy(value: Any) -> np.ndarray:
    value = value.detach().cpu()
    return value.numpy() if value.dtype == torch.uint8 else value.float().numpy()
