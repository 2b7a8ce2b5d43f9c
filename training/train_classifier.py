"""Train the classifier q(attributes | image) and calibrate it on the validation split.

    accelerate launch training/train_classifier.py --dataset parquet --data_dir path/to/parquet \
        --resolution 128 --cache_images --preset bit-small --output_dir outputs/classifier

All arguments: `python training/train_classifier.py --help`; or put them into a YAML file:
`train_classifier.py run.yaml`.
"""

from cf_cxr.training.attribute_classifier.trainer import main
from cf_cxr.training.loop.script import run_script

if __name__ == "__main__":
    run_script(main)
