"""Arguments from dataclasses, YAML and JSON."""

import json

import pytest

from cf_cxr.training.causal_hvae.trainer import HVAEConfig, build_hvae_config
from cf_cxr.training.loop.arguments import CXRTrainingArguments, DataArguments, parse_arguments

ALL = (DataArguments, HVAEConfig)


@pytest.mark.parametrize("form", ["positional", "flag"])
def test_yaml_gives_arguments_and_the_command_line_wins(tmp_path, form):
    file = tmp_path / "run.yaml"
    file.write_text(
        "learning_rate: 1e-4\nmax_steps: 7\ncache_images: true\nwidths: [8, 16]\nschema: null\n"
        "encoder_blocks: 16b1d2\n"
    )
    argv = [str(file)] if form == "positional" else ["--config", str(file)]
    data, args = parse_arguments(ALL, [*argv, "--max_steps", "9"], defaults={"seed": 5})
    assert args.learning_rate == 1e-4  # YAML 1.1 reads 1e-4 as text; the argument's type decides
    assert args.max_steps == 9 and args.seed == 5
    assert data.cache_images is True and data.schema is None
    assert args.widths == [8, 16] and args.encoder_blocks == "16b1d2"


def test_json_works_too(tmp_path):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"beta": 2.5, "channels_last": False}))
    _, args = parse_arguments(ALL, [str(file)])
    assert args.beta == 2.5 and args.channels_last is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rat: 0.1", "unknown argument 'learning_rat'.*Did you mean 'learning_rate'"),
        ("per_device_batch_size: 4", "unknown argument.*called per_device_train_batch_size now"),
        ("- a\n- b", "must map argument names"),
        ("a: [1", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_bad_files_are_explained(tmp_path, content, message):
    file = tmp_path / "run.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        parse_arguments(ALL, [str(file)])


def test_flags_of_the_loop_before_are_named_anew():
    with pytest.raises(ValueError, match="no --lr_scheduler. It is called lr_scheduler_type now"):
        parse_arguments(ALL, ["--lr_scheduler", "cosine"])


def test_missing_file():
    with pytest.raises(ValueError, match="'nowhere.yaml' does not exist"):
        parse_arguments(ALL, ["--config", "nowhere.yaml"])


def test_wrong_types_and_unknown_flags_stop_with_a_usage_line(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("max_steps: many")
    for argv, part in (([str(file)], "invalid int value: 'many'"), (["--nonsense", "1"], "nonsense")):
        with pytest.raises((SystemExit, ValueError)) as error:
            parse_arguments(ALL, argv)
        assert part in capsys.readouterr().err + str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1.0),
        ("per_device_train_batch_size", 0),
        ("ema_decay", 1.0),
        ("num_train_epochs", 0),
        ("skip_threshold", -5),
        ("max_consecutive_skips", 0),
        ("lr_scheduler_type", "steps"),
        ("hub_strategy", "every_save"),
        ("output_dir", __file__),
    ],
)
def test_impossible_values_name_argument_and_value(name, value):
    with pytest.raises(ValueError, match=f"--{name} is {value!r}, but must be"):
        CXRTrainingArguments(**{name: value})


def test_overwriting_and_resuming_exclude_each_other():
    with pytest.raises(ValueError, match="overwrite_output_dir"):
        CXRTrainingArguments(overwrite_output_dir=True, resume_from_checkpoint="latest")


def test_help_is_grouped_and_explains(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(ALL, ["--help"], description="Train something.")
    text = capsys.readouterr().out
    for part in (
        "Train something.",
        "Data:",
        "--learning_rate",
        "Causal HVAE:",
        "--skip_threshold",
        "'latest' or",
    ):
        assert part in text


def test_hvae_configuration_from_preset_and_arguments():
    config = build_hvae_config(HVAEConfig(beta=3.0, z_max_res=8), 32, 4)
    assert (config.image_size, config.beta, config.z_max_res) == (32, 3.0, 8)
    with pytest.raises(ValueError, match="no preset for --resolution 40.*--widths"):
        build_hvae_config(HVAEConfig(), 40, 4)
    with pytest.raises(ValueError, match="must not be negative"):
        HVAEConfig(beta=-1.0)
