"""Images per second of the phantom on one core.

OMP_NUM_THREADS=1 python tests/benchmarks/benchmark_phantom.py
"""

from __future__ import annotations

import argparse
import time

import torch

from cf_cxr.data.phantom import ChestPhantom, PhantomConfig


def main() -> None:
    """Print wall-clock and CPU-time rates, pictures with all masks and measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--images", type=int, default=1024)
    options = parser.parse_args()
    torch.set_num_threads(1)
    phantom = ChestPhantom(PhantomConfig(resolution=options.resolution))
    attributes, noise = phantom.sample_attributes(options.images, 0), phantom.sample_noise(options.images, 0)
    phantom.render(attributes[:32], noise[:32])  # draws the vessel bank
    wall, cpu = time.perf_counter(), time.process_time()
    phantom.render(attributes, noise)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{options.images} images at {options.resolution} x {options.resolution}, one thread: "
        f"{options.images / wall:.0f} images/s of wall clock, {options.images / cpu:.0f} of CPU time"
    )


if __name__ == "__main__":
    main()
