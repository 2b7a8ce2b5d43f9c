"""Configuration of the deep SCM: its three parts' configurations, nested."""

from transformers import AutoConfig, PreTrainedConfig

from ...attributes import AttributeSchema
from ...causal_graph import CausalGraph
from ..attribute_classifier import AttributeClassifierConfig
from ..attribute_scm import AttributeSCMConfig
from ..causal_hvae import CausalHVAEConfig
from ..configuration import ConfigurationError, CXRConfig, checked_config, nested_config


@checked_config
class DeepSCMConfig(CXRConfig):
    r"""
    Args:
        scm_config (`dict` or [`AttributeSCMConfig`]): the attributes, the causal graph and their mechanisms.
        image_config (`dict` or config): the image mechanism; any registered `model_type` whose model follows
            `ImageMechanism`, with a `context_dim`. Default: [`CausalHVAEConfig`].
        classifier_config (`dict` or [`AttributeClassifierConfig`]): q(attributes | image), which infers missing
            attributes and reports predictions.
        training_classifiers (`list[str]`): weight fingerprints of the classifiers that steered counterfactual
            fine-tuning; none of them may judge this model.

    Raises:
        ValueError: if the three do not speak of the same attributes or image size; the message says which.
    """

    model_type = "deep_scm"
    keys_to_ignore_at_inference = [
        "loss",
        "image_loss",
        "attribute_loss",
        "classifier_loss",
        "reconstruction",
        "hidden_states",
    ]
    sub_configs = {
        "scm_config": AttributeSCMConfig,
        "image_config": AutoConfig,
        "classifier_config": AttributeClassifierConfig,
    }
    has_no_defaults_at_init = False

    scm_config: dict | PreTrainedConfig | None = None
    image_config: dict | PreTrainedConfig | None = None
    classifier_config: dict | PreTrainedConfig | None = None
    training_classifiers: list[str] | tuple[str, ...] | None = None

    def __post_init__(self, **kwargs):
        self.scm_config = self._nested("scm_config", AttributeSCMConfig, AttributeSCMConfig)
        schema = AttributeSchema(self.scm_config.attributes)
        if self.image_config is None:
            self.image_config = CausalHVAEConfig(context_dim=schema.dim)
        self.image_config = self._nested("image_config", CausalHVAEConfig, PreTrainedConfig)
        if self.classifier_config is None:
            self.classifier_config = AttributeClassifierConfig(
                attributes=schema.to_list(), image_size=self.image_config.image_size
            )
        self.classifier_config = self._nested(
            "classifier_config", AttributeClassifierConfig, AttributeClassifierConfig
        )
        super().__post_init__(**kwargs)

    def _nested(self, key: str, default: type, kind: type) -> PreTrainedConfig:
        value = getattr(self, key)
        if value is None:
            return default()
        config = (
            value if isinstance(value, PreTrainedConfig) else nested_config(key, value, default.model_type)
        )
        is_mechanism = hasattr(config, "image_size") and hasattr(config, "context_dim")
        if not isinstance(config, kind) or (key == "image_config" and not is_mechanism):
            raise ConfigurationError(
                f"{key} is the configuration of a {config.model_type!r}, which cannot be that part."
            )
        return config

    def validate_architecture(self):
        """Part of the `@strict` validation: the three parts must fit together."""
        schema = AttributeSchema(self.scm_config.attributes)
        CausalGraph(self.scm_config.graph, names=schema.names)
        if self.image_config.context_dim != schema.dim:
            raise ValueError(
                f"image_config.context_dim={self.image_config.context_dim}, but the attributes "
                f"{', '.join(schema.names)} make a parent vector of width {schema.dim}."
            )
        names = getattr(self.image_config, "attribute_names", list(schema.names))
        if list(names) != list(schema.names):
            raise ValueError(
                f"image_config.attribute_names={names}, but the attributes are {list(schema.names)}, in this order."
            )
        if AttributeSchema(self.classifier_config.attributes) != schema:
            raise ValueError(
                "classifier_config and scm_config have different attributes: "
                f"{AttributeSchema(self.classifier_config.attributes)} and {schema}."
            )
        if self.classifier_config.image_size != self.image_config.image_size:
            raise ValueError(
                f"The classifier expects {self.classifier_config.image_size}-pixel images and the image mechanism "
                f"{self.image_config.image_size}-pixel ones; train both at one resolution."
            )
