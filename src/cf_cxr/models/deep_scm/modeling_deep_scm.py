"""The deep structural causal model: abduction, action, prediction over attributes and image together."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..attribute_classifier import AttributeClassifierModel
from ..attribute_scm import AttributeSCMModel
from ..forward_arguments import check_forward_arguments
from ..image_mechanism import mechanism_options, repeat_noise, split_options
from ..unet import UNetCheckpointingMixin
from ..weight_files import CXRPreTrainedModel
from .configuration_deep_scm import DeepSCMConfig


@dataclass
class DeepSCMNoise:
    """Exogenous noise of a batch of (image, attributes).

    Args:
        image: noise of the image mechanism, `B * num_samples` rows (the samples of one image in a row).
        attributes: noise of the attribute mechanisms, `B` rows.
        factual_attributes: raw factual attributes `(B, n)`.
        num_samples: posterior draws per image.
    """

    image: Any = None
    attributes: Any = None
    factual_attributes: Tensor | None = None
    num_samples: int = 1


@dataclass
class CounterfactualOutput(ModelOutput):
    """Counterfactuals of B images under K interventions.

    Args:
        pixel_values: `(B, K, C, H, W)` in [-1, 1]; the mean over samples.
        std: per-pixel standard deviation over samples, same shape, or None for a single sample.
        attributes: raw counterfactual attributes `(B, K, n)`.
        factual_attributes: raw factual attributes `(B, n)`.
    """

    pixel_values: Tensor | None = None
    std: Tensor | None = None
    attributes: Tensor | None = None
    factual_attributes: Tensor | None = None


@dataclass
class DeepSCMOutput(ModelOutput):
    """Output of `DeepSCMModel.forward`: the sum of the parts' losses, and the parts.

    Args:
        loss: image_loss + attribute_loss + classifier_loss, scalar.
        image_loss: free energy of the images given their attributes, nats per dimension.
        attribute_loss: negative log likelihood of the attributes, nats.
        classifier_loss: loss of the classifier on the images.
        logits: the classifier's raw outputs.
        reconstruction: `(B, C, H, W)` in [-1, 1], where the image mechanism gives one.
        hidden_states: with `output_hidden_states=True`: the classifier's.
    """

    loss: Tensor | None = None
    image_loss: Tensor | None = None
    attribute_loss: Tensor | None = None
    classifier_loss: Tensor | None = None
    logits: Tensor | None = None
    reconstruction: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class DeepSCMModel(UNetCheckpointingMixin, CXRPreTrainedModel):
    """p(attributes) p(image | attributes) with a classifier q(attributes | image), in one repository.

    Counterfactual queries follow Pearl's three steps: abduction of all exogenous noise from the factual
    observation, action (replace mechanisms by the intervened values), prediction with the same noise.
    """

    config: DeepSCMConfig
    config_class = DeepSCMConfig
    base_model_prefix = "deep_scm"

    def __init__(self, config: DeepSCMConfig):
        super().__init__(config)
        self.attribute_scm = AttributeSCMModel(config.scm_config)
        # In the type that everything else is built in, whatever the mechanism was saved in.
        self.image_mechanism = AutoModel.from_config(config.image_config).to(torch.get_default_dtype())
        self.classifier = AttributeClassifierModel(config.classifier_config)
        self.schema = self.attribute_scm.schema
        self.graph = self.attribute_scm.graph
        self.post_init()

    @classmethod
    def from_parts(
        cls,
        attribute_scm: AttributeSCMModel,
        image_mechanism: PreTrainedModel,
        classifier: AttributeClassifierModel,
    ) -> DeepSCMModel:
        """Assembles a model from trained parts; their weights are copied, in the widest of their types.

        Raises:
            ValueError: if they do not agree about attributes or image size.
        """
        config = DeepSCMConfig(
            scm_config=attribute_scm.config.to_dict(),
            image_config=image_mechanism.config.to_dict(),
            classifier_config=classifier.config.to_dict(),
        )
        dtype = functools.reduce(
            torch.promote_types, (part.dtype for part in (attribute_scm, image_mechanism, classifier))
        )
        model = cls._from_config(config, dtype=dtype)
        model.attribute_scm.load_state_dict(attribute_scm.state_dict())
        model.image_mechanism.load_state_dict(image_mechanism.state_dict())
        model.classifier.load_state_dict(classifier.state_dict())
        return model.eval()

    def _init_weights(self, module: nn.Module) -> None:
        """Each part initialises its own modules."""

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        attributes: Tensor,
        generator: torch.Generator | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> DeepSCMOutput | tuple:
        """Joint loss of images `(B, C, H, W)` in [-1, 1] and raw attributes `(B, n)`."""
        check_forward_arguments(self, kwargs)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        keep = getattr(self.image_mechanism, "takes_unknown_parents", False)
        parents = self.schema.encode(attributes, allow_unknown=True, keep_unknown=keep).to(
            pixel_values.device
        )
        image = self.image_mechanism(pixel_values, parents, generator=generator, return_dict=True)
        scm = self.attribute_scm(attributes, return_dict=True)
        classifier = self.classifier(
            pixel_values, labels=attributes, output_hidden_states=output_hidden_states, return_dict=True
        )
        return DeepSCMOutput(
            loss=image.loss + scm.loss + classifier.loss,
            image_loss=image.loss,
            attribute_loss=scm.loss,
            classifier_loss=classifier.loss,
            logits=classifier.logits,
            reconstruction=image.get("reconstruction"),
            hidden_states=classifier.hidden_states,
        )

    @torch.no_grad()
    def infer_attributes(self, pixel_values: Tensor) -> Tensor:
        """The classifier's most probable raw attributes `(B, n)` of images."""
        return self.classifier.infer(pixel_values)

    @torch.no_grad()
    def predict(self, pixel_values: Tensor):
        """The classifier's calibrated posterior of every attribute (`AttributePosterior`)."""
        return self.classifier.predict(pixel_values)

    @property
    def mechanism_options(self) -> tuple[str, ...]:
        """Names of the options that `abduct` and `counterfactual` pass on to the image mechanism."""
        return mechanism_options(self.image_mechanism)

    def _parents(self, attributes: Tensor) -> Tensor:
        return self.schema.encode(attributes).to(device=self.device)

    @torch.no_grad()
    def abduct(
        self,
        pixel_values: Tensor,
        attributes: Tensor | Mapping | Sequence[Mapping],
        num_samples: int = 1,
        generator: torch.Generator | None = None,
        sample: bool | None = None,
        **options: Any,
    ) -> DeepSCMNoise:
        """Infers all exogenous noise of images and their attributes.

        Args:
            pixel_values: `(B, C, H, W)` in [-1, 1].
            attributes: raw `(B, n)`, or human values (a mapping of columns, or a list of mappings).
            num_samples: posterior draws of the image noise per image.
            sample: draw the image's latents; default: only if `num_samples > 1`, else their mean is taken.
            options: of the image mechanism, see `mechanism_options`; those of decoding are left alone.

        Raises:
            AttributeValueError, UnknownAttributeError: for impossible or missing attributes.
            ValueError: if numbers of images and attributes differ, `num_samples < 1`, or the mechanism cannot draw.
            TypeError: for an option that the mechanism does not have.
        """
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples}: at least one sample is needed.")
        attributes = self.schema.to_tensor(attributes).to(self.device)
        if len(attributes) != len(pixel_values):
            raise ValueError(f"{len(pixel_values)} images but attributes of {len(attributes)}.")
        pixel_values = pixel_values.to(self.device).repeat_interleave(num_samples, dim=0)
        parents = self._parents(attributes).repeat_interleave(num_samples, dim=0)
        return DeepSCMNoise(
            attributes=self.attribute_scm.abduct(attributes, generator=generator),
            image=self.image_mechanism.abduct(
                pixel_values,
                parents,
                generator=generator,
                sample=num_samples > 1 if sample is None else sample,
                **split_options(self.image_mechanism, options)[0],
            ),
            factual_attributes=attributes,
            num_samples=num_samples,
        )

    @torch.no_grad()
    def counterfactual(
        self,
        pixel_values: Tensor | None,
        attributes: Tensor | Mapping | Sequence[Mapping] | None,
        do: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        num_samples: int = 1,
        generator: torch.Generator | None = None,
        noise: DeepSCMNoise | None = None,
        **options: Any,
    ) -> CounterfactualOutput:
        """What the images would look like under each intervention: abduct once, decode all.

        Args:
            pixel_values: factual images `(B, C, H, W)` in [-1, 1]; may be None with `noise`.
            attributes: factual attributes as for `abduct`; may be None with `noise`.
            do: one intervention, variable -> value (a human value, or a raw tensor `(B,)`), or a list of K of
                them. `{}` is the null intervention, which returns the image itself.
            num_samples: draws from the image posterior; with more than one, mean and `std` are returned. The
                attribute noise is drawn once.
            generator: source of all noise; on CPU the answer is then deterministic.
            noise: from `abduct`, to skip abduction.
            options: of the image mechanism, see `mechanism_options`.

        Raises:
            AttributeValueError, UnknownAttributeError, TypeError: for an impossible intervention, attribute or option.
        """
        dos = [do] if isinstance(do, Mapping) else list(do)
        if not dos:
            raise ValueError(
                "do is an empty list; give at least one intervention ({} is the null intervention)."
            )
        if noise is None:
            noise = self.abduct(
                pixel_values, attributes, num_samples=num_samples, generator=generator, **options
            )
        factual = noise.factual_attributes
        counterfactual = torch.stack(
            [self.attribute_scm.counterfactual(factual, d, noise=noise.attributes) for d in dos], dim=1
        )
        images = self._decode(noise, counterfactual, **split_options(self.image_mechanism, options)[1])
        samples = noise.num_samples
        return CounterfactualOutput(
            pixel_values=images.mean(1) if samples > 1 else images[:, 0],
            std=images.std(1) if samples > 1 else None,
            attributes=counterfactual,
            factual_attributes=factual,
        )

    def _decode(self, noise: DeepSCMNoise, attributes: Tensor, **options: Any) -> Tensor:
        """Images `(B, S, K, C, H, W)` of noise with B * S rows under raw attributes `(B, K, n)`, in one batch."""
        b, k, n = attributes.shape
        s = noise.num_samples
        parents = self._parents(attributes.reshape(b * k, n)).reshape(b, 1, k, -1)
        parents = parents.expand(b, s, k, -1).reshape(b * s * k, -1)
        images = self.image_mechanism.decode(repeat_noise(noise.image, k), parents, **options)
        return images.reshape(b, s, k, *images.shape[1:])
