"""Compare methods by their evaluations on the same images: one table with intervals and paired differences.

    python training/compare_counterfactuals.py --runs none=outputs/eval_none hard=outputs/eval_h1,outputs/eval_h2 \
        soft=outputs/eval_s1,outputs/eval_s2 --reference hard --output_dir outputs/comparison

A method's folders, from training/evaluate_counterfactuals.py, are its seeds. All arguments: `--help`.
"""

from cf_cxr.evaluation.counterfactuals.comparison import main
from cf_cxr.training.loop.script import run_script

if __name__ == "__main__":
    run_script(main)
