"""`pipeline("chest-xray-counterfactual")`: a radiograph and an intervention in, the counterfactual out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from ..attributes import AttributeSchema
from .base import CXRPipeline, item_generator, whole_number
from .inputs import PipelineItem

_OPTIONS = ("attributes", "do", "generator", "invert", "num_samples", "on_error", "seed")


class CounterfactualPipeline(CXRPipeline):
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

    kind, example = "counterfactual", "do={...}"

    def __init__(self, model, *args, **kwargs):
        if lacking := [part for part in ("schema", "predict", "counterfactual") if not hasattr(model, part)]:
            raise TypeError(
                f"{type(model).__name__} cannot make counterfactuals: it has no {', '.join(lacking)}. "
                "Give a DeepSCMModel or the name of one."
            )
        super().__init__(model, *args, **kwargs)

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
        return self.run(images, attributes, kwargs, num_workers=num_workers, batch_size=batch_size)

    def option_names(self) -> Sequence[str]:
        """See `__call__`; those of the image mechanism too."""
        return sorted({*_OPTIONS, *getattr(self.model, "mechanism_options", ())})

    def check_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """With `do` as a list of raw interventions."""
        if "do" in given:
            given["do"], given["as_list"] = self._check_do(given["do"]), not isinstance(given["do"], Mapping)
        if "num_samples" in given:
            given["num_samples"] = whole_number("num_samples", given["num_samples"], minimum=1)
        if "seed" in given and "generator" in given:
            raise ValueError("Give seed or generator, not both.")
        if "seed" in given or "generator" in given:  # one of the call replaces the other of the constructor
            given = {"seed": None, "generator": None, **given}
        return given

    def _check_do(self, do: Any) -> list[dict[str, float]]:
        if isinstance(do, Mapping):
            return [self.schema.validate_do(do)]
        if isinstance(do, (list, tuple)) and do:
            return [self.schema.validate_do(one) for one in do]
        raise TypeError(
            f"do must be a dictionary of variable to value, or a non-empty list of these, got {do!r}."
        )

    def complete_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Those that were checked, if they ask for something that can be computed."""
        if "do" not in options:
            raise ValueError(
                f"Say which intervention: do={{{self.schema.names[-1]!r}: ...}}, with any of "
                f"{', '.join(self.schema.names)}; do={{}} is the null intervention."
            )
        if (draws := options.get("num_samples", 1)) > 1:
            check_draws_fit(self.model, self.image_processor.size["height"], draws, len(options["do"]))
        return options

    def compute(
        self,
        pixel_values: Tensor,
        attributes: Tensor,
        indices: Sequence[int],
        *,
        do: list[dict],
        as_list: bool,
        num_samples: int = 1,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> list[dict]:
        """Abducts once and decodes K interventions."""
        model, given = self.model, ~attributes.isnan()
        before = model.predict(pixel_values)
        attributes = torch.where(given, attributes, before.mode().to(attributes))
        if seed is None or num_samples > 1:
            draw = {"num_samples": num_samples, **options}
            if seed is None:
                outs = [model.counterfactual(pixel_values, attributes, do, generator=generator, **draw)]
            else:  # S * K images to decode for each: a batch by itself
                rows = zip(pixel_values.split(1), attributes.split(1), indices)
                outs = [
                    model.counterfactual(x, a, do, generator=item_generator(seed, i), **draw)
                    for x, a, i in rows
                ]
            out = type(outs[0])(**{name: torch.cat([out[name] for out in outs]) for name in outs[0]})
        else:
            noise = model.abduct(pixel_values, attributes, **options)  # of the image: its mean, nothing drawn
            drawn = [
                model.attribute_scm.abduct(a, generator=item_generator(seed, i))
                for a, i in zip(attributes.split(1), indices)
            ]
            noise.attributes = type(drawn[0])({n: torch.cat([d[n] for d in drawn]) for n in drawn[0]})
            out = model.counterfactual(None, None, do, noise=noise, **options)
        after = model.predict(out.pixel_values.flatten(0, 1)).records()
        return [
            {
                "do": do,
                "as_list": as_list,
                "factual_image": pixel_values[row].float(),
                "images": out.pixel_values[row].float(),
                "std": None if out.std is None else out.std[row].float(),
                "attributes": out.attributes[row],
                "factual_attributes": attributes[row],
                "given": given[row],
                "before": said,
                "after": after[row * len(do) : (row + 1) * len(do)],
            }
            for row, said in enumerate(before.records())
        ]

    def finish(self, result: Mapping[str, Any], item: PipelineItem, doubt: str | None) -> dict | list[dict]:
        """The dictionaries that `__call__` describes."""
        factual_image, *pictures = self.image_processor.postprocess(
            torch.cat([result["factual_image"][None], result["images"]]), output_type="pil"
        )
        values = self.schema.to_records(result["attributes"])
        [factual] = self.schema.to_records(result["factual_attributes"][None])
        from_file = item.from_file
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
        return records if result["as_list"] else records[0]


def check_draws_fit(model: Any, image_size: int, num_samples: int, interventions: int) -> None:
    """Refuses draws whose images cannot be decoded at once.

    All draws of an image under all interventions are one batch of the decoder. Each is reckoned as one feature map of
    its widest layer at full resolution: 23 MB for the bundled model at 128 x 128 pixels, where 18 to 22 MB were
    measured.

    Args:
        model: that decodes.
        image_size: side of an image in pixels.
        num_samples: draws of an image.
        interventions: on each.

    Raises:
        ValueError: with the estimate, what is available and how many draws fit.
    """
    mechanism = getattr(model, "image_mechanism", model)
    width = max((m.out_channels for m in mechanism.modules() if isinstance(m, nn.Conv2d)), default=1)
    each = interventions * width * image_size**2 * model.dtype.itemsize
    if model.device.type == "cuda":
        cached = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
        available = torch.cuda.mem_get_info(model.device)[0] + cached
    else:
        available = psutil.virtual_memory().available
    if num_samples * each > available:
        raise ValueError(
            f"num_samples={num_samples} needs about {num_samples * each / 1e9:,.1f} GB of memory ({interventions} "
            f"interventions, {each / 1e6:.3g} MB a draw), but {available / 1e9:.1f} GB are available on {model.device}. "
            f"At most {max(1, available // each)} draws fit."
        )


__all__ = ["CounterfactualPipeline", "check_draws_fit"]
