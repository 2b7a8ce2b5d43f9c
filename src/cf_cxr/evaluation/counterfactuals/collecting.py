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
from ..records import as_record, to_grey
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
        generator, size = batch_generator(self.seed, index), len(batch["pixel_values"])
        parents = self.schema.encode(factual).to(self.device)
        terms = getattr(self.model.image_mechanism, "free_energy_terms", None)
        with self.autocast():
            unknown = torch.full((2, size), torch.nan)  # of an image mechanism without a likelihood
            nll, kl = unknown if terms is None else terms(pixels, parents, generator=generator)
        records: dict[str, Any] = {"factual": factual, "real/nll": nll, "real/kl": kl}
        attributes, again, images = self._counterfactuals(pixels, factual, batch["do"], generator)
        moved = {k: (values != factual).any(1) for k, values in attributes.items()}
        cycles = min(max(self.num_cycle_images - first, 0), size)
        composed = again[:cycles]
        for _ in range(COMPOSITION_CYCLES - 1 if cycles else 0):
            composed = self._decode(self._abduct(composed, parents[:cycles]), parents[:cycles])
        records["real/composition/1"] = image_distance(again, pixels)
        records[f"real/composition/{COMPOSITION_CYCLES}"] = torch.full((size,), torch.nan)
        records[f"real/composition/{COMPOSITION_CYCLES}"][:cycles] = image_distance(composed, pixels[:cycles])
        for k, image in images.items():
            records[f"do/{k}/attributes"] = attributes[k]
            records[f"do/{k}/change"] = image_distance(image, pixels)
            # an image whose parents did not change comes back but for rounding, of which there is no share
            records[f"do/{k}/exposure"] = torch.where(moved[k], exposure_share(pixels, image), torch.nan)
        records |= self._reversibility(first, pixels, parents, images, attributes, moved)
        judged = {"real": pixels, **{f"do/{k}": image for k, image in images.items()}}
        if self.keep_images:
            records |= {f"images/{name}": to_grey(image)[:, 0] for name, image in judged.items()}
        if self.truth is not None:
            found, true = self.truth(pixels, factual, batch["noise"], images, attributes)
            records |= found
            judged |= {f"do/{k}/true": image for k, image in true.items()}
        records |= self._ask_all(index, judged)
        if (count := min(max(NUM_EXAMPLES - first, 0), size)) > 0:
            records |= self._examples(pixels[:count], factual[:count], batch, generator)
        return {name: as_record(value) for name, value in records.items()}

    def _abduct(self, pixels: Tensor, parents: Tensor) -> Any:
        with self.autocast():
            return self.model.image_mechanism.abduct(pixels, parents, **self.abduct_options)

    def _decode(self, noise: Any, parents: Tensor) -> Tensor:
        with self.autocast():
            return self.model.image_mechanism.decode(noise, parents, **self.decode_options).float()

    def _counterfactuals(
        self, pixels: Tensor, factual: Tensor, dos: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """Attributes under every intervention, and the images under none and under each.

        One abduction and one batch of decodings. Where an intervention changes no attribute of an image, its parents
        and its noise are those of the null intervention, and so is the image: it is not decoded twice.
        """
        scm, parents = self.model.attribute_scm, self.schema.encode(factual).to(self.device)
        exogenous = scm.abduct(factual, generator=generator)
        attributes = {
            k: scm.counterfactual(factual, {k: v.to(self.device)}, noise=exogenous) for k, v in dos.items()
        }
        moved = {k: (values != factual).any(1) for k, values in attributes.items()}
        noise, every = self._abduct(pixels, parents), torch.arange(len(pixels), device=self.device)
        rows = torch.cat([every, *(every[m] for m in moved.values())])
        targets = [self.schema.encode(attributes[k][m]).to(self.device) for k, m in moved.items()]
        images = self._decode(map_noise(lambda t: t[rows], noise), torch.cat([parents, *targets]))
        again, *changed = images.split([len(every), *(len(target) for target in targets)])
        out = {k: again.clone() for k in moved}
        for (k, m), part in zip(moved.items(), changed):
            out[k][m] = part
        return attributes, again, out

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
        row = torch.cat(list(rows.values()))
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
                for i, k in enumerate(rows):
                    mine = (which == i).cpu()
                    out[f"do/{k}/reversibility/{cycle}"][row.cpu()[mine]] = distance[mine]
        return out

    def _examples(self, pixels: Tensor, factual: Tensor, batch: Mapping, generator) -> dict[str, Tensor]:
        """Pictures of images under interventions that change something: another class, the range's other side."""
        columns = dict(zip(self.schema.names, factual.T))
        dos = {k: self.schema[k].opposite(columns[k]) for k in batch["do"]}
        attributes, _, images = self._counterfactuals(pixels, factual, dos, generator)
        out = {"examples/image": to_grey(pixels), "examples/factual": factual}
        for k, image in images.items():
            out[f"examples/do/{k}/image"] = to_grey(image)
            out[f"examples/do/{k}/attributes"] = attributes[k]
        return out

    def _ask_all(self, index: int, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions of both classifiers on all images, in one batch each; true images go to the judge only."""
        out = {}
        for who, classifier in (("judge", self.judge), ("model", self.model.classifier)):
            kinds = [name for name in images if who == "judge" or not name.endswith("/true")]
            size = len(images[kinds[0]])
            output = classifier(torch.cat([images[name] for name in kinds]))
            for attribute, value in classifier.posterior_from_logits(output.logits).items():
                value = value[0] if isinstance(value, tuple) else value  # continuous: the mean, in units
                for kind, part in zip(kinds, value.split(size)):
                    bad = int((~part.isfinite()).reshape(size, -1).any(1).sum())
                    if bad:
                        words = {"judge": "The judge", "model": "The classifier inside the model"}
                        raise PredictionError(
                            f"{words[who]} predicts NaN or infinity for {attribute!r} on {bad} of {size} images of batch "
                            f"{index} ({kind} images). Batches that are finished are kept; correct the classifier and "
                            "run again."
                        )
                    out[f"{kind}/{who}/{attribute}"] = part
            if who == "judge" and (embedding := getattr(output, "embedding", None)) is not None:
                for kind, part in zip(kinds, embedding.split(size)):
                    if not kind.endswith("/true"):
                        out[f"{kind}/embedding"] = part
        return out
