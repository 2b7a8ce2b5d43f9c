"""Counterfactual fine-tuning of the image mechanism: soft target labels (default) or hard ones.

    accelerate launch training/finetune_soft.py --dataset parquet --data_dir path/to/parquet --resolution 128 \
        --image_mechanism outputs/hvae --attribute_scm outputs/scm --classifiers outputs/classifier \
        --output_dir outputs/hvae_soft_cft

All arguments: `python training/finetune_soft.py --help`; or put them into a YAML file: `finetune_soft.py run.yaml`.
"""

from cf_cxr.training.counterfactual_finetuning.command import main
from cf_cxr.training.loop.script import run_script

if __name__ == "__main__":
    run_script(main)
