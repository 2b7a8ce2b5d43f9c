"""A tiny counterfactual fine-tuning as a script, for launchers: --output_dir, --resume_from_checkpoint."""

import sys

from tests.training.counterfactual_finetuning.test_cft import main

if __name__ == "__main__":
    main(sys.argv[1:])
