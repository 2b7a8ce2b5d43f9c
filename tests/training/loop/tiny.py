"""A training run small enough to be repeated and killed: 16x16 images made here, a few thousand weights.

    python -m tests.training.loop.tiny --output_dir DIR [training arguments]

The environment variable TINY_KILL ends the process with SIGKILL: `step:7` right after the seventh step,
`writing:8` in the middle of writing checkpoint 8, `deleting:4` in the middle of deleting checkpoint 4.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import torch
from transformers import trainer_utils

from cf_cxr.attributes import AttributeSchema
from cf_cxr.models.causal_hvae import CausalHVAEConfig, CausalHVAEModel
from cf_cxr.training.causal_hvae.trainer import HVAEConfig, HVAETrainer, build_hvae_config
from cf_cxr.training.loop import checkpointing
from cf_cxr.training.loop.arguments import parse_arguments

SCHEMA = AttributeSchema(
    [
        {"name": "age", "kind": "continuous", "minimum": 0.0, "maximum": 100.0, "unit": "years"},
        {"name": "sex", "kind": "binary", "categories": ["Male", "Female"]},
        {"name": "site", "kind": "categorical", "categories": ["A", "B", "C"]},
    ]
)
POISON = -0.5
ROOT = Path(__file__).parents[3]
LOOP = {
    "seed": 3,
    "per_device_train_batch_size": 4,
    "max_steps": 12,
    "warmup_steps": 3,
    "learning_rate": 3e-3,
    "ema_decay": 0.9,
    "logging_steps": 1,
    "eval_steps": 5,
    "save_steps": 4,
    "sample_steps": 0,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


class TinyData:
    """`size` images whose brightness depends on age, in batches; `poison` marks images (first pixel is -0.5)."""

    def __init__(self, size=24, seed=0, poison=()):
        generator = torch.Generator().manual_seed(seed)
        age = torch.rand(size, generator=generator) * 100
        sex, site = (torch.randint(n, (size,), generator=generator).float() for n in (2, 3))
        self.attributes = torch.stack([age, sex, site], dim=1)
        noise = torch.rand(size, 1, 16, 16, generator=generator) * 0.2
        self.images = (noise + self.attributes[:, 0, None, None, None] / 50 - 1).clamp(-1, 1)
        self.attributes[::7, 1] = torch.nan
        self.images[:, :, 0, 0] = -1.0
        self.images[list(poison), :, 0, 0] = POISON

    def __len__(self):
        return len(self.images)

    def __getitems__(self, indices):
        chosen = torch.as_tensor(list(indices))
        return {"pixel_values": self.images[chosen], "attributes": self.attributes[chosen]}


def tiny_hvae(**settings) -> CausalHVAEModel:
    torch.manual_seed(0)
    config = build_hvae_config(HVAEConfig(z_dim=4), 16, SCHEMA.dim).to_dict() | settings
    return CausalHVAEModel(CausalHVAEConfig(**config))


def tiny_trainer(output_dir, *, train=None, val=None, kind=HVAETrainer, model=None, config=None, **settings):
    if config is None:
        config, settings = HVAEConfig, {"z_dim": 4, "augmentation": "light"} | settings
    args = config(output_dir=str(output_dir), **(LOOP | settings))
    return kind(model or tiny_hvae(), args, train or TinyData(), val or TinyData(7, seed=1), schema=SCHEMA)


def log_of(folder):
    """The lines of metrics.jsonl, without how fast it was."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def run_process(module, *words, processes=1, **environment):
    """`python -m module words`, or several such processes started by torchrun; `environment` is added to ours."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "MASTER_"))}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    several = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    command = [sys.executable, "-m", *several[: 5 * (processes > 1)], module, *map(str, words)]
    environment = inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | environment
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


class KilledTrainer(HVAETrainer):
    """Ends its process at the moment that TINY_KILL names."""

    def after_step(self, logs):
        if os.environ.get("TINY_KILL") == f"step:{self.state.global_step}":
            _die()

    def _save_checkpoint(self, *args):
        what, _, step = os.environ.get("TINY_KILL", "").partition(":")
        if what == "writing" and int(step) == self.state.global_step:
            checkpointing.write_json = lambda *_: _die()
        if what == "deleting":
            whole = shutil.rmtree

            def rmtree(path, *rest, **options):
                if Path(path).name == f"checkpoint-{step}":
                    next(Path(path).iterdir()).unlink()
                    _die()
                whole(path, *rest, **options)

            trainer_utils.shutil.rmtree = rmtree
        super()._save_checkpoint(*args)


def main(argv=None):
    torch.set_num_threads(1)
    (args,) = parse_arguments([HVAEConfig], argv, defaults=LOOP | {"z_dim": 4, "augmentation": "light"})
    KilledTrainer(tiny_hvae(), args, TinyData(), TinyData(7, seed=1), schema=SCHEMA).train()


if __name__ == "__main__":
    main(sys.argv[1:])
