"""Base class of the `evaluate` modules in `cf_cxr/metrics/modules`: columns in, arrays to a plain function, numbers out.

The module files refer to `evaluation_module.CXRMetric` and never import the class by name: `evaluate.load` takes the
first `EvaluationModule` that it finds in a file for the metric.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import evaluate
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, Sequence, Value
from evaluate.module import CombinedEvaluations

from .arrays import to_numpy
from .bootstrap import interval, mean_samples, patient_weights

NUMBER = Value("float64")
TEXT = Value("string")
NUMBERS = Sequence(Value("float64"))  # a vector per row, exact
PIXELS = Sequence(Value("float32"))  # an image (or feature vector) of any shape per row, flattened
IMAGES = Sequence(Value("float32"), id="image")  # the same, given to the function as (N, H, W)
PREDICTION = "prediction"  # probability of class 1, a mean in units, or one probability per class: as the configuration
KINDS = ("binary", "categorical", "continuous")

# What the base hands to a function, or adds to a description, besides its columns and options.
_GIVEN = ("kind", "weights", "patients", "name")
_PATIENTS = """
    patients: identifiers, read as text; images of one patient are resampled together. Optional: without them every
        image counts as a patient."""
_OPTIONS = {
    "width": """
    width (`int`): pixels per row; without it images are square.""",
    "extractor": """
    extractor (`str`): name of the network that made the features; required, and part of the result.""",
    "n_resamples": """
    n_resamples (`int`, 1000): bootstrap resamples of patients for the 95 % intervals.
    seed (`int`, 0): of the resamples; the same seed and patients pair two metrics or two models.""",
}


class CXRMetric(evaluate.Metric):
    """An evaluate module over a plain function of arrays.

    A subclass is a declaration: its docstring (description, `Args:` and `Returns:` of the module; patients, width,
    extractor and resamples are described here), and

    - `function`: a staticmethod whose first parameters are the columns in their order and whose others are the options;
      `kind` (the configuration), `patients` and `weights` (of the bootstrap by patient) are given if it asks for them.
      It returns a number, an array of a number per image, or a dictionary of these, of intervals, of dataclasses by
      group, or of anything else, which is passed on. Numbers per image become their mean with an interval.
    - `COLUMNS`: features by name. With "patients" among them there are the options n_resamples and seed.
    - `CONFIGS`: names of the configurations; the first is the default.
    - `UNPAIRED`: columns may differ in length, but those of one side, which begin with prediction or reference.
    - `EXTRACTOR`: the name of the network behind the features is asked for and repeated.
    """

    function: Callable[..., Any]
    COLUMNS: dict[str, Value | Sequence | str] = {}
    CONFIGS: tuple[str, ...] = ()
    CITATION = ""
    URL = "https://arxiv.org/abs/2403.09422"
    UNPAIRED = False
    EXTRACTOR = False

    def columns(self) -> dict[str, Value | Sequence]:
        """Features of this configuration."""
        prediction = NUMBERS if self.config_name == "categorical" else NUMBER
        return {name: prediction if kind == PREDICTION else kind for name, kind in self.COLUMNS.items()}

    def score(self, data: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Results of all collected rows, as arrays by column name."""
        given = {"kind": self.config_name}
        resampled = {
            name: options.get(name, default) for name, default in (("n_resamples", 1000), ("seed", 0))
        }
        if "patients" in data:
            # "" stands for a patient of his own
            names = [patient or f"\0{row:012d}" for row, patient in enumerate(data.pop("patients"))]
            given |= {"patients": names, "weights": patient_weights(names, **resampled), **resampled}
        parameters = inspect.signature(self.function).parameters
        arguments = dict(zip((name for name in parameters if name not in _GIVEN), data.values()))
        arguments |= {name: value for name, value in (given | options).items() if name in parameters}
        result = self.function(**arguments)
        return _flat(result if isinstance(result, dict) else {self.name: result}, given.get("weights"))

    def option_names(self) -> list[str]:
        parameters = inspect.signature(self.function).parameters
        names = [name for name in parameters if name not in _GIVEN][
            len(self.COLUMNS) - ("patients" in self.COLUMNS) :
        ]
        names += ["n_resamples", "seed"] if "patients" in self.COLUMNS else []
        names += ["width"] if IMAGES in self.COLUMNS.values() else []
        return [*dict.fromkeys(names + ["extractor"] * self.EXTRACTOR)]

    def _info(self) -> evaluate.MetricInfo:
        if self.CONFIGS and self.config_name == "default":
            self.config_name = self.CONFIGS[0]
        allowed = self.CONFIGS or ("default",)
        if self.config_name not in allowed:
            raise ValueError(
                f"{type(self).__name__} has no configuration {self.config_name!r}; choose one of {', '.join(allowed)}."
            )
        description, _, inputs = inspect.getdoc(type(self)).partition("\n\nArgs:")
        arguments, _, returns = inputs.partition("\n\nReturns:")
        shared = _PATIENTS * ("patients" in self.COLUMNS)
        shared += "".join(text for name, text in _OPTIONS.items() if name in self.option_names())
        info = evaluate.MetricInfo(
            description=description,
            citation=self.CITATION,
            inputs_description=f"\nArgs:{arguments}{shared}\nReturns:{returns}\n",
            features=Features(self.columns()),
            reference_urls=[self.URL],
        )
        info.format = "arrow"  # set here: the constructor allows formats for plain values only
        return info

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict[str, Any] | None:
        """Result of everything added so far and of the rows given here."""
        given = {"predictions": predictions, "references": references, **kwargs}
        given = {name: value for name, value in given.items() if value is not None}
        options = {name: given.pop(name) for name in self.option_names() if name in given}
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
        super().add_batch(**self._batch(self.flatten({n: v for n, v in given.items() if v is not None})))

    def add(self, *, prediction=None, reference=None, **kwargs) -> None:
        """Add one row."""
        given = self.flatten({"predictions": prediction, "references": reference, **kwargs})
        rows = {
            n: [v] if isinstance(v, (str, int)) else to_numpy(v)[None]
            for n, v in given.items()
            if v is not None
        }
        self.add_batch(**rows)

    def flatten(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Columns by the names of the features; overridden where users may give nested dictionaries."""
        return dict(given)

    def _feature_names(self) -> list[str]:
        """Names of the inputs; those that were given, where `evaluate.combine` asks, which knows no optional ones."""
        names, caller = super()._feature_names(), inspect.currentframe().f_back.f_locals
        if not isinstance(caller.get("self"), CombinedEvaluations):
            return names
        return [name for name in names if name in ("predictions", "references", *caller["kwargs"])]

    def _batch(self, given: dict[str, Any]) -> dict[str, list | np.ndarray]:
        features = self.features
        if unknown := [name for name in given if name not in features]:
            options = self.option_names()
            raise ValueError(
                f"{self.name} does not know {', '.join(map(repr, unknown))}; its inputs are {', '.join(features)}"
                f"{' and its options ' + ', '.join(options) if options else ''}."
            )
        batch = {name: _encode(name, value, features[name]) for name, value in given.items()}
        lengths = {name: len(value) for name, value in batch.items()}
        rows = max(lengths.values(), default=0)
        if rows == 0 or (0 in lengths.values()):
            raise ValueError(f"{self.name}: empty batch; every input needs at least one row, got {lengths}.")
        if self.UNPAIRED:  # plain values have no null to stand where the longer columns go on
            missing = {
                name: "" if f == TEXT else math.nan if f == NUMBER else None for name, f in features.items()
            }
            return {n: [*batch.get(n, ()), *[gap] * (rows - lengths.get(n, 0))] for n, gap in missing.items()}
        if "patients" in features and "patients" not in batch:
            batch["patients"], lengths["patients"] = [""] * rows, rows
        if missing := [name for name in features if name not in batch]:
            raise ValueError(
                f"{self.name}: {', '.join(missing)} missing; its inputs are {', '.join(features)}."
            )
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{self.name}: inputs must have the same number of rows, got {lengths}.")
        return {name: batch[name] for name in features}

    def _compute(
        self, width: int | None = None, extractor: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        data = {name: _decode(name, kwargs.pop(name)) for name in self._feature_names()}
        if self.EXTRACTOR and not extractor:
            raise ValueError("Name the network that made the features: compute(..., extractor=...).")
        if self.UNPAIRED:
            data = _without_gaps(data)
        for name in data:
            if self.COLUMNS.get(name) == IMAGES:
                data[name] = _images(name, data[name], width)
        return {**self.score(data, **kwargs), **({"extractor": extractor} if self.EXTRACTOR else {})}

    def _discard(self) -> None:
        """Frees the cache files of a failed computation."""
        for lock, path in zip(self.filelocks or (), self.file_paths or ()):
            self.data = None
            if os.path.exists(path):
                os.remove(path)
            lock.release()
        self.filelocks = self.file_paths = None


def _flat(results: Mapping[str, Any], weights: np.ndarray | None, prefix: str = "") -> dict[str, Any]:
    """One flat dictionary in plain types: an interval becomes `name` and `name_interval`, a dataclass `name_field`."""
    out: dict[str, Any] = {}
    for name, value in results.items():
        name = prefix + name
        if hasattr(value, "__dataclass_fields__"):
            out |= _flat(vars(value), None, f"{name}_")
            continue
        if isinstance(value, np.ndarray) and weights is not None:
            value = interval(mean_samples(value, weights))
        if isinstance(value, tuple):
            out |= {name: value[0], f"{name}_interval": list(value[1:])}
        elif isinstance(value, list) and value and isinstance(value[0], tuple):
            out |= {name: [v[0] for v in value], f"{name}_interval": [list(v[1:]) for v in value]}
        else:
            out[name] = value.tolist() if isinstance(value, np.ndarray) else value
    return out


def _without_gaps(data: dict[str, Any]) -> dict[str, Any]:
    """Columns without the rows that fill up the shorter ones; those of one side must agree in length."""
    kept = {
        n: c[~np.isnan(c)] if np.ndim(c) == 1 and isinstance(c, np.ndarray) else c for n, c in data.items()
    }
    kept = {n: [v for v in c if v] if isinstance(c, list) else c for n, c in kept.items()}
    for side in ("prediction", "reference"):
        lengths = {name: len(column) for name, column in kept.items() if name.startswith(side)}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"{', '.join(lengths)} must have the same number of rows (NaN and empty names left out), got "
                f"{', '.join(map(str, lengths.values()))}."
            )
    return kept


def _images(name: str, flat: np.ndarray, width: int | None) -> np.ndarray:
    """Flattened images as `(N, H, W)`; *width* None takes them to be square."""
    pixels = flat.shape[1]
    side = math.isqrt(pixels) if width is None else width
    if width is None and side * side != pixels:
        raise ValueError(
            f"{name}: images of {pixels} pixels are not square; give their width: compute(width=...)."
        )
    if side < 1 or pixels % side:
        raise ValueError(f"{name}: images of {pixels} pixels cannot have rows of width {width}.")
    return flat.reshape(len(flat), -1, side)


def _encode(name: str, value: Any, feature: Value | Sequence) -> list[str] | np.ndarray:
    if feature == TEXT:
        return [str(v) for v in (value.tolist() if hasattr(value, "tolist") else value)]
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


AMPLIFICATION = """@inproceedings{xia2024mitigating,
    title={Mitigating attribute amplification in counterfactual image generation},
    author={Xia, Tian and Roschewitz, M{\\'e}lanie and De Sousa Ribeiro, Fabio and Jones, Charles and Glocker, Ben},
    booktitle={MICCAI}, year={2024}
}"""
AXIOMS = """@inproceedings{monteiro2023measuring,
    title={Measuring axiomatic soundness of counterfactual image models},
    author={Monteiro, Miguel and De Sousa Ribeiro, Fabio and Pawlowski, Nick and Castro, Daniel C. and Glocker, Ben},
    booktitle={ICLR}, year={2023}
}"""
BENCHMARK = """@inproceedings{melistas2024benchmarking,
    title={Benchmarking counterfactual image generation},
    author={Melistas, Thomas and Spyrou, Nikos and Gkouti, Nefeli and Sanchez, Pedro and Vlontzos, Athanasios and
        Panagakis, Yannis and Papanastasiou, Giorgos and Tsaftaris, Sotirios A.},
    booktitle={NeurIPS Datasets and Benchmarks}, year={2024}
}"""
EXPLAINING = """@article{singla2023explaining,
    title={Explaining the black-box smoothly: a counterfactual approach},
    author={Singla, Sumedha and Eslami, Motahhare and Pollack, Brian and Wallace, Stephen and Batmanghelich, Kayhan},
    journal={Medical Image Analysis}, volume={84}, year={2023}
}"""
EXPLAINING_URL = "https://arxiv.org/abs/2101.04230"
PACKAGE = """@software{cf_cxr, title={cf_cxr: counterfactual chest X-rays}}"""
