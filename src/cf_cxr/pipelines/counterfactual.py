"""`pipeline("chest-xray-counterfactual")`: a radiograph and an intervention in, the counterfactual out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Pipeline

from ..attributes import AttributeSchema
from ..model_cards.card import PushesOwnCard
from .inputs import (
    PipelineItem,
    check_attributes,
    item_tensors,
    pipeline_inputs,
    warn_if_unusual,
    whole_number,
)
from .memory import check_draws_fit
from .per_item import LOADING_OPTIONS, compute_per_item, finish_item, set_common_options


class CounterfactualPipeline(PushesOwnCard, Pipeline):
    """What would this radiograph look like if the patient, or the acquisition, were different?

    Abduction, action, prediction with a `DeepSCMModel` (Pearl's three steps; Xia et al., MICCAI 2024): the noise of
    the attributes and of the image is inferred once, then decoded under every intervention. Build it with
    `transformers.pipeline` after `import cf_cxr`:

        import cf_cxr
        from transformers import pipeline

        pipe = pipeline("chest-xray-counterfactual")
        out = pipe("chest.png", attributes={"age": 63}, do={"finding": "Effusion"})
        out["image"].save("with_effusion.png")

    Args:
        model: a `DeepSCMModel`, or any model with `schema`, `predict` and `counterfactual`. It is put in
            evaluation mode.
        image_processor: the `CXRImageProcessor` that makes the model's pixel values.
        kwargs: as for every pipeline (`device`, `batch_size`, `num_workers`), and defaults of the arguments of
            `__call__`.

    Raises:
        TypeError: the model cannot make counterfactuals, or there is no image processor.
    """

    _load_processor = False
    _load_image_processor = True
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model, *args, **kwargs):
        if lacking := [part for part in ("schema", "predict", "counterfactual") if not hasattr(model, part)]:
            raise TypeError(
                f"{type(model).__name__} cannot make counterfactuals: it has no {', '.join(lacking)}. "
                "Give a DeepSCMModel or the name of one."
            )
        super().__init__(model, *args, **kwargs)
        if self.image_processor is None:
            raise TypeError(
                "A counterfactual pipeline needs the image processor of its model: pass "
                "image_processor=CXRImageProcessor.from_pretrained(...)."
            )
        self.model.eval()

    @property
    def schema(self) -> AttributeSchema:
        """The attributes that can be given and intervened on."""
        return self.model.schema

    def __call__(self, images=None, *, attributes=None, num_workers=None, batch_size=None, **kwargs):
        """Makes counterfactuals.

        Args:
            images: one image (anything `CXRImageProcessor` reads), a list of images, an array `(B, ...)` of at least
                four dimensions, a generator, a torch `Dataset`, a `datasets` column or a whole `datasets.Dataset`
                with a column `image`. In place of an image, a dictionary `{"image": ..., "attributes": {...}}`, or
                a row of a data set: columns named like an attribute are used, the others are not.
            attributes: what is known about the patient and the acquisition, in human values (`{"age": 63, "sex":
                "Female"}`), as far as it is known: the rest is inferred from the image. One dictionary holds for
                every image; a list of dictionaries runs parallel to the images.
            do: the intervention, e.g. `{"finding": "Effusion"}`; `{}` is the null intervention, which gives the
                image back. A list of dictionaries asks for several counterfactuals of each image, at the price of
                one abduction.
            num_samples: draws of the exogenous noise. With more than one, `image` is their mean and `std` their
                per-pixel standard deviation.
            seed: makes the draws reproducible: the same seed and images give the same result, whatever the batch
                size. Not together with `generator`.
            generator: a `torch.Generator` to draw from.
            options: of the model's image mechanism, by name; those of a causal flow are `num_inference_steps`,
                `guidance_scale`, `guidance` and `show_progress` (see `CausalFlowModel`), a causal HVAE has none.
            invert: True exchanges black and white of every image; `"auto"` does so where one looks inverted.
            on_error: `"raise"` stops at an image that cannot be used; `"report"` gives
                `{"error": message, "file": name}` in its place, at whatever stage it fails, and the rest goes on.
            num_workers, batch_size: as for every pipeline.

        Returns:
            For one image, a dictionary (a list of dictionaries if `do` is a list):

            - `image`: the counterfactual, a grey PIL image of the model's size S;
            - `factual_image`: the input as the model sees it, cropped and resized;
            - `difference`: counterfactual - factual, float32 array `(S, S)` in [-2, 2] (images span [-1, 1], so
              2/255 is one grey level); positive means brighter than the input;
            - `std`: with `num_samples > 1`, float32 array `(S, S)` on the same scale;
            - `attributes`, `factual_attributes`: counterfactual and factual values by name, in the units of
              `units`, e.g. `{"age": "years"}`;
            - `given_by`: where each factual attribute comes from, by name: `"argument"` (given, or a column of a
              data set), `"file"` (the DICOM header's age, sex and view, where they are not given) or `"inferred"`
              (the classifier's most probable value);
            - `inferred`: the names of the latter;
            - `do`: the intervention, in human values;
            - `predictions`: `{"before": ..., "after": ...}`, the classifier's calibrated posteriors on the factual
              and on the counterfactual image: `{class: probability}`, or `{"mean": ..., "std": ...}`;
            - `out_of_distribution`: None, or what makes the image unlike those of the training: `distance`, `limit`,
              `looks` and `corrected` (see `CXRImageProcessor.examine`).

            A list of these for a list or an array; an iterator of these, computed on demand, for a generator, a
            `Dataset` or a column.

        Raises:
            UnknownAttributeError, AttributeValueError: a variable or value in `do` or `attributes` that the
                model does not know. Raised before any image is read.
            ValueError: `do` is missing, a list of `attributes` is not as long as the images, or `num_samples` do not
                fit into memory.
            TypeError: an unknown argument.

        Warns:
            OutOfDistributionWarning: for an image unlike those of the training, where the image processor records
                those (`usual_films`).
        """
        if images is None:
            raise ValueError("Give an image, or several: pipe('chest.png', do={...}).")
        if kwargs.get("do") is None and "do" not in self._forward_params:
            example = self.schema.names[-1]
            raise ValueError(
                f"Say which intervention: do={{{example!r}: ...}}, with any of {', '.join(self.schema.names)}; "
                "do={} is the null intervention."
            )
        _, forward, _ = self._sanitize_parameters(**kwargs)  # all is checked before the first image is read
        forward = {**self._forward_params, **forward}
        if (draws := forward.get("num_samples", 1)) > 1:
            check_draws_fit(self.model, self.image_processor.size["height"], draws, len(forward["do"]))
        kwargs |= {"num_workers": num_workers, "batch_size": batch_size}
        inputs, as_list = pipeline_inputs(
            images, self.schema.names, check_attributes(self.schema, attributes)
        )
        outputs = super().__call__(inputs, **kwargs)
        return list(outputs) if as_list else outputs

    def _sanitize_parameters(self, **kwargs):
        options = set(getattr(self.model, "mechanism_options", ()))
        allowed = {"do", "attributes", "num_samples", "seed", "generator", "on_error", "invert"} | options
        if unknown := set(kwargs) - allowed - LOADING_OPTIONS:
            raise TypeError(
                f"The counterfactual pipeline has no argument {', '.join(sorted(unknown))}; "
                f"it takes {', '.join(sorted(allowed))}."
            )
        kwargs = {name: value for name, value in kwargs.items() if name in allowed and value is not None}
        preprocess, postprocess = {}, {}
        forward = {name: kwargs[name] for name in options & set(kwargs)}
        if "attributes" in kwargs:
            if not isinstance(kwargs["attributes"], Mapping):
                raise TypeError(f"Default attributes are one dictionary, got {kwargs['attributes']!r}.")
            preprocess["attributes"] = check_attributes(self.schema, kwargs["attributes"])
        if "do" in kwargs:
            several = not isinstance(kwargs["do"], Mapping)
            forward["do"] = self._check_do(kwargs["do"])
            postprocess["as_list"] = several
        if "num_samples" in kwargs:
            forward["num_samples"] = whole_number("num_samples", kwargs["num_samples"], minimum=1)
        if "seed" in kwargs and "generator" in kwargs:
            raise ValueError("Give seed or generator, not both.")
        if "seed" in kwargs:
            forward |= {"seed": whole_number("seed", kwargs["seed"], minimum=0), "generator": None}
        if "generator" in kwargs:
            forward |= {"seed": None, "generator": kwargs["generator"]}
        set_common_options(kwargs, self.image_processor, preprocess, forward, postprocess)
        return preprocess, forward, postprocess

    def _check_do(self, do: Any) -> list[dict[str, float]]:
        if isinstance(do, Mapping):
            return [self.schema.validate_do(do)]
        if isinstance(do, (list, tuple)) and do:
            return [self.schema.validate_do(one) for one in do]
        raise TypeError(
            f"do must be a dictionary of variable to value, or a non-empty list of these, got {do!r}."
        )

    def preprocess(
        self,
        item: Any,
        attributes: Mapping | None = None,
        on_error: str = "raise",
        invert: bool | str = False,
    ) -> dict[str, Any]:
        """One input to tensors: `pixel_values` (1, 1, S, S), `attributes` (1, n) raw with NaN for unknown, and the
        `item` itself, which carries the error where one is reported."""
        return item_tensors(item, self.image_processor, self.schema, attributes, on_error, invert)

    def _forward(
        self,
        inputs: dict[str, Any],
        do: list[dict],
        num_samples: int = 1,
        seed: int | None = None,
        generator=None,
        on_error: str = "raise",
        **options,
    ) -> dict[str, list[dict]]:
        """Abducts once and decodes K interventions, for the images of a batch that could be read."""

        def compute(pixel_values: Tensor, attributes: Tensor, indices: Sequence[int]) -> list[dict]:
            given = ~attributes.isnan()
            before = self.model.predict(pixel_values)
            attributes = torch.where(given, attributes, before.mode().to(attributes))
            if seed is None:
                out = self.model.counterfactual(
                    pixel_values, attributes, do, num_samples=num_samples, generator=generator, **options
                )
            else:
                generators = [item_generator(seed, index) for index in indices]
                out = self._counterfactual_per_item(
                    pixel_values, attributes, do, num_samples, generators, options
                )
            after = self.model.predict(out.pixel_values.flatten(0, 1))
            before, after = before.records(), after.records()
            return [
                {
                    "do": do,
                    "factual_image": pixel_values[row].float(),
                    "images": out.pixel_values[row].float(),
                    "std": None if out.std is None else out.std[row].float(),
                    "attributes": out.attributes[row],
                    "factual_attributes": attributes[row],
                    "given": given[row],
                    "before": before[row],
                    "after": after[row * len(do) : (row + 1) * len(do)],
                }
                for row in range(len(indices))
            ]

        return {"results": compute_per_item(inputs, compute, on_error)}

    def _counterfactual_per_item(self, pixel_values, attributes, do, num_samples, generators, options):
        """As the model's `counterfactual`, but every image draws from its own generator."""
        rows = list(zip(pixel_values.split(1), attributes.split(1), generators))
        if num_samples > 1:  # S * K images to decode for each: a batch by itself
            outs = [
                self.model.counterfactual(x, a, do, num_samples=num_samples, generator=g, **options)
                for x, a, g in rows
            ]
            return type(outs[0])(**{name: torch.cat([out[name] for out in outs]) for name in outs[0]})
        noise = self.model.abduct(
            pixel_values, attributes, **options
        )  # of the image: the posterior mean, nothing drawn
        drawn = [self.model.attribute_scm.abduct(a, generator=g) for _, a, g in rows]
        noise.attributes = type(drawn[0])({name: torch.cat([d[name] for d in drawn]) for name in drawn[0]})
        return self.model.counterfactual(None, None, do, noise=noise, **options)

    def postprocess(
        self, outputs: dict[str, Any], as_list: bool = False, on_error: str = "raise"
    ) -> dict | list[dict]:
        """Tensors of one image to the dictionaries that `__call__` describes."""
        records = finish_item(outputs, self._records, on_error)
        return records[0] if isinstance(records, list) and not as_list else records

    def _records(self, result: Mapping[str, Any]) -> list[dict]:
        item: PipelineItem = result["item"]
        warn_if_unusual(item)
        factual_image = self.image_processor.postprocess(result["factual_image"][None], output_type="pil")[0]
        pictures = self.image_processor.postprocess(result["images"], output_type="pil")
        values = self.schema.to_records(result["attributes"])
        [factual] = self.schema.to_records(result["factual_attributes"][None])
        from_file = result["item"].from_file
        given_by = {
            name: "inferred" if not known else "file" if name in from_file else "argument"
            for name, known in zip(self.schema.names, result["given"])
        }
        records = []
        for k, do in enumerate(result["do"]):
            record = {
                "image": pictures[k],
                "factual_image": factual_image,
                "difference": (result["images"][k] - result["factual_image"])[0].numpy(),
                "attributes": values[k],
                "factual_attributes": factual,
                "units": {a.name: a.unit for a in self.schema if a.unit},
                "given_by": given_by,
                "inferred": [name for name, source in given_by.items() if source == "inferred"],
                "do": {name: self.schema[name].format(value) for name, value in do.items()},
                "predictions": {"before": result["before"], "after": result["after"][k]},
                "out_of_distribution": item.unusual,
            }
            if result["std"] is not None:
                record["std"] = result["std"][k, 0].numpy()
            records.append(record)
        return records


def item_generator(seed: int, index: int) -> torch.Generator:
    """The source of all draws for image `index` of a call, on the CPU; depends on nothing else."""
    [state] = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))
