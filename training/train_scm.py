"""Train the causal mechanisms p(variable | parents) among the attributes; images are not needed.

    accelerate launch training/train_scm.py --dataset parquet --data_dir path/to/parquet --output_dir outputs/scm

All arguments: `python training/train_scm.py --help`; or put them into a YAML file: `train_scm.py run.yaml`.
"""

from cf_cxr.training.attribute_scm.trainer import main
from cf_cxr.training.loop.script import run_script

if __name__ == "__main__":
    run_script(main)
