"""`accelerate launch --num_processes 2` on a machine without GPUs starts one process, without a word."""

from __future__ import annotations

import os
import sys

_LAUNCHED = "ACCELERATE_MIXED_PRECISION"  # set by every `accelerate launch`
_SEVERAL = "MASTER_ADDR"  # set by it when more than one process was asked for
_STARTED = ("WORLD_SIZE", "RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def refuse_missing_processes() -> None:
    """Stops a process that was to be one of several and is alone.

    Raises:
        ValueError: the environment is that of `accelerate launch` for several processes, which started only this one.
    """
    if {_LAUNCHED, _SEVERAL} <= os.environ.keys() and not any(name in os.environ for name in _STARTED):
        raise ValueError(
            "accelerate launch was asked for several processes, but started this one alone, as it does without GPUs. "
            f"Start them with: torchrun --standalone --nproc_per_node N {sys.argv[0]} ..."
        )
