"""Attributes of patient and film: what they are called, which values they take, how models see them.

Everywhere in the package a batch of attributes is one float tensor `(B, n)` of **raw values** in schema
order: continuous variables in their unit (years), binary and categorical variables as class indices, and NaN
for "unknown". `AttributeSchema.encode` turns it into the parent vector `(B, dim)` that networks consume.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor

from .tensor_checks import has_values

KINDS: dict[str, type[Attribute]] = {}  # filled below
MAX_CATEGORIES = 1000
MAX_NUMBER = 1e30  # of ranges: models work in float32
_NUMBER_WITH_UNIT = re.compile(
    r"^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?:y|yr|yrs|years?)?\s*$", re.IGNORECASE
)


class AttributeValueError(ValueError):
    """A value that an attribute cannot take; the message names the value and what is allowed."""


class UnknownAttributeError(KeyError):
    """A variable that the schema does not have; the message lists those it has."""

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0])


@dataclass(frozen=True)
class Attribute:
    """One variable of the causal model; what differs between kinds is in the subclass that `kind` names.

    Args:
        name: the variable's name, e.g. `"age"`.
        kind: a key of `KINDS`: `"continuous"`, `"binary"` or `"categorical"`.
        categories: class names in index order; two for binary (index 0 is "negative"), two or more for
            categorical. Empty for continuous.
        minimum, maximum: range of a continuous variable, in `unit`. Values outside are refused, and the range
            is mapped to [-1, 1] in the parent vector (paper A: age / 100 * 2 - 1).
        unit: e.g. `"years"`; for display.

    Raises:
        ValueError: for an inconsistent definition.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""

    is_discrete: ClassVar[bool] = True  # takes one of finitely many classes
    scored_as: ClassVar[
        str
    ]  # "continuous", "binary" or "categorical": what a prediction of it looks like to a metric

    def __init_subclass__(cls, kind: str):
        KINDS[kind] = cls

    def __new__(cls, name: str = "", kind: str = "", *args: Any, **kwargs: Any):
        named = KINDS.get(kind, cls) if isinstance(kind, str) else cls
        return super().__new__(named if issubclass(named, cls) else cls)

    def __post_init__(self):
        names = self.categories or ()
        if not isinstance(names, (list, tuple)) or not all(isinstance(c, str) and c.strip() for c in names):
            raise ValueError(
                f"Attribute {self.name!r}: categories must be a list of names, got {names!r:.200}."
            )
        if len(names) > MAX_CATEGORIES:
            raise ValueError(f"Attribute {self.name!r}: {len(names)} categories, at most {MAX_CATEGORIES}.")
        object.__setattr__(self, "categories", tuple(names))
        if not isinstance(self.unit, str):
            raise ValueError(f"Attribute {self.name!r}: unit must be text, got {self.unit!r:.200}.")
        if not self.name or not isinstance(self.name, str):
            raise ValueError(f"An attribute needs a non-empty name, got {self.name!r}.")
        if not isinstance(self.kind, str) or KINDS.get(self.kind) is not type(self):
            raise ValueError(f"Attribute {self.name!r}: kind must be one of {(*KINDS,)}, got {self.kind!r}.")
        self._check()

    def _check(self) -> None:
        """Of a variable with classes; raises ValueError."""
        if self.minimum is not None or self.maximum is not None:
            raise ValueError(f"Attribute {self.name!r} is {self.kind}: it has categories, not a range.")
        if len({c.casefold() for c in self.categories}) != len(self.categories):
            raise ValueError(
                f"Attribute {self.name!r}: categories must differ in more than case: {self.categories}."
            )
        if len(self.categories) < 2:
            raise ValueError(f"Attribute {self.name!r} is {self.kind}: it needs at least two categories.")

    @property
    def n_classes(self) -> int:
        """Number of classes; 0 for a continuous variable."""
        return len(self.categories)

    @property
    def size(self) -> int:
        """Width in the parent vector: 1 for continuous and binary, the number of classes for categorical."""
        return 1

    @property
    def values(self) -> str:
        """The possible values in words."""
        return ", ".join(self.categories)

    @property
    def allowed(self) -> str:
        """The possible values, as error messages ask for them."""
        return "one of " + ", ".join(repr(c) for c in self.categories)

    def parse(self, value: Any) -> float:
        """Turns a human value into the raw float (units, or class index).

        Accepts numbers, numeric text with an optional year suffix (`"63"`, `"063Y"`), class names in any case,
        and booleans for binary variables.

        Raises:
            AttributeValueError: for anything the attribute cannot be, naming the value and the remedy.
        """
        if hasattr(value, "item") and math.prod(getattr(value, "shape", (0,))) == 1:
            value = value.item()
        return self._parse(value)

    def _parse(self, value: Any) -> float:
        if isinstance(value, str):
            for index, category in enumerate(self.categories):
                if value.strip().casefold() == category.casefold():
                    return float(index)
        elif (
            isinstance(value, (int, float)) and not isinstance(value, bool) and value in range(self.n_classes)
        ):
            return float(value)
        raise AttributeValueError(
            f"{self.name}={value!r:.80} is not possible: {self.name} is {self.kind}, give {self.allowed}."
        )

    def format(self, raw: float) -> float | str | None:
        """The human value of a raw one: a float in units, a class name, or None for NaN."""
        return None if math.isnan(raw) else self.categories[round(raw)]

    def impossible(self, raw: Tensor) -> Tensor:
        """Where known raw values are none of this variable, bool of their shape."""
        return (raw != raw.round()) | (raw < 0) | (raw >= self.n_classes)

    def opposite(self, raw: Tensor) -> Tensor:
        """Another raw value for each: the next class, or the range mirrored."""
        return (raw + 1) % self.n_classes

    @property
    def neutral(self) -> float:
        """The code of an unknown value: the middle of the range, or even odds."""
        return 1 / self.n_classes

    def encode(self, raw: Tensor) -> Tensor:
        """Codes `(B, size)` of known raw values `(B,)`, in their type: [-1, 1] over the range, {0, 1}, or one-hot."""
        return raw[:, None]

    def decode(self, code: Tensor) -> Tensor:
        """Raw values `(B,)` of codes `(B, size)`, or of a mean on [-1, 1] or probabilities in their place."""
        return (code[:, 0] > 0.5).to(code.dtype)


class ContinuousAttribute(Attribute, kind="continuous"):
    """A number in a range."""

    is_discrete = False
    scored_as = "continuous"
    neutral = 0.0

    def _check(self) -> None:
        limits = (self.minimum, self.maximum)
        finite = all(isinstance(v, Real) and not isinstance(v, bool) and abs(v) < MAX_NUMBER for v in limits)
        if not finite or not self.minimum < self.maximum:
            raise ValueError(
                f"Continuous attribute {self.name!r} needs numbers minimum < maximum within {MAX_NUMBER:g}, got "
                f"minimum={limits[0]!r:.60}, maximum={limits[1]!r:.60}."
            )
        if self.categories:
            raise ValueError(f"Continuous attribute {self.name!r} cannot have categories.")

    @property
    def values(self) -> str:
        return f"{self.minimum:g} to {self.maximum:g} {self.unit}".rstrip()

    @property
    def allowed(self) -> str:
        return f"a number from {self.values}"

    def _parse(self, value: Any) -> float:
        if isinstance(value, str) and (match := _NUMBER_WITH_UNIT.match(value)):
            value = float(match.group(1))
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise AttributeValueError(f"{self.name}={value!r:.80} is not a number: give {self.allowed}.")
        if not self.minimum <= value <= self.maximum:
            raise AttributeValueError(f"{self.name}={value!r:.80} is out of range: give {self.allowed}.")
        return float(value)

    def format(self, raw: float) -> float | None:
        return None if math.isnan(raw) else float(raw)

    def impossible(self, raw: Tensor) -> Tensor:
        return (raw < self.minimum) | (raw > self.maximum)

    def opposite(self, raw: Tensor) -> Tensor:
        return self.minimum + self.maximum - raw

    def encode(self, raw: Tensor) -> Tensor:
        return ((raw - self.minimum) / (self.maximum - self.minimum) * 2 - 1)[:, None]

    def decode(self, code: Tensor) -> Tensor:
        return (code[:, 0] + 1) / 2 * (self.maximum - self.minimum) + self.minimum


class BinaryAttribute(Attribute, kind="binary"):
    """One of two classes, coded as 0 or 1."""

    scored_as = "binary"

    def _check(self) -> None:
        super()._check()
        if self.n_classes != 2:
            raise ValueError(f"Binary attribute {self.name!r} needs two categories, got {self.categories}.")

    def _parse(self, value: Any) -> float:
        return float(value) if isinstance(value, bool) else super()._parse(value)


class CategoricalAttribute(Attribute, kind="categorical"):
    """One of two or more classes, coded one-hot."""

    scored_as = "categorical"

    @property
    def size(self) -> int:
        return self.n_classes

    def encode(self, raw: Tensor) -> Tensor:
        return (raw[:, None].round() == torch.arange(self.n_classes, device=raw.device)).to(raw.dtype)

    def decode(self, code: Tensor) -> Tensor:
        return code.argmax(1).to(code.dtype)


def _attribute(definition: Any) -> Attribute:
    known = [f.name for f in fields(Attribute)]
    if not isinstance(definition, Mapping) or not {"name", "kind"} <= set(definition) <= set(known):
        raise ValueError(
            f"attributes: {definition!r} does not define one; give name, kind and what the kind needs of "
            f"{', '.join(known[2:])}."
        )
    return Attribute(**definition)


class AttributeSchema:
    """The ordered set of attributes a model knows.

    Args:
        attributes: `Attribute` objects or the dictionaries of `to_list`.

    Raises:
        ValueError: for no attributes, or two of one name.
    """

    def __init__(self, attributes: Iterable[Attribute | Mapping[str, Any]]):
        self._attributes = tuple(a if isinstance(a, Attribute) else _attribute(a) for a in attributes)
        if not self._attributes:
            raise ValueError("A schema needs at least one attribute, but attributes is empty.")
        names = [a.name for a in self._attributes]
        if len(set(names)) != len(names):
            raise ValueError(f"Attribute names must be unique, got {names}.")
        self._index = {name: i for i, name in enumerate(names)}

    def __iter__(self) -> Iterator[Attribute]:
        return iter(self._attributes)

    def __len__(self) -> int:
        return len(self._attributes)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __getitem__(self, name: str) -> Attribute:
        return self._attributes[self.index(name)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttributeSchema) and self._attributes == other._attributes

    def __hash__(self) -> int:
        return hash(self._attributes)

    def __repr__(self) -> str:
        return f"AttributeSchema({', '.join(f'{a.name}: {a.kind}' for a in self)})"

    @property
    def names(self) -> tuple[str, ...]:
        """Variable names in column order."""
        return tuple(self._index)

    @property
    def n(self) -> int:
        """Number of variables, the width of the raw tensor."""
        return len(self._attributes)

    @property
    def dim(self) -> int:
        """Width of the parent vector."""
        return sum(a.size for a in self)

    def index(self, name: str) -> int:
        """Column of a variable in the raw tensor; raises UnknownAttributeError."""
        if name not in self._index:
            raise UnknownAttributeError(
                f"Unknown attribute {name!r}; this model knows {', '.join(self.names)}."
            )
        return self._index[name]

    def slices(self) -> dict[str, slice]:
        """Where each variable sits in the parent vector."""
        out, start = {}, 0
        for a in self:
            out[a.name] = slice(start, start + a.size)
            start += a.size
        return out

    def to_list(self) -> list[dict[str, Any]]:
        """JSON-serialisable definition; `AttributeSchema(schema.to_list()) == schema`."""
        return [
            {
                k: list(v) if isinstance(v, tuple) else v
                for k, v in asdict(a).items()
                if v not in (None, (), "")
            }
            for a in self
        ]

    def to_tensor(
        self, attributes: Mapping | Iterable[Mapping] | Tensor, allow_missing: bool = False
    ) -> Tensor:
        """Validates human values and returns the raw tensor.

        Args:
            attributes: one mapping of scalars (gives B = 1), one mapping of equally long columns, a list of
                mappings, or a raw tensor `(B, n)` (which is validated and returned as float32).
            allow_missing: accept absent variables, None and NaN; they become NaN.

        Returns:
            float32 tensor `(B, n)`.

        Raises:
            UnknownAttributeError, AttributeValueError: naming the variable and value.
        """
        if isinstance(attributes, Tensor):
            return self._check_raw(attributes, allow_missing)
        records = self._records(attributes)
        rows = []
        for record in records:
            for name in record:
                self.index(name)
            row = []
            for a in self:
                value = record.get(a.name)
                if value is None or (isinstance(value, float) and math.isnan(value)):
                    if not allow_missing:
                        raise AttributeValueError(f"{a.name} is missing; give {a.allowed}.")
                    row.append(math.nan)
                else:
                    row.append(a.parse(value))
            rows.append(row)
        return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), self.n)

    @staticmethod
    def _records(attributes) -> list[Mapping]:
        if not isinstance(attributes, Mapping):
            return list(attributes)
        columns = {
            k: list(v.reshape(-1)) if isinstance(v, Tensor) and v.ndim else v for k, v in attributes.items()
        }
        lengths = {len(v) for v in columns.values() if isinstance(v, (list, tuple))}
        if not lengths:
            return [columns]
        if len(lengths) > 1 or not all(isinstance(v, (list, tuple)) for v in columns.values()):
            sizes = {k: len(v) if isinstance(v, (list, tuple)) else "scalar" for k, v in columns.items()}
            raise AttributeValueError(f"Attribute columns must be equally long, got {sizes}.")
        return [dict(zip(columns, row)) for row in zip(*columns.values())]

    def _check_raw(self, raw: Tensor, allow_missing: bool) -> Tensor:
        if raw.ndim != 2 or raw.shape[1] != self.n:
            raise AttributeValueError(
                f"A raw attribute tensor has shape (batch, {self.n}) for {', '.join(self.names)}; "
                f"got {tuple(raw.shape)}."
            )
        raw = raw.float()
        if not has_values(raw):
            return raw
        for a, column in zip(self, raw.unbind(1)):
            known = column[~column.isnan()]
            if not allow_missing and known.numel() < column.numel():
                raise AttributeValueError(f"{a.name} is missing (NaN); give {a.allowed}.")
            bad = a.impossible(known)
            if bad.any():
                raise AttributeValueError(
                    f"{a.name}={known[bad][0].item():g} is not possible: give {a.allowed}."
                )
        return raw

    def to_records(self, raw: Tensor) -> list[dict[str, float | str | None]]:
        """Human values of a raw tensor `(B, n)`: floats in units, class names, None for unknown."""
        return [{a.name: a.format(v) for a, v in zip(self, row)} for row in raw.detach().cpu().tolist()]

    def encode(self, raw: Tensor, allow_unknown: bool = False, keep_unknown: bool = False) -> Tensor:
        """The parent vector of a raw tensor.

        Continuous variables go to [-1, 1] over their range, binary ones to {0, 1}, categorical ones to one-hot.

        Args:
            raw: `(B, n)`.
            allow_unknown: an unknown value (NaN) becomes the neutral code: 0, 0.5 or uniform; for training only.
            keep_unknown: an unknown value stays NaN, for models that take it.

        Returns:
            `(B, dim)`, float32.

        Raises:
            AttributeValueError: NaN without `allow_unknown` or `keep_unknown`.
        """
        if raw.ndim != 2 or raw.shape[1] != self.n:
            raise AttributeValueError(f"Expected a raw tensor (batch, {self.n}), got {tuple(raw.shape)}.")
        raw = raw.float()
        unknown = raw.isnan()
        if not (allow_unknown or keep_unknown) and has_values(unknown) and bool(unknown.any()):
            name = self.names[int(unknown.any(0).nonzero()[0])]
            raise AttributeValueError(f"{name} is missing (NaN); give {self[name].allowed}.")
        codes = []
        for a, value, missing in zip(self, raw.nan_to_num(0.0).unbind(1), unknown.unbind(1)):
            code = a.encode(value)
            codes.append(torch.where(missing[:, None], math.nan if keep_unknown else a.neutral, code))
        return torch.cat(codes, dim=1)

    def decode(self, parents: Tensor) -> Tensor:
        """Inverse of `encode` for known values: parent vector `(B, dim)` to raw tensor `(B, n)`."""
        if parents.ndim != 2 or parents.shape[1] != self.dim:
            raise AttributeValueError(f"Expected parents (batch, {self.dim}), got {tuple(parents.shape)}.")
        codes = parents.float().split([a.size for a in self], dim=1)
        return torch.stack([a.decode(code) for a, code in zip(self, codes)], dim=1)

    def validate_do(self, do: Mapping[str, Any]) -> dict[str, float]:
        """Checks an intervention's scalar values; `{}` is the null intervention.

        Returns:
            variable name to raw value.

        Raises:
            UnknownAttributeError, AttributeValueError, TypeError.
        """
        if not isinstance(do, Mapping):
            raise TypeError(f"do must be a mapping of variable to value, got {type(do).__name__}: {do!r}.")
        return {name: self[name].parse(value) for name, value in do.items()}
