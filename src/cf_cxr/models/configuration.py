"""What the configurations of this package share: each value is checked before anything is built of it.

A `config.json` may come from anybody. transformers' `@strict` checks the types of the fields that a class annotates;
`@checked_config` adds what a file can do besides: numbers without bounds, NaN, nesting without end, wrong types in the
fields of transformers' own class, and keys that replace a method.
"""

import functools
import inspect
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import torch
from huggingface_hub.dataclasses import strict, type_validator, validated_field
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

MAX_SIZE = 4096  # of an image's side and of a layer's width
MAX_BLOCKS = 1000  # of one network
MAX_WEIGHTS = 2_000_000_000
MAX_LENGTH = 64  # of a list of widths and the like
_MAX_DEPTH = 16
_MAX_TEXT = 10_000
_MAX_MESSAGE = 1000
_UNUSABLE = (StrictDataclassError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
_REFUSED = ("quantization_config", "per_layer_config", "transformers_weights")
# Of a backbone, whose fields are transformers': bounds of the integers by the first word that is in their key.
_MAX_BACKBONE_NUMBER = 65_536
_COUNTS, _WIDTHS = (
    ("depth", "layer", "block", "stage"),
    ("hidden_size", "embed", "width", "channels", "filters"),
)
_BACKBONE_BOUNDS = {
    **dict.fromkeys(("patch", "kernel", "stride", "factor", "ratio", "expansion"), 64),
    **dict.fromkeys(_COUNTS, MAX_BLOCKS),
    **dict.fromkeys(_WIDTHS, MAX_SIZE),
}


class ConfigurationError(StrictDataclassError, ValueError):
    """A configuration whose values cannot be; the message names the key and the value, which is cut where it is long."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}...")


class CXRConfig(PreTrainedConfig):
    """Base of the configurations: tuples become lists, as JSON has them, and where the parts of a model were loaded from
    is not written."""

    def __post_init__(self, **kwargs):
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), (list, tuple)):
                setattr(self, field.name, list(value))
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As transformers'; raises ConfigurationError for a file that is nested without end, or no dictionary."""
        name = pretrained_model_name_or_path
        try:
            values, kwargs = super().get_config_dict(name, **kwargs)
        except RecursionError as error:
            raise ConfigurationError(f"{name}: its config.json is nested without end.") from error
        except TypeError:  # null or a number, which transformers looks a key up in
            values = None
        if not isinstance(values, dict):
            raise ConfigurationError(f"{name}: its config.json holds no dictionary.")
        return values, kwargs

    def _remove_keys_not_serialized(self, d: dict[str, Any]) -> None:
        super()._remove_keys_not_serialized(d)
        for value in d.values():
            if isinstance(value, dict) and "_name_or_path" in value:
                value["_name_or_path"] = ""


def bounded(default: Any, low: float, high: float, shortest: int = 1) -> Any:
    """A field whose number lies in [low, high]; of a list (`shortest` to `MAX_LENGTH` long) or dictionary, every one."""

    def check(value: Any) -> None:
        numbers = list(value.values()) if isinstance(value, dict) else value
        numbers = numbers if isinstance(numbers, (list, tuple)) else [numbers] * (numbers is not None)
        if isinstance(value, (list, tuple)) and not shortest <= len(value) <= MAX_LENGTH:
            raise ValueError(
                f"give a list of {shortest} to {MAX_LENGTH} numbers, got {len(value)}: {_short(value)}"
            )
        if not all(low <= number <= high for number in numbers):
            raise ValueError(f"must be from {low:g} to {high:g}, got {_short(value)}.")

    return validated_field(check, default=default)


def checked_config(cls: type) -> type:
    """Class decorator in place of `@strict`: whatever is wrong is a `ConfigurationError`, a ValueError."""
    cls = strict(cls)
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            _check_values(kwargs)
            _check_fields(cls, kwargs)
            init(self, *args, **kwargs)
        except StrictDataclassError as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(f"{cls.__name__}: {error}") from (error.__cause__ or error)

    cls.__init__ = __init__
    return cls


def _check_values(values: Mapping[str, Any]) -> None:
    """Refuses what no configuration of this package has, whatever the key.

    Raises:
        ConfigurationError: nesting beyond 16 levels, NaN or infinity, an integer of more than 64 bits, text beyond
            10 000 characters.
    """
    for key, value in _leaves(values):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigurationError(f"{key}={value} is not a finite number.")
        if isinstance(value, int) and abs(value) > sys.maxsize:
            raise ConfigurationError(f"{key}={_short(value)} is beyond {sys.maxsize}.")
        if isinstance(value, str) and len(value) > _MAX_TEXT:
            raise ConfigurationError(f"{key}={_short(value)} is longer than {_MAX_TEXT} characters.")


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Key path and value of all that is no dictionary or list, without recursion."""
    left = [(str(key), value, 0) for key, value in values.items()]
    while left:
        key, value, depth = left.pop()
        if not isinstance(value, (Mapping, list, tuple)):
            yield key, value
            continue
        if depth == _MAX_DEPTH:
            raise ConfigurationError(f"{key[:80]}... is nested more than {_MAX_DEPTH} levels deep.")
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        left += [(f"{key}.{name}", item, depth + 1) for name, item in items]


def nested_config(key: str, settings: Mapping[str, Any], default_type: str | None = None) -> PreTrainedConfig:
    """The configuration that a dictionary under `key` describes, of this package or of transformers.

    Raises:
        ConfigurationError: for an unknown `model_type`, or values that cannot be.
    """
    settings = {str(name): value for name, value in settings.items()}
    model_type = settings.pop("model_type", default_type)
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ConfigurationError(
            f"{key}.model_type={_short(model_type)} is no model that transformers knows."
        )
    config_class = CONFIG_MAPPING[model_type]
    if issubclass(config_class, CXRConfig):
        try:
            return config_class(**settings)
        except ConfigurationError as error:
            raise ConfigurationError(f"{key}: {error}") from error
    _check_numbers(key, settings)
    try:
        _check_fields(config_class, settings)
        _check_types(config_class, settings)
        return config_class(**settings)
    except _UNUSABLE as error:
        raise ConfigurationError(f"{key} ({model_type}): {error}") from error


def check_backbone(key: str, config: PreTrainedConfig) -> None:
    """Refuses a backbone of transformers that is too large to be built.

    Raises:
        ConfigurationError: naming the key and value, or what all of them would make.
    """
    values = config.to_dict()
    _check_numbers(key, values)
    lists = {name: value if isinstance(value, (list, tuple)) else [value] for name, value in values.items()}
    integers = {name: v for name, v in lists.items() if v and all(type(item) is int for item in v)}

    def most(words: tuple[str, ...], of: Any) -> int:
        return max([of(v) for name, v in integers.items() if any(word in name for word in words)], default=0)

    width = most(_WIDTHS, max) * max(integers.get("width_factor", [1]))
    check_weights(key, config.model_type, most(_COUNTS, sum), width)


def _check_numbers(key: str, values: Mapping[str, Any]) -> None:
    for name, value in _leaves(values):
        if isinstance(value, int):
            bound = next((b for word, b in _BACKBONE_BOUNDS.items() if word in name), _MAX_BACKBONE_NUMBER)
            if abs(value) > bound:
                raise ConfigurationError(f"{key}.{name}={_short(value)} is beyond {bound}.")


def _check_types(cls: type, values: Mapping[str, Any]) -> None:
    """Checks values against the annotations of a configuration class, those of its base classes included.

    Raises:
        ConfigurationError: naming the key, the value and the type that was expected.
    """
    hints = _hints(cls)
    for key, value in values.items():
        hint = hints.get(key, Any)
        try:
            type_validator(key, value, get_args(hint)[0] if get_origin(hint) is ClassVar else hint)
        except TypeError as error:
            raise ConfigurationError(f"{key}={_short(value)}: {error}") from error


def check_weights(key: str, value: Any, blocks: int, width: int, more: int = 0, per_block: int = 9) -> None:
    """Refuses a network of more than `MAX_BLOCKS` blocks or, by a rough upper estimate, `MAX_WEIGHTS` weights.

    Raises:
        ConfigurationError: with `key` and `value`.
    """
    weights = blocks * per_block * width**2 + more
    if blocks > MAX_BLOCKS or weights > MAX_WEIGHTS:
        raise ConfigurationError(
            f"{key}={_short(value)} makes {blocks} blocks and up to {weights:.2g} weights; at most {MAX_BLOCKS} and "
            f"{MAX_WEIGHTS:.2g} are built."
        )


def _check_fields(cls: type, values: Mapping[str, Any]) -> None:
    """What transformers' own class would stumble over."""
    for key, value in values.items():
        if key in _REFUSED and value is not None:
            raise ConfigurationError(f"{key}={_short(value)} is not supported; remove it.")
        inherited = inspect.getattr_static(cls, key, None)
        can_be_set = inherited is None or (isinstance(inherited, property) and inherited.fset)
        if not can_be_set and key not in {f.name for f in fields(cls)} and key != "model_type":
            raise ConfigurationError(f"{key}={_short(value)}: a configuration has no such key; remove it.")
    _check_types(PreTrainedConfig, values)
    _check_labels(values)
    for key in ("dtype", "torch_dtype"):
        name = values.get(key)
        if name is not None and not isinstance(
            getattr(torch, name, None) if isinstance(name, str) else name, torch.dtype
        ):
            raise ConfigurationError(f"{key}={_short(name)} is no type of numbers; write e.g. 'float32'.")


def _check_labels(values: Mapping[str, Any]) -> None:
    for key in ("num_labels", "chunk_size_feed_forward"):
        number = values.get(key, 0)
        if not (type(number) is int and 0 <= number <= _MAX_BACKBONE_NUMBER):
            raise ConfigurationError(
                f"{key}={_short(number)}: give a number from 0 to {_MAX_BACKBONE_NUMBER}."
            )
    for label in values.get("id2label") or ():
        if not str(label).isdecimal() or len(str(label)) > 9:
            raise ConfigurationError(f"id2label has the key {_short(label)}, which is no index.")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    names: dict[str, Any] = {"torch": torch}
    for base in cls.__mro__:
        names = {**vars(sys.modules[base.__module__]), **names}
    try:
        return get_type_hints(cls, names)
    except (NameError, TypeError):  # an annotation for type checkers alone
        return {}


def _short(value: Any, limit: int = 80) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end; an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= limit else f"{text[:limit]}..."
