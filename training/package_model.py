"""Assemble attribute SCM, image mechanism and classifier into one DeepSCM repository with its model card.

    python training/package_model.py --attribute_scm outputs/scm --image_mechanism outputs/hvae_soft_cft \
        --classifier outputs/classifier --output_dir outputs/deep_scm

All arguments: `python training/package_model.py --help`.
"""

from cf_cxr.packaging.deep_scm import main
from cf_cxr.training.loop.script import run_script

if __name__ == "__main__":
    run_script(main)
