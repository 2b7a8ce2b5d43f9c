"""What only a phantom can tell: the true counterfactual image, and the ideal observer's posterior."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...data.phantom import ChestPhantom
from ...metrics.true_counterfactual import counterfactual_error


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
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Records of a batch, and its true counterfactual images `(B, 1, S, S)` by intervened variable.

        Args:
            pixels: real images `(B, 1, S, S)` in [-1, 1]. factual: raw attributes `(B, n)`.
            noise: exogenous noise of the images, from `ChestPhantom.noise_at`.
            counterfactuals: the model's images `(B, 1, S, S)` by intervened variable.
            attributes: the model's raw counterfactual attributes `(B, n)` by intervened variable.
        """
        device, factual = pixels.device, factual.cpu()
        real = self.phantom.render(factual, noise)
        finding = self.phantom.schema.index("finding")
        posterior = self.phantom.bayes_posterior(factual, noise)
        records, images = {}, {}
        for a in self.phantom.schema:
            records[f"real/bayes/{a.name}"] = getattr(
                posterior, a.name if a.is_discrete else f"{a.name}_median"
            )
        for name, image in counterfactuals.items():
            changed = attributes[name].cpu()
            true = self.phantom.render(changed, noise)
            sick = (changed[:, finding] != factual[:, finding])[:, None, None, None]
            touched = (true.pixel_values != real.pixel_values) | (true.touch_mask & sick)
            goal = images[name] = true.pixel_values.to(device)
            inside, outside = counterfactual_error(image, goal, touched)
            found = {
                "error_inside": inside,
                "error_outside": outside,
                "error": counterfactual_error(image, goal, torch.ones_like(touched))[0],
                "identity_inside": counterfactual_error(pixels, goal, touched)[0],
            }
            moved = (changed != factual).any(1)
            for key, value in found.items():
                value = torch.as_tensor(value).to(image)
                records[f"do/{name}/{key}"] = torch.where(moved.to(device), value, torch.nan)
            records[f"do/{name}/true_attributes"] = changed
        return records, images
