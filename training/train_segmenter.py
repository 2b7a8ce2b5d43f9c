"""Train the segmenter of lungs, heart and devices on phantoms, with domain randomisation for real films.

    accelerate launch training/train_segmenter.py training/phantom_64/segmenter.yaml

All arguments: `python training/train_segmenter.py --help`.
"""

from cf_cxr.training.anatomy_segmenter.trainer import main
from cf_cxr.training.loop.script import run_script

if __name__ == "__main__":
    run_script(main)
