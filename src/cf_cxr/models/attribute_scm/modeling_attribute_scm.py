"""The structural causal model over the attributes: sample, score, and answer counterfactual questions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ...attributes import Attribute, AttributeValueError
from ..forward_arguments import check_forward_arguments
from ..weight_files import CXRPreTrainedModel
from .configuration_attribute_scm import AttributeSCMConfig
from .mechanisms import MECHANISMS, Conditioner, GumbelMaxMechanism, SplineFlowMechanism


@dataclass
class AttributeSCMOutput(ModelOutput):
    """What `AttributeSCMModel.forward` returns.

    Attributes:
        loss: scalar; negative log likelihood in nats, averaged over the known values of each variable, summed over
            variables.
        log_prob: `(B, n)`; log p(variable | parents), 0 where the variable is unknown.
    """

    loss: Tensor | None = None
    log_prob: Tensor | None = None


class AttributeNoise(dict):
    """Exogenous noise per variable: `(B, n_classes)` for discrete ones, `(B,)` for continuous ones.

    NaN where the variable was unknown when the noise was abducted.
    """

    def to(self, device: torch.device | str) -> "AttributeNoise":
        """A copy on another device."""
        return AttributeNoise({name: value.to(device) for name, value in self.items()})


class AttributeSCMModel(CXRPreTrainedModel):
    """p(attributes) = Π p(variable | parents), one mechanism per variable (papers H and A; design section 2).

    Attributes are raw float tensors `(B, n)` in schema order: units for continuous variables, class indices for
    discrete ones, NaN for unknown. An unknown variable is left out of the likelihood, enters its children's
    mechanisms as the schema's neutral code, and stays unknown in counterfactuals unless it is intervened on.
    """

    config_class = AttributeSCMConfig
    base_model_prefix = "attribute_scm"
    main_input_name = "attributes"
    input_modalities = ("attributes",)
    supports_gradient_checkpointing = False
    _no_split_modules = ["GumbelMaxMechanism", "SplineFlowMechanism"]

    def __init__(self, config: AttributeSCMConfig):
        super().__init__(config)
        self.schema = config.schema
        self.graph = config.causal_graph
        self.mechanisms = nn.ModuleList(self._build(attribute) for attribute in self.schema)
        self.post_init()

    def _build(self, attribute: Attribute) -> nn.Module:
        parent_dim = sum(self.schema[parent].size for parent in self.graph.parents(attribute.name))
        return MECHANISMS[attribute.kind](attribute, parent_dim, self.config)

    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, Conditioner) and module.root is not None:
            init.zeros_(module.root)

    def mechanism(self, name: str) -> GumbelMaxMechanism | SplineFlowMechanism:
        """The mechanism of a variable; raises UnknownAttributeError."""
        return self.mechanisms[self.schema.index(name)]

    def encode_parents(self, name: str, attributes: Tensor) -> Tensor:
        """Encoded parents `(B, parent_dim)` of a variable from raw attributes `(B, n)`."""
        encoded, where = self.schema.encode(attributes, allow_unknown=True), self.schema.slices()
        return torch.cat([encoded[:, :0], *(encoded[:, where[p]] for p in self.graph.parents(name))], dim=1)

    def _known(self, name: str, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """Column of a variable with unknown entries replaced by a possible value, and the mask of known ones."""
        column = attributes[:, self.schema.index(name)]
        known = ~column.isnan()
        return torch.where(known, column, self.schema[name].minimum or 0.0), known

    def log_prob(self, attributes: Tensor) -> Tensor:
        """Log p(variable | parents) `(B, n)` of raw attributes `(B, n)`, float32; 0 where unknown.

        Nats; densities of continuous variables are per unit.

        Raises:
            AttributeValueError: for a wrong shape or an impossible value.
        """
        attributes = self.schema.to_tensor(attributes, allow_missing=True)
        columns = []
        for name in self.schema.names:
            value, known = self._known(name, attributes)
            log_prob = self.mechanism(name).log_prob(value, self.encode_parents(name, attributes))
            columns.append(torch.where(known, log_prob, 0.0))
        return torch.stack(columns, dim=1).float()

    @can_return_tuple
    def forward(self, attributes: Tensor, **kwargs) -> AttributeSCMOutput | tuple[Tensor, Tensor]:
        """Loss and log likelihoods of raw attributes `(B, n)`; see `AttributeSCMOutput` and `log_prob`."""
        check_forward_arguments(self, kwargs)
        log_prob = self.log_prob(attributes)
        counts = (~attributes.isnan()).sum(0).clamp_min(1)
        return AttributeSCMOutput(loss=-(log_prob.sum(0) / counts).sum(), log_prob=log_prob)

    @torch.no_grad()
    def sample(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Raw attributes `(num_samples, n)`, float32, by ancestral sampling."""
        attributes = torch.full((num_samples, self.schema.n), torch.nan, device=self.device)
        for name in self.graph.order:
            value = self.mechanism(name).sample(self.encode_parents(name, attributes), generator)
            attributes[:, self.schema.index(name)] = value.float()
        return attributes

    @torch.no_grad()
    def abduct(self, attributes: Tensor, generator: torch.Generator | None = None) -> AttributeNoise:
        """Exogenous noise from its posterior given raw attributes `(B, n)`.

        Exact for continuous variables; for discrete ones a draw, each of which reproduces the class.

        Raises:
            AttributeValueError: for a wrong shape or an impossible value.
        """
        attributes = self.schema.to_tensor(attributes, allow_missing=True)
        noise = AttributeNoise()
        for name in self.schema.names:
            value, known = self._known(name, attributes)
            drawn = self.mechanism(name).abduct(value, self.encode_parents(name, attributes), generator)
            noise[name] = torch.where(known.view(-1, *[1] * (drawn.ndim - 1)), drawn, torch.nan)
        return noise

    @torch.no_grad()
    def counterfactual(
        self,
        attributes: Tensor,
        do: Mapping[str, Any],
        noise: AttributeNoise | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What the attributes would have been under an intervention: abduct, act, predict.

        Args:
            attributes: factual raw values `(B, n)`.
            do: variable -> value: a human value ("Female", 63), a raw one, or a tensor `(B,)` of raw values, one
                per row. `{}` is the null intervention.
            noise: what `abduct(attributes)` returned, to answer several questions about one world.
            generator: for abduction where `noise` is not given.

        Returns:
            `(B, n)` in the type of `attributes`. Variables that are neither intervened on nor descendants of one
            that is are bit-identical to the input, and so are rows of a continuous variable whose parents did not
            change.

        Raises:
            UnknownAttributeError, AttributeValueError: for what is not a variable or not one of its values.
        """
        factual = self.schema.to_tensor(attributes, allow_missing=True)
        attributes = attributes if attributes.is_floating_point() else factual
        result = attributes.clone()
        for name, value in self._intervention(do, factual).items():
            result[:, self.schema.index(name)] = value.to(result)
        affected = self.graph.descendants(do) - set(do)
        if not affected:
            return result
        noise = self._check_noise(noise, factual) if noise is not None else self.abduct(factual, generator)
        for name in (n for n in self.graph.order if n in affected):
            before, after = self.encode_parents(name, factual), self.encode_parents(name, result)
            value = self.mechanism(name).decode(noise[name], after)
            value = value.masked_fill(noise[name].view(len(value), -1).isnan().any(1), torch.nan).to(result)
            # spares an unchanged value the rounding of a round trip
            value = torch.where((before == after).all(1), attributes[:, self.schema.index(name)], value)
            result[:, self.schema.index(name)] = value
        return result

    def _intervention(self, do: Mapping[str, Any], attributes: Tensor) -> dict[str, Tensor]:
        """Raw values `(B,)` per intervened variable, validated."""
        is_mapping = isinstance(do, Mapping)
        columns = {n: v for n, v in do.items() if isinstance(v, Tensor) and v.ndim} if is_mapping else {}
        values = self.schema.validate_do({n: v for n, v in do.items() if n not in columns} if columns else do)
        raw = torch.full_like(attributes, torch.nan)
        for name, value in {**values, **columns}.items():
            if name in columns and value.shape != (len(attributes),):
                raise AttributeValueError(
                    f"do({name}) has shape {tuple(value.shape)}; give one value per row, ({len(attributes)},)."
                )
            if name in columns and value.isnan().any():
                raise AttributeValueError(f"do({name}) contains NaN; an intervention needs a known value.")
            raw[:, self.schema.index(name)] = torch.as_tensor(value).to(raw)
        raw = self.schema.to_tensor(raw, allow_missing=True)
        return {name: raw[:, self.schema.index(name)] for name in do}

    def _check_noise(self, noise: AttributeNoise, attributes: Tensor) -> AttributeNoise:
        rows = {name: len(noise[name]) if name in noise else None for name in self.schema.names}
        if wrong := {name: n for name, n in rows.items() if n != len(attributes)}:
            raise ValueError(
                f"The noise does not belong to these {len(attributes)} rows of attributes: {wrong} rows; "
                "pass what abduct(attributes) of this model returned."
            )
        return noise
