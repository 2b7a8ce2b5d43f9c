"""Script for `torchrun`: the tiny run with plain gradient descent and no draws."""

import os
import signal
import sys

import torch

from cf_cxr.training.causal_hvae.trainer import HVAEConfig, HVAETrainer
from cf_cxr.training.loop.arguments import parse_arguments
from tests.training.loop.tiny import LOOP, SCHEMA, TinyData, tiny_hvae


class PlainTrainer(HVAETrainer):
    """Posterior means, no augmentation, SGD: a step depends on its images alone. Also writes each step's noise.

    With TINY_STOP the second process is stopped in its third step.
    """

    def create_optimizer(self):
        self.initial = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        return self.optimizer

    def batch_loss(self, model, batch):
        attributes = batch["attributes"].nan_to_num(0.0)
        output = model(batch["pixel_values"], self.schema.encode(attributes), sample_posterior=False)
        if self.model.training:
            if os.environ.get("TINY_STOP") and self.args.process_index and self.state.global_step == 2:
                os.kill(os.getpid(), signal.SIGSTOP)
            with open(self.output_dir / f"noise_{self.args.process_index}.txt", "a") as file:
                file.write(f"{torch.rand(())}\n")
        return output.loss, {"nll": output.nll}


if __name__ == "__main__":
    (args,) = parse_arguments([HVAEConfig], sys.argv[1:], defaults=LOOP)
    PlainTrainer(tiny_hvae(), args, TinyData(), TinyData(7, seed=1), schema=SCHEMA).train()
