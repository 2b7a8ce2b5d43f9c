"""Base class of the `evaluate` modules in `cf_cxr/metrics/modules`: columns in, arrays to a plain function, numbers out.

The module files refer to `evaluation_module.CXRMetric` and never import the class by name: `evaluate.load` takes the
first `EvaluationModule` that it finds in a file for the metric.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping
from typing import Any

import evaluate
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, Sequence, Value
from evaluate.module import CombinedEvaluations

from .arrays import to_numpy
from .bootstrap import Interval, interval, mean_samples, patient_weights

NUMBER = Value("float64")
TEXT = Value("string")
KIND_CONFIGS = ("binary", "categorical", "continuous")

PATIENTS_DESCRIPTION = """    patients: identifiers, read as text; images of one patient are resampled together. Optional: without them every
        image counts as a patient.
"""
INTERVAL_DESCRIPTION = """    n_resamples (`int`, 1000): bootstrap resamples of patients for the 95 % intervals.
    seed (`int`, 0): of the resamples; the same seed and patients pair two metrics or two models.
"""


def numbers() -> Sequence:
    """Feature of one vector of numbers per row, exact."""
    return Sequence(Value("float64"))


def pixels() -> Sequence:
    """Feature of one image (or feature vector) per row, flattened, in single precision."""
    return Sequence(Value("float32"))


def prediction_feature(kind: str) -> Value | Sequence:
    """Probability of class 1, a mean in units, or one probability per class."""
    return numbers() if kind == "categorical" else NUMBER


class CXRMetric(evaluate.Metric):
    """An evaluate module over a plain function of arrays.

    Subclasses give `DESCRIPTION`, `CITATION`, `INPUTS`, possibly `CONFIGS` (the first is the default) and `UNPAIRED`
    (columns may differ in length), and implement `columns` and `score`.
    """

    DESCRIPTION = ""
    CITATION = ""
    INPUTS = ""
    CONFIGS: tuple[str, ...] = ()
    UNPAIRED = False
    URL = "https://arxiv.org/abs/2403.09422"

    def columns(self) -> dict[str, Value | Sequence]:
        """Features of this configuration."""
        raise NotImplementedError

    def score(self, data: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Results of all collected rows, as arrays by column name."""
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        if self.CONFIGS and self.config_name == "default":
            self.config_name = self.CONFIGS[0]
        allowed = self.CONFIGS or ("default",)
        if self.config_name not in allowed:
            raise ValueError(
                f"{type(self).__name__} has no configuration {self.config_name!r}; choose one of {', '.join(allowed)}."
            )
        info = evaluate.MetricInfo(
            description=self.DESCRIPTION,
            citation=self.CITATION,
            inputs_description=self.INPUTS,
            features=Features(self.columns()),
            reference_urls=[self.URL],
        )
        info.format = "arrow"  # set here: the constructor allows formats for plain values only
        return info

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict[str, Any] | None:
        """Result of everything added so far and of the rows given here."""
        given = {"predictions": predictions, "references": references, **kwargs}
        given = {name: value for name, value in given.items() if value is not None}
        options = {name: given.pop(name) for name in list(given) if name in self._options()}
        if given:
            self.add_batch(**given)
        if self.writer is None:
            raise ValueError(
                f"{self.name}: there is nothing to compute; give rows here or by add_batch first."
            )
        try:
            return super().compute(**options)
        except Exception:
            self._discard()
            raise

    def add_batch(self, *, predictions=None, references=None, **kwargs) -> None:
        """Add rows: arrays, tensors or lists, one entry per image."""
        given = {"predictions": predictions, "references": references, **kwargs}
        given = {name: value for name, value in given.items() if value is not None}
        batch = self._batch(self.flatten(given))
        super().add_batch(**batch)

    def add(self, *, prediction=None, reference=None, **kwargs) -> None:
        """Add one row."""
        given = {"predictions": prediction, "references": reference, **kwargs}
        given = {name: value for name, value in self.flatten(given).items() if value is not None}
        self.add_batch(
            **{n: [v] if isinstance(v, (str, int)) else to_numpy(v)[None] for n, v in given.items()}
        )

    def _feature_names(self) -> list[str]:
        """Names of the inputs; those that were given, where `evaluate.combine` asks, which knows no optional ones."""
        names, caller = super()._feature_names(), inspect.currentframe().f_back.f_locals
        if not isinstance(caller.get("self"), CombinedEvaluations):
            return names
        return [name for name in names if name in ("predictions", "references", *caller["kwargs"])]

    def flatten(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Columns by the names of the features; overridden where users may give nested dictionaries."""
        return dict(given)

    def _options(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.score).parameters)[1:]

    def _batch(self, given: dict[str, Any]) -> dict[str, list | np.ndarray]:
        features = self.features
        if unknown := [name for name in given if name not in features]:
            raise ValueError(
                f"{self.name} does not know {', '.join(map(repr, unknown))}; its inputs are {', '.join(features)}"
                f"{' and its options ' + ', '.join(self._options()) if self._options() else ''}."
            )
        batch = {name: _encode(name, value, features[name]) for name, value in given.items()}
        lengths = {name: len(value) for name, value in batch.items()}
        rows = max(lengths.values(), default=0)
        if rows == 0 or (0 in lengths.values()):
            raise ValueError(f"{self.name}: empty batch; every input needs at least one row, got {lengths}.")
        if "patients" in features and "patients" not in batch:
            batch["patients"] = [""] * rows
            lengths["patients"] = rows
        if self.UNPAIRED:
            return {
                name: [*batch.get(name, ()), *[_missing(feature)] * (rows - lengths.get(name, 0))]
                for name, feature in features.items()
            }
        if missing := [name for name in features if name not in batch]:
            raise ValueError(
                f"{self.name}: {', '.join(missing)} missing; its inputs are {', '.join(features)}."
            )
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{self.name}: inputs must have the same number of rows, got {lengths}.")
        return {name: batch[name] for name in features}

    def _compute(self, **kwargs: Any) -> dict[str, Any]:
        data = {name: _decode(name, kwargs.pop(name)) for name in self._feature_names()}
        return self.score(data, **kwargs)

    def _discard(self) -> None:
        """Frees the cache files of a failed computation."""
        for lock, path in zip(self.filelocks or (), self.file_paths or ()):
            self.data = None
            if os.path.exists(path):
                os.remove(path)
            lock.release()
        self.filelocks = self.file_paths = None


def weights_of(patients: list[str], n_resamples: int, seed: int) -> np.ndarray:
    """Bootstrap weights of a `patients` column, where "" stands for a patient of his own."""
    return patient_weights(patient_names(patients), n_resamples, seed)


def patient_names(patients: list[str]) -> list[str]:
    """A `patients` column with a name of its own for every ""."""
    return [patient or f"\0{row:012d}" for row, patient in enumerate(patients)]


def to_masks(name: str, flat: np.ndarray, width: int | None) -> np.ndarray:
    """A column of flattened images as `(N, H, W)`; *width* None takes them to be square.

    Raises:
        ValueError: naming the column, where the number of pixels does not fit the width.
    """
    pixels = flat.shape[1]
    side = math.isqrt(pixels) if width is None else width
    if width is None and side * side != pixels:
        raise ValueError(
            f"{name}: images of {pixels} pixels are not square; give their width: compute(width=...)."
        )
    if side < 1 or pixels % side:
        raise ValueError(f"{name}: images of {pixels} pixels cannot have rows of width {width}.")
    return flat.reshape(len(flat), -1, side)


def group_results(groups: Mapping[str, Any]) -> dict[str, Any]:
    """Results by group (dataclasses with intervals) as one flat dictionary, `group_field` and `group_field_interval`."""
    out: dict[str, Any] = {}
    for group, result in groups.items():
        for field, value in vars(result).items():
            name = f"{group}_{field}"
            if isinstance(value, tuple):
                out |= with_intervals({name: value})
            elif isinstance(value, list) and value and isinstance(value[0], tuple):
                out |= {name: [v[0] for v in value], f"{name}_interval": [list(v[1:]) for v in value]}
            else:
                out[name] = value.tolist() if isinstance(value, np.ndarray) else value
    return out


def mean_with_interval(
    name: str, values: np.ndarray, patients: list[str], n_resamples: int, seed: int
) -> dict[str, Any]:
    """Mean of a number per image (NaN left out) with its interval by patient."""
    weights = weights_of(patients, n_resamples, seed)
    return with_intervals({name: interval(mean_samples(values, weights))})


def with_intervals(results: Mapping[str, Interval]) -> dict[str, Any]:
    """`name: estimate` and `name_interval: [low, high]` for each."""
    out: dict[str, Any] = {}
    for name, (estimate, low, high) in results.items():
        out |= {name: estimate, f"{name}_interval": [low, high]}
    return out


def _missing(feature: Value | Sequence) -> Any:
    """What stands in an unpaired column where the longer ones go on: plain values have no null."""
    return "" if feature == TEXT else math.nan if feature == NUMBER else None


def _encode(name: str, value: Any, feature: Value | Sequence) -> list[str] | np.ndarray:
    if feature == TEXT:
        values = value.tolist() if hasattr(value, "tolist") else list(value)
        return [str(v) for v in values]
    single = feature == NUMBER
    try:
        array = to_numpy(value, np.float64 if single else feature.feature.dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, all rows of one shape: {error}.") from None
    if single and array.ndim != 1:
        raise ValueError(f"{name} must have one number per row, got shape {array.shape}.")
    if not single and array.ndim < 2:
        raise ValueError(f"{name} must have one vector or image per row, got shape {array.shape}.")
    return array if single else array.reshape(len(array), math.prod(array.shape[1:]))


def _decode(name: str, column: pa.ChunkedArray) -> Any:
    array = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        sizes = pc.unique(pc.list_value_length(array).drop_null()).to_pylist()
        if len(sizes) > 1:
            raise ValueError(f"{name}: rows have different sizes {sizes}; all must be of one shape.")
        flat = array.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(-1, sizes[0]) if sizes else flat.reshape(0, 0)
    return array.to_pylist() if pa.types.is_string(array.type) else array.to_numpy(zero_copy_only=False)


CITATION_AMPLIFICATION = """@inproceedings{xia2024mitigating,
    title={Mitigating attribute amplification in counterfactual image generation},
    author={Xia, Tian and Roschewitz, M{\\'e}lanie and De Sousa Ribeiro, Fabio and Jones, Charles and Glocker, Ben},
    booktitle={MICCAI},
    year={2024}
}
"""
CITATION_AXIOMS = """@inproceedings{monteiro2023measuring,
    title={Measuring axiomatic soundness of counterfactual image models},
    author={Monteiro, Miguel and De Sousa Ribeiro, Fabio and Pawlowski, Nick and Castro, Daniel C. and Glocker, Ben},
    booktitle={ICLR},
    year={2023}
}
"""
CITATION_BENCHMARK = """@inproceedings{melistas2024benchmarking,
    title={Benchmarking counterfactual image generation},
    author={Melistas, Thomas and Spyrou, Nikos and Gkouti, Nefeli and Sanchez, Pedro and Vlontzos, Athanasios and
        Panagakis, Yannis and Papanastasiou, Giorgos and Tsaftaris, Sotirios A.},
    booktitle={NeurIPS Datasets and Benchmarks},
    year={2024}
}
"""
CITATION_EXPLAINING = """@article{singla2023explaining,
    title={Explaining the black-box smoothly: a counterfactual approach},
    author={Singla, Sumedha and Eslami, Motahhare and Pollack, Brian and Wallace, Stephen and Batmanghelich, Kayhan},
    journal={Medical Image Analysis},
    volume={84},
    year={2023}
}
"""
URL_EXPLAINING = "https://arxiv.org/abs/2101.04230"
CITATION_PACKAGE = """@software{cf_cxr,
    title={cf_cxr: counterfactual chest X-rays}
}
"""
