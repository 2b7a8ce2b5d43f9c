"""A model folder: weights at the precision asked for, processor and card; and the same on the Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import PreTrainedModel

from ..images.image_processing_cxr import CXRImageProcessor
from ..model_cards.card import ModelCardFacts, model_card
from ..training.loop.arguments import _choice, _option, read_config
from ..training.loop.run_folder import OutputDirectoryError

DTYPES = ["float32", "bfloat16", "float16"]


@dataclass
class FolderArguments:
    """Where a model goes, how it is stored, and what its card says."""

    _argument_group_name = "Packaging"

    output_dir: str = _option("outputs/packaged", "Where the model goes.")
    overwrite_output_dir: bool = _option(False, "Replace a model that is there.")
    card: str | None = _option(
        None, "YAML or JSON file with the card's facts: name, license, training_data, ..."
    )
    results: str | None = _option(None, "results.json of the model's evaluation, for the card.")
    storage_dtype: str | None = _choice(
        None,
        DTYPES,
        "Precision of the numbers in the file, that of the model unless given. float16 halves a float32 "
        "model's file; it still loads and computes in float32, with weights rounded to 11 bits.",
    )
    push_to_hub: str | None = _option(None, "Upload to this Hub repository.")

    def check_folder(self) -> None:
        """Raises OutputDirectoryError for a folder that holds a model, unless that is to be replaced."""
        if (Path(self.output_dir) / "config.json").exists() and not self.overwrite_output_dir:
            raise OutputDirectoryError(
                f"{self.output_dir!r} already holds a model; use another --output_dir or --overwrite_output_dir."
            )

    def read_card(self, **defaults: Any) -> tuple[ModelCardFacts, dict[str, Any] | None]:
        """The facts of the file `card`, else those given; and the numbers of `results`.

        Raises:
            ValueError: a file cannot be read, or has a key that a card does not know.
        """
        given = defaults if self.card is None else read_config(self.card)
        known = [f.name for f in fields(ModelCardFacts)]
        if unknown := [key for key in given if key not in known]:
            raise ValueError(
                f"{self.card}: a card knows no {', '.join(map(str, unknown))}; it knows {', '.join(known)}."
            )
        try:
            found = self.results and json.loads(Path(self.results).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"--results {self.results} is no JSON ({error}); give results.json of an evaluation."
            ) from error
        return ModelCardFacts(**given), found

    def write(
        self,
        model: PreTrainedModel,
        processor: CXRImageProcessor,
        facts: ModelCardFacts,
        results: dict[str, Any] | None,
    ) -> Path:
        """Writes the folder, uploads it as it lies there if that is asked for, and returns it.

        Raises:
            ValueError: a weight is too large for `storage_dtype`.
        """
        folder = Path(self.output_dir)
        dtype = getattr(torch, self.storage_dtype) if self.storage_dtype else model.dtype
        model.save_pretrained(folder, state_dict=stored_weights(model, dtype))
        processor.save_pretrained(folder)
        card = model_card(model.config, facts, results, self.push_to_hub)
        (folder / "README.md").write_text(str(card), encoding="utf-8")
        if self.push_to_hub:
            api = HfApi()
            api.create_repo(self.push_to_hub, exist_ok=True)
            api.upload_folder(
                repo_id=self.push_to_hub,
                folder_path=folder,
                allow_patterns=["*.json", "*.safetensors", "README.md"],
            )
        print(f"{folder}: {sum(p.numel() for p in model.parameters())} parameters")
        return folder


def stored_weights(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The state dict with floating-point tensors rounded to `dtype`.

    Raises:
        ValueError: a weight is too large for it.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        state[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if not torch.isfinite(state[name]).all():
            raise ValueError(
                f"Weight {name!r} reaches {tensor.abs().max():g}, too large for {str(dtype).removeprefix('torch.')}."
            )
    return state
