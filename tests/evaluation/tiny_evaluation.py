"""Parts of a tiny evaluation: random models of a few thousand weights, and noise in the parquet layout."""

import io
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image

from cf_cxr import (
    AttributeClassifierConfig,
    AttributeClassifierModel,
    AttributeSCMConfig,
    AttributeSCMModel,
    CausalHVAEConfig,
    CausalHVAEModel,
    cxr_schema,
)
from cf_cxr.evaluation.counterfactuals.command import main
from cf_cxr.packaging.deep_scm import main as package

BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [4, 8],
    "depths": [1, 1],
    "layer_type": "basic",
}


def classifier(seed, source="parquet", **settings):
    torch.manual_seed(seed)
    schema, _ = cxr_schema(source)
    config = AttributeClassifierConfig(
        attributes=schema.to_list(),
        image_size=16,
        backbone_config=BACKBONE,
        initializer_range=1.0,
        standardize=False,
        **settings,
    )
    return AttributeClassifierModel(config).eval()


def build_parts(root: Path, source="parquet") -> Path:
    """Folders of the trained parts: scm, hvae, classifier, second, judge."""
    schema, graph = cxr_schema(source)
    torch.manual_seed(0)
    scm = AttributeSCMConfig(attributes=schema.to_list(), graph=graph.to_dict())
    AttributeSCMModel(scm).save_pretrained(root / "scm")
    config = CausalHVAEConfig(
        image_size=16,
        context_dim=schema.dim,
        encoder_blocks="16b1d4,4b1d4,1b1",
        decoder_blocks="1b1,4b1,16b1",
        widths=[8, 8, 8],
        z_dim=2,
        bottleneck=2,
        z_max_res=4,
        bias_max_res=4,
    )
    CausalHVAEModel(config).save_pretrained(root / "hvae")
    for seed, name in enumerate(("classifier", "second", "judge")):
        classifier(seed, source).save_pretrained(root / name)
    return root


def build_model(root: Path) -> Path:
    """A DeepSCM folder of `build_parts`, steered by the classifiers `classifier` and `second`."""
    return package(
        strings(
            "--attribute_scm", root / "scm", "--image_mechanism", root / "hvae", "--classifier", root / "classifier",
            "--training_classifiers", root / "second", "--output_dir", root / "deep_scm",
        )
    )  # fmt: skip


def write_split(folder, split, patients, rng, **columns):
    """One parquet file of 16x16 noise; a column replaces that of the default attributes."""
    rows = []
    for i, patient in enumerate(patients):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(buffer, "PNG")
        row = {
            "image": {"bytes": buffer.getvalue(), "path": None},
            "image_id": f"{patient}_{i}",
            "patient_id": str(patient),
            "age": 20 + i % 60,
            "sex": ("Male", "Female")[i % 2],
            "view": ("PA", "AP")[i // 2 % 2],
            "findings": [[], ["Effusion"], ["Mass"]][i % 3],
        }
        rows.append(row | columns)
    data = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    data.to_parquet(folder / f"{split}.parquet")


def write_data(folder: Path) -> Path:
    """24 patients per split; a third of the images has another finding, which is unknown."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for split, start in (("train", 0), ("validation", 100), ("test", 200)):
        write_split(folder, split, range(start, start + 24), rng)
    return folder


def strings(*words):
    return [str(word) for word in words]


def command(parts, data_dir, out, *words, judge="judge"):
    """Arguments of the evaluation command."""
    return strings(
        "--model", parts / "deep_scm", "--judge", parts / judge, "--data_dir", data_dir,
        "--cache_dir", parts / "cache", "--output_dir", out, "--n_resamples", 20, "--batch_size", 5,
        "--num_cycle_images", 6, "--cpu", "--no_plots", "--disable_tqdm", *words,
    )  # fmt: skip


def evaluate(parts, data_dir, out, *words, judge="judge"):
    return main(command(parts, data_dir, out, *words, judge=judge))
