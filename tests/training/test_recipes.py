"""The YAML files in training/ are what their scripts read."""

from pathlib import Path

import pytest

from cf_cxr.training.anatomy_segmenter.trainer import SegmenterConfig
from cf_cxr.training.attribute_classifier.trainer import ClassifierConfig
from cf_cxr.training.attribute_scm.trainer import SCMConfig
from cf_cxr.training.causal_flow.trainer import FlowConfig
from cf_cxr.training.causal_hvae.trainer import HVAEConfig
from cf_cxr.training.counterfactual_finetuning.arguments import CFTConfig
from cf_cxr.training.loop.arguments import DataArguments, parse_arguments

FOLDER = Path(__file__).parents[2] / "training"
KINDS = {
    "finetune*": CFTConfig,
    "warm_up": CFTConfig,
    "flow": FlowConfig,
    "segmenter": SegmenterConfig,
    "hvae": HVAEConfig,
    "scm": SCMConfig,
    **dict.fromkeys(("*classifier*", "judge", "black_box_*"), ClassifierConfig),
}
FILES = [(path, config) for name, config in KINDS.items() for path in sorted(FOLDER.glob(f"*/{name}.yaml"))]


@pytest.mark.parametrize(("path", "config"), FILES, ids=lambda value: getattr(value, "stem", ""))
def test_a_recipe_is_read(path, config):
    data, args = parse_arguments((DataArguments, config), [str(path)])
    assert args.output_dir.startswith(f"outputs/{path.parent.name}/") and data.resolution in (64, 128)
    assert (args.eval_strategy == "no") == ('eval_strategy: "no"' in path.read_text())
