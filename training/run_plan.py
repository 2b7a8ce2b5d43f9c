"""Run a whole experiment: many commands that depend on each other, resumable, several at a time.

    python training/run_plan.py training/phantom_64/plan.yaml --workers 2

All arguments: `python training/run_plan.py --help`.
"""

from cf_cxr.training.loop.script import run_script
from cf_cxr.training.plan import main

if __name__ == "__main__":
    run_script(main)
