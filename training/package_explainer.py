"""Package a trained explainer: weights, processor and model card in one folder.

    python training/package_explainer.py --explainer outputs/nih_cxr14_128/explainer \
        --card training/nih_cxr14_128/explainer_card.yaml --results outputs/nih_cxr14_128/evaluation/results.json \
        --storage_dtype float16 --output_dir outputs/explainer-nih-128

All arguments: `--help`.
"""

from cf_cxr.packaging.explainer import main
from cf_cxr.training.loop.script import run_script

if __name__ == "__main__":
    run_script(main)
