"""Train the image mechanism, a causal flow.

    accelerate launch training/train_flow.py --dataset parquet --data_dir path/to/parquet --resolution 128 \
        --cache_images --output_dir outputs/flow

All arguments: `python training/train_flow.py --help`; or put them into a YAML file: `train_flow.py run.yaml`.
"""

from cf_cxr.training.causal_flow.trainer import main
from cf_cxr.training.loop.script import run_script

if __name__ == "__main__":
    run_script(main)
