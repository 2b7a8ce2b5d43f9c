"""The series of a progressive explainer: the query under one target bin after the other (paper B, section 3).

B = Singla et al., "Explaining the black-box smoothly: a counterfactual approach", Medical Image Analysis 84, 2023.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..black_box import ImageClassifier
from ..models.progressive_explainer import ProgressiveExplainerModel
from ..models.progressive_explainer.posterior_bins import PosteriorBins
from .explanation import ExplanationSeries

_ROWS = 32  # images decoded at a time


def target_path(
    bins: PosteriorBins,
    posterior: float,
    threshold: float = 0.5,
    steps: int = 10,
    target: float | None = None,
) -> Tensor:
    """The bins that lead from a posterior to its target, `(S,)`, int64.

    Starts at the posterior's own bin and ends at the target's: without a target, the last bin on the other side of
    the decision (bin 0 for a class that is present, the highest one else). At most `steps` bins, evenly spaced; all
    of them where there are no more, because an explainer knows no values between.

    Args:
        posterior: of the query, in [0, 1].
        threshold: decision boundary.
        steps: at least 2.
        target: posterior to reach, in [0, 1].
    """
    own = int(bins.index(torch.tensor([posterior])))
    if target is None:
        goal = 0 if posterior >= threshold else bins.num_bins - 1
    else:
        goal = int(bins.index(torch.tensor([target])))
    count = min(steps, abs(goal - own) + 1)
    return torch.from_numpy(np.rint(np.linspace(own, goal, count)).astype(np.int64))


class ProgressiveExplainer:
    """A trained progressive explainer; each target is asked for by its bin. See `Explainer`.

    Args:
        model: in evaluation mode.
    """

    method = "progressive"

    def __init__(self, model: ProgressiveExplainerModel) -> None:
        self.model = model

    @torch.no_grad()
    def series(
        self, pixel_values: Tensor, classifier: ImageClassifier, targets: Tensor
    ) -> tuple[Tensor, None]:
        """See `Explainer`; one encoder pass."""
        return self.model.series(pixel_values, self.model.bins.index(targets.cpu())), None

    @torch.no_grad()
    def explain(
        self, pixel_values, classifier, posteriors, *, steps=10, target=None, **unused
    ) -> list[ExplanationSeries]:
        """See `Explainer`; the bins of `target_path`, one encoder pass. Nothing is drawn.

        Raises:
            ValueError: for images that the model cannot read, posteriors outside [0, 1], or a model whose images are
                not finite.
        """
        model = self.model
        paths = [target_path(model.bins, float(p), classifier.threshold, steps, target) for p in posteriors]
        lengths = [len(path) for path in paths]
        rows = torch.repeat_interleave(torch.arange(len(paths)), torch.tensor(lengths)).to(
            pixel_values.device
        )
        goals = torch.cat(paths).to(pixel_values.device)
        embedding = model.encode(pixel_values)
        images = torch.cat(
            [
                model.decode(embedding[chunk], goal, pixel_values[chunk])
                for chunk, goal in zip(rows.split(_ROWS), goals.split(_ROWS))
            ]
        ).float()
        if not bool(images.isfinite().all()):
            raise ValueError(
                "The explainer makes images with NaN or infinite pixels: its training diverged, its weights are "
                "damaged, or its precision overflows (--dtype float16). Take another checkpoint, or float32."
            )
        parts = zip(images.split(lengths), model.bins.centre(goals).split(lengths))
        return [ExplanationSeries(*part, at_target=len(part[0]) == 1) for part in parts]


__all__ = ["ProgressiveExplainer", "target_path"]
