"""Order of the training images: a function of (seed, epoch, step), with nothing to remember."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


def steps_per_epoch(num_images: int, images_per_step: int) -> int:
    """Optimiser steps per pass over the data; images that do not fill a step wait for the next shuffle.

    Raises:
        ValueError: there are fewer images than one step needs.
    """
    if num_images < images_per_step:
        raise ValueError(
            f"The training split has {num_images} images, but one step needs {images_per_step} (batch size x "
            "gradient accumulation x processes). Lower --per_device_batch_size or "
            "--gradient_accumulation_steps, or give more data."
        )
    return num_images // images_per_step


class StepBatchSampler(Sampler[list[int]]):
    """Indices of this process's micro-batches from `start_step` to `max_steps`, across epochs.

    Step s of an epoch takes the s-th slice of that epoch's permutation, whatever the number of
    processes and micro-batches it is cut into; a resumed run starts at its step at no cost.

    Args:
        num_images: size of the training split.
        batch_size: images per process and forward pass.
        accumulation: forward passes per step.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        accumulation: int = 1,
        num_processes: int = 1,
        process_index: int = 0,
        seed: int = 0,
        start_step: int = 0,
        max_steps: int,
    ) -> None:
        self.num_images, self.batch_size, self.accumulation = num_images, batch_size, accumulation
        self.num_processes, self.process_index = num_processes, process_index
        self.seed, self.start_step, self.max_steps = seed, start_step, max_steps
        self.images_per_step = batch_size * accumulation * num_processes
        self.steps_per_epoch = steps_per_epoch(num_images, self.images_per_step)

    def __len__(self) -> int:
        return max(0, self.max_steps - self.start_step) * self.accumulation

    def permutation(self, epoch: int) -> list[int]:
        """Order of all images in one epoch."""
        generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
        return torch.randperm(self.num_images, generator=generator).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, []
        for step in range(self.start_step, self.max_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self.permutation(epoch)
            first = (step % self.steps_per_epoch) * self.images_per_step
            for micro in range(self.accumulation):
                start = first + (micro * self.num_processes + self.process_index) * self.batch_size
                yield order[start : start + self.batch_size]
