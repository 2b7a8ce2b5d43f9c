"""The training loop of every stage with one optimiser: `transformers.Trainer`, and what it lacks for this package.

Every random number of step s is drawn after seeding with (seed, s, micro-batch, process), and the images of step s
follow from (seed, epoch). A run is thus a function of its arguments and its last checkpoint: killed and resumed on the
same kind of CPU it ends with the same bits.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState
from transformers.trainer_utils import IntervalStrategy

from ...attributes import AttributeSchema
from . import checkpointing
from .arguments import CXRTrainingArguments
from .averaging import WeightAverage
from .callbacks import RunRecords, SamplePictures, StepGuard
from .run_folder import BEST_FILE, MODEL_FILES, describe_run, instead_of_ending, run_folder, write_manifest
from .usual_films import record_usual_films

logger = logging.getLogger(__name__)

LOOP_FILE = "loop.pt"
# key of the noise of evaluation, far above any micro-batch index
_EVALUATION = 1 << 20


class CXRTrainer(Trainer):
    """Trains `model` on batches of a data set. A stage is a subclass, with a subclass of `CXRTrainingArguments`:

    - `batch_loss(model, batch)` gives the loss of a batch and what else to log. Gradients must come through the forward
      of the `model` that it is given, which may be wrapped (DDP, compiled); `self.model` is the bare one, for all else.
    - `after_step(logs)`, `evaluation_metrics()`, `sample_images()`, `finalize(folder)`, `create_optimizer()` and
      `saved_model` are overridden where the stage needs it; `records_usual_films` is set for image mechanisms.
    - `register(name, item)` saves and restores an object with `state_dict` and `load_state_dict` with each checkpoint.

    A model that needs other modules for its loss (frozen classifiers) is wrapped with them in one module whose forward
    returns the loss; `saved_model` then names the part that is saved, averaged and returned to users.

    Args:
        model: only parameters with `requires_grad` are trained.
        args: of the stage.
        train_dataset: has `__len__` and `__getitems__(list of indices) -> batch` (dict of tensors).
        eval_dataset: likewise, or None.
        processing_class: image processor saved beside the model.
        schema: the attributes of the batches.
        run_info: JSON-able facts for `run.json` (data set identity).

    Raises:
        ValueError: the training set is smaller than one step's images.
    """

    loss_is_scaled_for_ga = False  # batch losses are means
    #: whether the folder's processor learns which films are usual (`record_usual_films`)
    records_usual_films = False

    def __init__(
        self,
        model: nn.Module,
        args: CXRTrainingArguments,
        train_dataset: Any,
        eval_dataset: Any = None,
        *,
        processing_class: Any = None,
        schema: AttributeSchema | None = None,
        run_info: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        micro_batches = len(train_dataset) // (args.train_batch_size * args.world_size)
        self.steps_per_epoch = math.ceil(micro_batches / args.gradient_accumulation_steps)
        self.step_images = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        if len(train_dataset) < self.step_images:
            raise ValueError(
                f"The training split has {len(train_dataset)} images, but one step needs {self.step_images} (batch "
                "size x gradient accumulation x processes). Lower --per_device_train_batch_size or "
                "--gradient_accumulation_steps, or give more data."
            )
        if eval_dataset is None:
            args.eval_strategy = IntervalStrategy.NO
        elif args.eval_strategy == IntervalStrategy.EPOCH:
            # as steps, so that no checkpoint precedes its evaluation
            args.eval_strategy, args.eval_steps = IntervalStrategy.STEPS, self.steps_per_epoch
        if args.channels_last:
            model.to(memory_format=torch.channels_last)
        cached = hasattr(getattr(model, "config", None), "use_cache")
        super().__init__(
            model=model,
            args=args,
            data_collator=_whole_batch,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        if not cached and hasattr(model, "config"):
            del model.config.use_cache  # set by Trainer, and no entry of these models' config.json
        self.schema, self.run_info = schema, dict(run_info or {})
        self.average: WeightAverage | None = None
        self.skipped_steps = self.consecutive_skips = 0
        self.stop_asked = threading.Event()  # of this process
        self.interrupted = False  # all processes stop after this step
        # of the present step: the loss, whether it is bad, and what batch_loss logs
        self.parts: dict[str, Tensor] = {}
        self.sums: dict[str, float] = {}  # since the last log
        self.summed = 0
        self._registered: dict[str, Any] = {}
        self._checkpoint: Path | None = None
        self._writing: Path | None = None
        self._micro = (-1, 0)
        for callback in (StepGuard(self), SamplePictures(self), RunRecords(self)):
            self.add_callback(callback)

    def batch_loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Loss of one batch (scalar mean, with gradient) and values to log (scalars)."""
        return model(**batch).loss, {}

    def after_step(self, logs: Mapping[str, float]) -> None:
        """Called after every step that was not skipped, with what its batches logged, averaged over processes."""

    def evaluation_metrics(self) -> dict[str, float]:
        """Metrics on the validation split under the averaged weights; here `batch_loss`, averaged over its images."""
        sums: dict[str, Tensor] = {}
        for batch in self.eval_batches():
            with self.compute_loss_context_manager():
                loss, logs = self.batch_loss(self.model, batch)
            size = next(len(value) for value in batch.values() if torch.is_tensor(value))
            for name, value in {"loss": loss, **logs, "images": 1.0}.items():
                sums[name] = sums.get(name, 0.0) + self._scalar(value) * size
        sums = {name: float(self.accelerator.reduce(value, "sum")) for name, value in sums.items()}
        count = sums.pop("images")
        return {name: value / count for name, value in sums.items()}

    def sample_images(self) -> dict[str, np.ndarray]:
        """Pictures to look at, by name: (H, W) arrays of 8-bit grey. Called on the main process only."""
        return {}

    def finalize(self, folder: Path) -> None:
        """Called on every process with the final (averaged or best) weights, before they are saved in the folder."""

    @property
    def saved_model(self) -> nn.Module:
        """What is saved, as users load it."""
        return self.model

    @property
    def output_dir(self) -> Path:
        """The run's folder."""
        return Path(self.args.output_dir)

    def register(self, name: str, item: Any) -> None:
        """Save and restore `item` (has `state_dict`, `load_state_dict`; tensors and plain values) as `name`."""
        self._registered[name] = item

    def eval_batches(self) -> Iterator[dict[str, Any]]:
        """This process's share (every num_processes-th image) of the validation split, in order, on its device."""
        size, world = self.args.per_device_eval_batch_size, self.args.world_size
        indices = list(range(len(self.eval_dataset)))[self.args.process_index :: world]
        chunks = [indices[i : i + size] for i in range(0, len(indices), size)]
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            self.eval_dataset, batch_sampler=chunks, collate_fn=_whole_batch, num_workers=workers
        )
        for batch in loader:
            yield self._prepare_inputs(batch)

    def gather_eval(self, values: Tensor) -> Tensor:
        """Join what every process computed for its share of the validation split, `(rows, ...)`, in its order."""
        world = self.args.world_size
        if world == 1:
            return values
        rows = math.ceil(len(self.eval_dataset) / world)
        values = torch.cat([values, values.new_zeros((rows - len(values), *values.shape[1:]))])
        gathered = self.accelerator.gather(values.contiguous()).unflatten(0, (world, rows))
        return gathered.transpose(0, 1).flatten(0, 1)[: len(self.eval_dataset)]

    def first_images(self, count: int) -> dict[str, Any]:
        """The first images of the validation split, or of the training one, as a batch for `sample_images`."""
        source = self.eval_dataset if self.eval_dataset is not None else self.train_dataset
        return self._prepare_inputs(source.__getitems__(list(range(min(count, len(source))))))

    def averaged_weights(self) -> contextlib.AbstractContextManager[None]:
        """Within it the model holds the moving average of its weights, if there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    @contextlib.contextmanager
    def looking(self, *key: int) -> Iterator[None]:
        """Evaluation mode, averaged weights, no gradients, and noise that depends on the seed and `key` alone."""
        self.seed_noise(*key)
        self.model.eval()
        with self.averaged_weights(), torch.no_grad():
            yield
        self.model.train()

    def seed_noise(self, *key: int) -> None:
        """Seed Python, NumPy and torch from (seed, key): the same key gives the same noise."""
        words = np.random.SeedSequence([self.args.seed, *key]).generate_state(2)
        random.seed(int(words[0]))
        np.random.seed(words[0])
        torch.manual_seed((int(words[0]) << 31) ^ int(words[1]))

    def train(self, **kwargs: Any) -> dict[str, float]:
        """Run all steps, save the final model in the output folder and return its last evaluation.

        Raises:
            OutputDirectoryError: the folder is another process's, or holds a run, and neither resuming nor overwriting
                was asked for.
            CheckpointError: the checkpoint to resume from is missing, damaged or another model's; or none can be
                written.
            TrainingDivergedError: more than `max_consecutive_skips` steps in a row were skipped.
            SystemExit: with 143, after a checkpoint was saved on SIGTERM.
        """
        with (
            run_folder(self.args, self.accelerator) as self._checkpoint,
            instead_of_ending(signal.SIGTERM, self.stop_asked.set),
        ):
            resumed = str(self._checkpoint) if self._checkpoint else None
            self._manifest = describe_run(
                self.args,
                self.accelerator,
                parameters=sum(p.numel() for p in self.saved_model.parameters()),
                trainable_parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
                steps_per_epoch=self.steps_per_epoch,
                resumed_from=resumed,
                finished=False,
                **self.run_info,
            )
            if resumed is None or not self._load_finished(resumed):
                super().train(resume_from_checkpoint=resumed, **kwargs)
            if self.interrupted:
                self.accelerator.print(
                    f"Stopped by SIGTERM after step {self.state.global_step}, which is saved; go on with "
                    "--resume_from_checkpoint latest."
                )
                raise SystemExit(143)
            return self._finish()

    def _load_finished(self, checkpoint: str) -> bool:
        """Whether a checkpoint is of the last step; the model then holds it, and the loop has nothing to do."""
        state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
        steps = self.args.max_steps
        if steps <= 0:
            steps = math.ceil(self.args.num_train_epochs * self.steps_per_epoch)
        if state.global_step < steps:
            return False
        self._load_from_checkpoint(checkpoint)
        self.state = state
        self.start()
        return True

    def start(self) -> None:
        """Make the average and restore what the checkpoint has besides Trainer's; at the beginning of training."""
        self._clock = (time.perf_counter(), self.state.global_step)
        model = self.saved_model
        buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
        saved = model.state_dict().keys()
        self.buffers = {name: buffer for name, buffer in buffers.items() if name in saved}
        if self.args.ema_decay > 0:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError(
                    "Sharded weights are not averaged: give --ema_decay 0 with FSDP or DeepSpeed."
                )
            learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
            self.average = WeightAverage(learning, self.buffers, self.args.ema_decay)
        if self._checkpoint is not None:
            with checkpointing.reading_checkpoint(self._checkpoint):
                state = torch.load(self._checkpoint / LOOP_FILE, map_location="cpu", weights_only=True)
                if self.average is not None:
                    self.average.load(self._checkpoint / checkpointing.EMA_FILE, state["average"])
                for name, item in self._registered.items():
                    item.load_state_dict(state["registered"][name])
                self.skipped_steps = state["skipped_steps"]

    def _finish(self) -> dict[str, float]:
        history = self.state.log_history
        metrics = next((line for line in reversed(history) if any("eval_" in name for name in line)), {})
        best = self.state.best_metric is not None and (self.output_dir / BEST_FILE).is_file()
        self.seed_noise(_EVALUATION)
        if self.average is not None:
            self.average.apply()
        if best:
            checkpointing.load_weights(self.saved_model, self.output_dir / BEST_FILE)
        self.model.eval()
        with torch.no_grad():
            self.finalize(self.output_dir)
        folder = self.output_dir / f"{checkpointing.INCOMPLETE}final"
        with checkpointing.writing(self.output_dir / checkpointing.MODEL_FILE, folder):
            self.save_model(str(folder), _internal_call=True)
            if self.args.should_save:
                if self.records_usual_films and self.processing_class is not None:
                    record_usual_films(folder, self.train_dataset, self.eval_dataset)
                for path in folder.iterdir():
                    os.replace(path, self.output_dir / path.name)
                folder.rmdir()
        self._manifest |= {
            "steps": self.state.global_step,
            "skipped_steps": self.skipped_steps,
            "best_step": self.state.best_global_step if best else None,
            "metrics": metrics,
            "finished": True,
        }
        if self.args.should_save:
            write_manifest(self.output_dir, self._manifest)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self.push_to_hub()
        return metrics

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """As Trainer's, with the noise of this step, micro-batch and process."""
        step, micro = self._micro
        self._micro = (self.state.global_step, micro + 1 if step == self.state.global_step else 0)
        self.seed_noise(*self._micro, self.args.process_index)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """`batch_loss`, whose logs are kept for the step's."""
        loss, logs = self.batch_loss(model, inputs)
        share = 1 / self.current_gradient_accumulation_steps
        for name, value in {**logs, "loss": loss, "bad": ~loss.detach().isfinite()}.items():
            self.parts[name] = self.parts.get(name, 0.0) + self._scalar(value) * share
        return (loss, logs) if return_outputs else loss

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
        """Mixed precision for all of `batch_loss`, not for the model's forward alone."""
        return self.accelerator.autocast()

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        self.grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return self.grad_norm

    def _prepare_input(self, data: Any) -> Any:
        data = super()._prepare_input(data)
        if self.args.channels_last and torch.is_tensor(data) and data.ndim == 4:
            data = data.contiguous(memory_format=torch.channels_last)
        return data

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All: weight decay is for biases and norms too."""
        return [name for name, _ in model.named_parameters()]

    def _scalar(self, value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=self.args.device).detach()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's; a training log also has what `batch_loss` logged, averaged since the last one."""
        if "loss" in logs:
            logs |= {name: value / self.summed for name, value in self.sums.items()}
            logs["skipped_steps"] = self.skipped_steps
            self.sums, self.summed = {}, 0
            (since, first), now, step = self._clock, time.perf_counter(), self.state.global_step
            logs["images_per_second"] = (step - first) * self.step_images / max(now - since, 1e-9)
            self._clock = (now, step)
        super().log(logs, start_time)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """`evaluation_metrics` under averaged weights, each name with its prefix; logged."""
        with self.looking(self.state.global_step, _EVALUATION, self.args.process_index):
            found = self.evaluation_metrics()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        better = super()._determine_best_metric(metrics, trial)
        if better and self.args.should_save:
            with self.averaged_weights():
                checkpointing.save_weights(self.saved_model, self.output_dir / BEST_FILE)
        return better

    def _get_output_dir(self, trial: Any) -> str:
        return self.args.output_dir if self._writing is None else str(self._writing)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        keep, step = self.args.save_total_limit, self.state.global_step
        with checkpointing.new_checkpoint(
            self.output_dir, step, keep=keep, accelerator=self.accelerator
        ) as folder:
            self._writing = folder.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._writing = None
            if self.args.should_save:
                registered = {name: item.state_dict() for name, item in self._registered.items()}
                state: dict[str, Any] = {"skipped_steps": self.skipped_steps, "registered": registered}
                if self.average is not None:
                    state["average"] = self.average.save(folder / checkpointing.EMA_FILE)
                torch.save(state, folder / LOOP_FILE)

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing: every step seeds its own noise."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing, likewise."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            file = Path(resume_from_checkpoint) / checkpointing.MODEL_FILE
            checkpointing.load_weights(self.saved_model, file)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with checkpointing.reading_checkpoint(checkpoint or ""):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """As Trainer's, without the pickle of its arguments."""
        if self.args.should_save:
            self.saved_model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(output_dir or self.args.output_dir)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer's, unless the folder has a card already."""
        if not (self.output_dir / "README.md").is_file():
            super().create_model_card(*args, **kwargs)

    def push_to_hub(self, commit_message: str = "End of training", **kwargs: Any) -> Any:
        """Upload the final model, its processor and card from the output folder."""
        if not self.is_world_process_zero():
            return None
        if self.hub_model_id is None:
            self.init_hf_repo()
        self.create_model_card(model_name=self.hub_model_id.split("/")[-1])
        return HfApi().upload_folder(
            repo_id=self.hub_model_id,
            folder_path=self.args.output_dir,
            commit_message=commit_message,
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            allow_patterns=[*MODEL_FILES, "README.md"],
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: checkpoints are not for users."""


def _whole_batch(batch: Any) -> Any:
    return batch
