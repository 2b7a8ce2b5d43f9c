"""Train an explainer of a black-box classifier: images whose posterior goes from one decision to the other.

    accelerate launch training/train_explainer.py training/phantom_64/explainer_effusion.yaml
    python training/train_explainer.py --classifier my_package.models:predict --class_name Effusion ...

All arguments: `python training/train_explainer.py --help`.
"""

from cf_cxr.training.loop.script import run_script
from cf_cxr.training.progressive_explainer.command import main

if __name__ == "__main__":
    run_script(main)
