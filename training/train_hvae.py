"""Train the image mechanism, a causal hierarchical VAE.

    accelerate launch training/train_hvae.py --dataset parquet --data_dir path/to/parquet --resolution 128 \
        --cache_images --output_dir outputs/hvae

All arguments: `python training/train_hvae.py --help`; or put them into a YAML file: `train_hvae.py run.yaml`.
"""

from cf_cxr.training.causal_hvae.trainer import main
from cf_cxr.training.loop.script import run_script

if __name__ == "__main__":
    run_script(main)
