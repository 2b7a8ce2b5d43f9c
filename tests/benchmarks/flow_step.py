"""What a training step and a pass of a causal flow cost, by precision and memory layout.

    OMP_NUM_THREADS=1 python tests/benchmarks/flow_step.py
    python tests/benchmarks/flow_step.py --device cuda

Processor milliseconds per image (on CUDA: wall milliseconds), best of three, presets of 64 and 128 pixels, batch 32:
a training step is forward and backward, without the optimiser; a pass is one look at the velocity, without gradients.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext

import torch

from cf_cxr import CausalFlowConfig, CausalFlowModel
from cf_cxr.training.causal_flow.trainer import PRESETS
from cf_cxr.training.loop.run_folder import git_commit


def best_of_three(function, device: str) -> float:
    """Seconds of the fastest of three calls after one that does not count."""
    clock, seconds = time.perf_counter if device == "cuda" else time.process_time, []
    for _ in range(4):
        started = clock()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - started)
    return min(seconds[1:])


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args()
    print(f"commit {git_commit()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    print(
        "| pixels | parameters | precision | layout | training step, ms | pass, ms |\n|---|---|---|---|---|---|"
    )
    for side in (64, 128):
        for half in (False, True):
            for layout in (torch.contiguous_format, torch.channels_last):
                model = CausalFlowModel(CausalFlowConfig(image_size=side, **PRESETS[side]))
                model = model.to(args.device, memory_format=layout).train()
                x = (torch.rand(args.batch_size, 1, side, side) * 2 - 1).to(args.device)
                parents = torch.rand(args.batch_size, model.config.context_dim).to(args.device)
                precision = torch.autocast(args.device, torch.bfloat16) if half else nullcontext()

                def step(model=model, x=x, parents=parents, precision=precision):
                    with precision:
                        loss = model(x, parents).loss
                    loss.backward()

                @torch.no_grad()
                def look(model=model, x=x, parents=parents, precision=precision):
                    with precision:
                        model(x, parents)

                ms = [1000 * best_of_three(f, args.device) / args.batch_size for f in (step, look)]
                names = ("bf16" if half else "fp32", str(layout).removeprefix("torch."))
                size = f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M"
                print(
                    f"| {side} | {size} | {names[0]} | {names[1]} | {ms[0]:.1f} | {ms[1]:.1f} |", flush=True
                )


if __name__ == "__main__":
    main()
