"""Several processes on a machine without GPUs.

`accelerate launch --num_processes 2 script.py` starts two processes on two GPUs, but on a CPU it starts
one, without a word, unless MPI is installed and a host file given. Here the missing processes are started
with torch's own launcher, so that the command does what it says.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence

import psutil
import torch

_LAUNCHED = "ACCELERATE_MIXED_PRECISION"  # set by every `accelerate launch`
_SEVERAL = "MASTER_ADDR"  # set by it when more than one process was asked for
_STARTED = ("WORLD_SIZE", "RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def requested_processes(command: Sequence[str]) -> int | None:
    """Value of `--num_processes` in a launcher's command line, None if it has none."""
    match = re.search(r"--num[_-]processes[= ](\d+)", " ".join(command))
    return int(match.group(1)) if match else None


def processes_missing(environment: Mapping[str, str]) -> bool:
    """True if the environment is that of `accelerate launch` for several processes, but there is only this one."""
    return (
        _LAUNCHED in environment
        and _SEVERAL in environment
        and not any(name in environment for name in _STARTED)
    )


def start_missing_processes(cpu: bool) -> None:
    """Replace this process by as many as `accelerate launch` was asked for, if it started only one of them.

    Raises:
        RuntimeError: the number cannot be found out, or one GPU would have to serve several processes.
    """
    if not processes_missing(os.environ):
        return
    remedy = f"start them with: torchrun --nproc_per_node N {' '.join(sys.argv[:1])} ..."
    wanted = requested_processes(psutil.Process().parent().cmdline())
    if wanted is None:
        raise RuntimeError(f"accelerate launch was set up for several processes but started one; {remedy}")
    on_cpu = cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    if not on_cpu and torch.cuda.is_available():
        raise RuntimeError(
            f"--num_processes {wanted}, but this machine has {torch.cuda.device_count()} GPU: ask for one process, "
            "or train on the CPU with --cpu."
        )
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(wanted)]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *launcher, *sys.argv])
