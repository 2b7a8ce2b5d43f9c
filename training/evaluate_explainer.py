"""Measure explanations of a classifier on a test split: exaggeration, validity, devices, identity, anatomy.

    accelerate launch training/evaluate_explainer.py --explainer outputs/explainer --classifier outputs/classifier \
        --class_name Effusion --segmenter outputs/segmenter --judge outputs/judge --dataset phantom \
        --output_dir outputs/explainer_evaluation

The baseline without a trained explainer: `--explainer outputs/deep_scm --method latent_shift`; a causal model swept by
do(finding): `--explainer outputs/deep_scm --method causal`. Any number of processes; an interrupted run goes on when it
is started again. All arguments: `python training/evaluate_explainer.py --help`.
"""

from cf_cxr.evaluation.explanations.command import main
from cf_cxr.training.loop.script import run_script

if __name__ == "__main__":
    run_script(main)
