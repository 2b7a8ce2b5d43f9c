"""Measure counterfactuals on a test split by an independent judge: effectiveness, amplification, soundness.

    accelerate launch training/evaluate_counterfactuals.py --model outputs/deep_scm --judge outputs/judge \
        --dataset parquet --data_dir path/to/parquet --output_dir outputs/evaluation

With `--dataset phantom` also the error to the true counterfactual. Any number of processes gives the same numbers;
an interrupted run goes on when it is started again. All arguments: `python training/evaluate_counterfactuals.py --help`.
"""

from cf_cxr.evaluation.counterfactuals.command import main
from cf_cxr.training.loop.script import run_script

if __name__ == "__main__":
    run_script(main)
