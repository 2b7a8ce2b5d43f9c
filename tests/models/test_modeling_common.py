"""What every model of the package must do as a transformers model; test classes inherit `ModelCommonTestsMixin`."""

import copy
import inspect
import logging
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel, Trainer, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

import cf_cxr  # noqa: F401  (registers the Auto classes)

WEIGHTS = "model.safetensors"


@contextmanager
def seeded_initialization():
    """Makes every module's initialisation independent of how many random numbers were drawn before it."""
    original = PreTrainedModel._initialize_weights

    def seeded(self, module, *args, **kwargs):
        torch.manual_seed(0)
        return original(self, module, *args, **kwargs)

    PreTrainedModel._initialize_weights = seeded
    try:
        yield
    finally:
        PreTrainedModel._initialize_weights = original


def tensors_of(output) -> dict[str, Tensor]:
    """All tensors in a nested output, by path."""
    if isinstance(output, Tensor):
        return {"": output}
    if isinstance(output, dict):
        items = output.items()
    elif isinstance(output, (list, tuple)):
        items = enumerate(output)
    else:
        return {}
    return {f"{key}.{path}".rstrip("."): t for key, value in items for path, t in tensors_of(value).items()}


def assert_same(first, second, **tolerance):
    """Nested outputs have the same tensors: equal to the bit, or within `rtol` and `atol`."""
    first, second = tensors_of(first), tensors_of(second)
    assert first and list(first) == list(second)
    for path in first:
        if tolerance:
            torch.testing.assert_close(
                first[path], second[path], equal_nan=True, msg=path.__add__, **tolerance
            )
        else:
            torch.testing.assert_close(
                first[path], second[path], equal_nan=True, rtol=0, atol=0, msg=path.__add__
            )


class ModelCommonTestsMixin:
    """Subclasses set `model_class` and define two methods; they override the hooks where they need to.

    - `config()`: a tiny configuration, built anew at every call;
    - `inputs()`: keyword arguments of a forward that gives a loss, a batch of at least two, the same at every call.
    """

    model_class: type[PreTrainedModel]
    #: what the Trainer's predictions are, and how many hidden states there are (0: the model has none)
    prediction = "logits"
    num_hidden_states = 0
    batch_tolerance = {"rtol": 1e-4, "atol": 1e-5}
    # The weights are equal to the bit; kernels may round differently for another memory alignment.
    reload_tolerance = {"rtol": 1e-5, "atol": 1e-6}

    def cast(self, inputs: dict, dtype: torch.dtype) -> dict:
        """The inputs for a model loaded in `dtype`; attribute values stay float32 (63.5 years has no bf16)."""
        return {
            k: v.to(dtype)
            if isinstance(v, Tensor) and v.is_floating_point() and k not in ("attributes", "labels")
            else v
            for k, v in inputs.items()
        }

    def batch_outputs(self, model, inputs: dict):
        """Tensors with one row per example that must not depend on the rest of the batch.

        Here those of the forward; override for a forward that samples, or to compare more.
        """
        size = len(inputs[model.main_input_name])
        outputs = tensors_of(dict(model(**inputs)))
        return {k: v for k, v in outputs.items() if v.ndim and len(v) == size}

    def random_outputs(self, model, inputs: dict, generator: torch.Generator):
        """Everything that takes a generator, called with this one. None: the model draws nothing."""
        return None

    def model(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """A model in evaluation mode whose parameters are all away from their initial values."""
        torch.manual_seed(0)
        model = self.model_class(self.config())
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        return model.to(dtype).eval()

    def forward(self, model, **kwargs):
        """The outputs on `inputs()`, with the global generator in a fixed state."""
        torch.manual_seed(0)
        inputs = self.cast(self.inputs(), model.dtype)
        with torch.no_grad():
            return model(**inputs, **kwargs)

    def rewrite(self, folder, change) -> None:
        """Applies `change` to the state dictionary of a saved model, in place."""
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    # --- saving and loading -------------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
    def test_save_load(self, tmp_path, dtype):
        model = self.model(dtype)
        model.save_pretrained(tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == {"config.json", WEIGHTS}
        loaded, info = self.model_class.from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)
        assert not any(info.values()), info
        assert not loaded.training
        assert {p.dtype for p in loaded.parameters()} == {dtype}
        assert_same(dict(model.state_dict()), dict(loaded.state_dict()))
        expected = self.forward(model)
        assert torch.isfinite(expected.loss)
        assert_same(expected, self.forward(loaded), **self.reload_tolerance)
        assert {p.dtype for p in self.model_class.from_pretrained(tmp_path).parameters()} == {dtype}

    def test_missing_keys_are_initialized_and_reported(self, tmp_path, caplog, monkeypatch):
        monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
        model = self.model()
        model.save_pretrained(tmp_path)
        names = list(load_file(tmp_path / WEIGHTS))
        dropped = {names[0], names[-1]}
        self.rewrite(tmp_path, lambda state: [state.pop(name) for name in dropped])
        loaded, info = self.model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["missing_keys"]) == dropped and not info["unexpected_keys"]
        assert any(name.rsplit(".", 1)[-1] in caplog.text for name in dropped) and "MISSING" in caplog.text
        old, new = model.state_dict(), loaded.state_dict()
        for name in old:  # transformers may save a backbone under other names
            assert torch.isfinite(new[name]).all()
            assert name in dropped or torch.equal(old[name], new[name])

    def test_unexpected_keys_are_ignored_and_reported(self, tmp_path, caplog, monkeypatch):
        monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
        model = self.model()
        model.save_pretrained(tmp_path)
        self.rewrite(tmp_path, lambda state: state.update({"not_a_layer.weight": torch.ones(3)}))
        loaded, info = self.model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["unexpected_keys"]) == {"not_a_layer.weight"} and not info["missing_keys"]
        assert "not_a_layer.weight" in caplog.text
        assert_same(self.forward(model), self.forward(loaded), **self.reload_tolerance)

    def test_auto_classes(self, tmp_path):
        model = self.model()
        model.save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
        loaded = AutoModel.from_pretrained(tmp_path)
        assert type(loaded) is self.model_class
        assert_same(self.forward(model), self.forward(loaded), **self.reload_tolerance)
        assert type(AutoModel.from_config(self.config())) is self.model_class

    def test_config_round_trip(self, tmp_path):
        config = self.config()
        before = config.to_dict()
        config.save_pretrained(tmp_path)
        for other in (
            type(config).from_pretrained(tmp_path),
            type(config).from_dict(before),
            copy.deepcopy(config),
        ):
            assert {**other.to_dict(), "_name_or_path": ""} == {**before, "_name_or_path": ""}
        self.model_class(config)
        assert config.to_dict() == before, "building a model changed its configuration"
        type(config)()  # transformers builds default configurations to write differences

    def test_deepcopy(self):
        model = self.model()
        assert_same(self.forward(model), self.forward(copy.deepcopy(model)), **self.reload_tolerance)

    # --- initialisation -----------------------------------------------------------------------------------

    def test_initialization_covers_every_parameter(self):
        model = self.model_class(self.config())
        with torch.no_grad():
            for parameter in model.parameters():
                assert torch.isfinite(parameter).all()
                parameter.fill_(torch.nan)
        for module in model.modules():
            module._is_hf_initialized = False
        model.init_weights()
        assert [n for n, p in model.named_parameters() if not torch.isfinite(p).all()] == []

    def test_initialization_of_missing_keys_is_that_of_a_new_model(self):
        with seeded_initialization():
            new = self.model_class(self.config())
            loaded = self.model_class.from_pretrained(None, config=self.config(), state_dict={})
        assert_same(dict(new.state_dict()), dict(loaded.state_dict()))
        assert_same(dict(new.named_buffers()) or torch.ones(1), dict(loaded.named_buffers()) or torch.ones(1))

    def test_builds_on_meta_device(self):
        with torch.device("meta"):
            model = self.model_class(self.config())
        assert {p.device.type for p in model.parameters()} == {"meta"}
        assert model.num_parameters() == self.model_class(self.config()).num_parameters()

    def test_builds_in_half_precision(self):
        model = self.model_class._from_config(self.config(), dtype=torch.float16).eval()
        assert {p.dtype for p in model.parameters()} == {torch.float16}
        assert self.forward(model).loss.isfinite()

    def test_no_loose_tensors(self):
        for name, module in self.model().named_modules():
            loose = [k for k, v in vars(module).items() if isinstance(v, Tensor)]
            assert not loose, f"{name}: {loose} are neither parameters nor buffers, and will not follow .to()"

    # --- training -----------------------------------------------------------------------------------------

    def gradients(self, model) -> dict[str, Tensor]:
        """Gradients of the loss on `inputs()`, by parameter."""
        torch.manual_seed(0)
        model.zero_grad()
        model(**self.inputs()).loss.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    def test_every_parameter_gets_a_gradient(self):
        gradients = self.gradients(self.model().train())
        assert gradients
        assert [n for n, g in gradients.items() if g is None] == []
        assert [n for n, g in gradients.items() if not torch.isfinite(g).all()] == []
        assert [n for n, g in gradients.items() if not g.any()] == [], "these parameters do nothing"

    def test_gradient_checkpointing(self):
        model = self.model()
        if not model.supports_gradient_checkpointing:
            with pytest.raises(ValueError, match="checkpointing"):
                model.gradient_checkpointing_enable()
            return
        plain = {n: g.clone() for n, g in self.gradients(model.train()).items()}
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
        layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        runs = []
        for layer in layers:
            checkpoint = layer._gradient_checkpointing_func
            layer._gradient_checkpointing_func = lambda forward, *inputs, checkpoint=checkpoint: checkpoint(
                lambda *inputs: runs.append(1) or forward(*inputs), *inputs
            )
        assert_same(plain, self.gradients(model), rtol=1e-4, atol=1e-6)
        assert layers and len(runs) == 2 * len(layers), "every layer runs twice, not once or three times"

    def trainer(self, model, folder, **kwargs) -> Trainer:
        """transformers' own, over two batches of `inputs()`."""
        inputs = self.inputs()
        rows = [dict(zip(inputs, row)) for row in zip(*inputs.values())]
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=len(rows),
            max_steps=1,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            **kwargs,
        )
        return Trainer(model, arguments, train_dataset=rows + rows)

    def test_trainer_divides_the_loss_by_the_accumulation_steps_once(self, tmp_path):
        model, losses, backward = self.model(), [], []
        trainer = self.trainer(model, tmp_path, gradient_accumulation_steps=2)
        model.register_forward_hook(lambda *args: losses.append(args[-1]["loss"].item()))
        original = trainer.accelerator.backward
        trainer.accelerator.backward = lambda loss: (backward.append(loss.item()), original(loss))
        trainer.train()
        assert len(losses) == 2
        assert backward == pytest.approx([loss / 2 for loss in losses])

    def test_trainer_predicts_one_tensor(self, tmp_path):
        model, inputs = self.model(), self.inputs()
        trainer = self.trainer(model, tmp_path)
        torch.manual_seed(0)
        _, predicted, _ = trainer.prediction_step(model, inputs, prediction_loss_only=False)
        assert_same(predicted, self.forward(model)[self.prediction])

    # --- forward ------------------------------------------------------------------------------------------

    def test_misspelt_argument_is_refused(self):
        model = self.model()
        with pytest.raises(
            TypeError, match=f"{self.model_class.__name__}.* no argument outputs_hidden_state; it"
        ):
            self.forward(model, outputs_hidden_state=True)
        # what transformers' callers pass to every model
        self.forward(model, num_items_in_batch=2, output_attentions=False, output_hidden_states=False)

    def test_hidden_states(self):
        model = self.model()
        plain, hidden = self.forward(model), self.forward(model, output_hidden_states=True)
        assert plain.get("hidden_states") is None
        states = hidden.get("hidden_states") or ()
        assert len(states) == self.num_hidden_states
        assert_same(dict(plain), {k: v for k, v in hidden.items() if k != "hidden_states"})
        if states:
            model.config.output_hidden_states = True
            assert_same(states, self.forward(model).hidden_states)
            assert isinstance(self.forward(model, return_dict=False)[-1], tuple)

    def test_signature(self):
        parameters = list(inspect.signature(self.model_class.forward).parameters)
        assert parameters[1] == self.model_class.main_input_name
        assert self.model_class.config_class is type(self.config())
        assert self.model_class.base_model_prefix

    def test_tuple_output(self):
        model = self.model()
        expected = self.forward(model)
        for output in (self.forward(model, return_dict=False), expected.to_tuple()):
            assert isinstance(output, tuple)
            assert_same(list(expected.values()), list(output))
        model.config.return_dict = False
        assert isinstance(self.forward(model), tuple)

    def test_batch_of_one_equals_row_of_batch(self):
        model, inputs = self.model(), self.inputs()
        size = len(inputs[model.main_input_name])
        assert size > 1
        with torch.no_grad():
            together = tensors_of(self.batch_outputs(model, inputs))
            for row in range(size):
                one = {
                    k: v[row : row + 1] if isinstance(v, Tensor) and v.ndim and len(v) == size else v
                    for k, v in inputs.items()
                }
                alone = self.batch_outputs(model, one)
                assert_same({k: v[row : row + 1] for k, v in together.items()}, alone, **self.batch_tolerance)

    def test_deterministic_by_generator(self):
        model, inputs = self.model(), self.inputs()
        if self.random_outputs(model, inputs, torch.Generator().manual_seed(3)) is None:
            with torch.no_grad():
                assert_same(model(**inputs), model(**inputs))
            return
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = self.random_outputs(model, inputs, torch.Generator().manual_seed(3))
        assert torch.equal(state, torch.get_rng_state()), "the global generator was used"
        torch.manual_seed(2)
        assert_same(first, self.random_outputs(model, inputs, torch.Generator().manual_seed(3)))
        other = tensors_of(self.random_outputs(model, inputs, torch.Generator().manual_seed(4)))
        for path, tensor in tensors_of(first).items():
            assert not torch.equal(tensor, other[path]), f"{path} ignores the generator"
