"""Compare explainers of one classifier by their evaluations on the same images: one Markdown table.

    python training/compare_explainers.py --runs "progressive=outputs/eval_explainer" "lungs only=outputs/eval_lungs" \
        "latent shift=outputs/eval_shift" --output_dir outputs/explainer_comparison

The folders are from training/evaluate_explainer.py. All arguments: `--help`.
"""

from cf_cxr.evaluation.explanations.comparison import main
from cf_cxr.training.loop.script import run_script

if __name__ == "__main__":
    run_script(main)
