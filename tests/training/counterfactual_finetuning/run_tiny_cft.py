"""A tiny counterfactual fine-tuning as a script, for launchers: folder, then optionally what to resume from."""

from tests.training.counterfactual_finetuning.test_cft import main

if __name__ == "__main__":
    main()
