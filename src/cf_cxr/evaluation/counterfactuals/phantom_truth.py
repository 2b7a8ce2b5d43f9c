"""What only a phantom can tell: the true counterfactual image, and the ideal observer's posterior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...data.phantom import ChestPhantom
from ...metrics.true_counterfactual import counterfactual_error


@dataclass
class Truth:
    """Records of a batch, and the true counterfactual images `(B, 1, S, S)` by intervened variable."""

    records: dict[str, Tensor]
    images: dict[str, Tensor]


class TrueCounterfactuals:
    """Compares a model's counterfactuals with the phantom's.

    The true image is rendered with the image's own exogenous noise under the attributes that **the model**
    predicts, as if all changed variables were intervened on at once. So the error is the image mechanism's alone;
    whether the attribute SCM moved a descendant as the phantom would have is another question.

    The region that an intervention may touch is where the true counterfactual differs from the true factual image;
    if the finding changed, also every pixel that some severity of it could reach (the phantom's `touch_mask`). A
    do(site) changes nearly every pixel and has no outside.

    Records: `do/{k}/true_attributes` (B, n); `do/{k}/error_inside`, `do/{k}/error_outside` (B,), mean |x* - x_true|
    in grey levels inside and outside the region; `do/{k}/identity_inside` (B,), the same for an image that is left
    as it was, i.e. what there was to do; `do/{k}/error` (B,) over the whole image; NaN where no attribute changed or
    there is no such region. `real/bayes/{j}`: what an ideal observer of the image factors says: P(class 1),
    probabilities (B, C), or the posterior median.
    """

    def __init__(self, phantom: ChestPhantom):
        self.phantom = phantom

    def __call__(
        self,
        pixels: Tensor,
        factual: Tensor,
        noise: Tensor,
        counterfactuals: Mapping[str, Tensor],
        attributes: Mapping[str, Tensor],
    ) -> Truth:
        """Compares a batch.

        Args:
            pixels: real images `(B, 1, S, S)` in [-1, 1]. factual: raw attributes `(B, n)`.
            noise: exogenous noise of the images, from `ChestPhantom.noise_at`.
            counterfactuals: the model's images `(B, 1, S, S)` by intervened variable.
            attributes: the model's raw counterfactual attributes `(B, n)` by intervened variable.
        """
        device, factual = pixels.device, factual.cpu()
        real = self.phantom.render(factual, noise)
        finding = self.phantom.schema.index("finding")
        records, images = self._bayes(factual, noise), {}
        for name, image in counterfactuals.items():
            changed = attributes[name].cpu()
            true = self.phantom.render(changed, noise)
            touched = true.pixel_values != real.pixel_values
            sick = (changed[:, finding] != factual[:, finding])[:, None, None, None]
            touched |= true.touch_mask & sick
            moved = (changed != factual).any(1).to(device)
            images[name] = true.pixel_values.to(device)
            touched = touched.to(device)
            everywhere = torch.ones_like(touched)
            inside, outside = _error(image, images[name], touched)
            found = {
                "error_inside": inside,
                "error_outside": outside,
                "error": _error(image, images[name], everywhere)[0],
                "identity_inside": _error(pixels, images[name], touched)[0],
            }
            for key, value in found.items():
                records[f"do/{name}/{key}"] = torch.where(moved, value, torch.nan)
            records[f"do/{name}/true_attributes"] = changed
        return Truth(records, images)

    def _bayes(self, factual: Tensor, noise: Tensor) -> dict[str, Tensor]:
        posterior = self.phantom.bayes_posterior(factual, noise)
        values = {
            a.name: getattr(posterior, a.name if a.is_discrete else f"{a.name}_median")
            for a in self.phantom.schema
        }
        return {f"real/bayes/{name}": value for name, value in values.items()}


def _error(image: Tensor, true: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    inside, outside = counterfactual_error(image, true, mask)
    return torch.as_tensor(inside).to(image), torch.as_tensor(outside).to(image)
