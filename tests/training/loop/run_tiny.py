"""Script for `accelerate launch`: the tiny run with plain gradient descent and no draws."""

import sys

import torch

from cf_cxr.training.causal_hvae.trainer import HVAETrainer
from cf_cxr.training.loop.arguments import TrainerArguments, parse_arguments
from tests.training.loop.tiny import LOOP, tiny_trainer


class PlainTrainer(HVAETrainer):
    """Posterior means, no augmentation, SGD: a step depends on its images alone."""

    def create_optimizer(self):
        self.initial = {name: p.detach().clone() for name, p in self.parameters.items()}
        return torch.optim.SGD(self.parameters.values(), lr=0.01)

    def compute_loss(self, batch):
        attributes = batch["attributes"].nan_to_num(0.0)
        output = self.model(batch["pixel_values"], self.schema.encode(attributes), sample_posterior=False)
        return output.loss, {"nll": output.nll}


if __name__ == "__main__":
    (args,) = parse_arguments([TrainerArguments], sys.argv[1:], defaults=LOOP)
    loop = vars(args)
    tiny_trainer(loop.pop("output_dir"), kind=PlainTrainer, **loop).train()
