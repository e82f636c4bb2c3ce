import dataclasses

import pytest
import yaml

from qlora_kit import KitError
from qlora_kit.runs import (
    TrainConfig,
    default_learning_rate,
    describe_fields,
    load_config,
    make_config,
)

from ..helpers import kit

CONFIG = TrainConfig(data="a.jsonl", output="run", max_steps=7, learning_rate=1e-3)


def test_yaml_gives_the_same_configuration_back(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(dataclasses.asdict(CONFIG)))
    assert load_config(path) == CONFIG
    assert load_config(path, rank=64, seed=None) == dataclasses.replace(CONFIG, rank=64)


def test_numbers_that_yaml_reads_as_text_are_numbers():
    config = make_config({"data": "a", "output": "b", "learning_rate": "2e-4", "rank": "16"})
    assert (config.learning_rate, config.rank) == (2e-4, 16)
    whole = make_config({"data": "a", "output": "b", "rank": 8.0}).rank
    assert (whole, type(whole)) == (8, int)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"data": "a"}, "output missing"),
        ({"data": "a", "output": "b", "learning-rate": 1}, "unknown learning-rate"),
        ({"data": "a", "output": "b", "rank": "many"}, "rank must be a valid integer, not 'many'"),
        ({"data": "a", "output": "b", "rank": 1.5}, "rank must be a valid integer"),
        ({"data": "a", "output": "b", "rank": 0}, "rank must be greater than 0, not 0"),
        (
            {"data": "a", "output": "b", "max_steps": 0},
            "max_steps must be greater than or equal to 1",
        ),
        ({"data": "a", "output": "b", "dropout": 1.0}, "dropout"),
        ({"data": 3, "output": "b"}, "data must be a valid string, not 3"),
        ({"data": "a", "output": "b", "precision": "4bit"}, "precision"),
        ({"data": "a", "output": "b", "schedule": "cosine"}, "schedule"),
        ({"data": "a", "output": "b", "report_to": "wandb"}, "report_to"),
        ({"data": "a", "output": "b", "packing": "yes"}, "packing must be a valid boolean"),
        ({"data": "a", "output": "b", "packing": 1}, "packing must be a valid boolean"),
        ({"data": "a", "output": "b", "rank": True}, "rank must be a valid integer"),
        ({"data": "a", "output": "b", "method": "full"}, "4-bit weights cannot move"),
        ({"data": "a", "output": "b", "learning_rate": float("nan")}, "learning_rate"),
        ({"data": "a", "output": "b", "warmup": True}, "warmup must be a valid number"),
        ({"data": "a", "output": "b", "rank": 0, "seed": -1}, "rank must .*; seed must "),
    ],
)
def test_a_wrong_value_is_named(values, said):
    with pytest.raises(KitError, match=said):
        make_config(values)


def test_unreadable_yaml_is_said(tmp_path):
    path = tmp_path / "config.yaml"
    for text in ("a: [", "just text", ""):
        path.write_text(text)
        with pytest.raises(KitError, match=r"config\.yaml"):
            load_config(path)
    with pytest.raises(KitError, match="cannot be read"):
        load_config(tmp_path / "nothing.yaml")


def test_a_configuration_made_in_python_is_checked_too():
    with pytest.raises(KitError, match="schedule must be 'linear' or 'constant', not 'cosine'"):
        dataclasses.replace(CONFIG, schedule="cosine")


def test_every_field_is_explained_and_an_option_of_train():
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    assert list(describe_fields(TrainConfig)) == names
    options = kit("train", "--help").stdout
    assert all(f"--{name.replace('_', '-')} " in options for name in names if name != "data")


def test_the_command_line_sets_every_field(monkeypatch):
    """What is given by option arrives in the configuration, under its own name and type."""
    config = TrainConfig(
        data="a.jsonl", output="b", model="m", precision="32bit", epochs=1.5, max_steps=7,
        batch_size=3, token_budget=99, max_length=98, low_memory=True, packing=True,
        group_by_length=True, method="full", adapter="runs/a", learning_rate=1e-4,
        schedule="constant", warmup=0.25, rank=4, alpha=5, target_modules="q_proj", dropout=0.1,
        weight_decay=0.01, beta2=0.9, max_grad_norm=0.3, seed=6, save_steps=8, prompt_field="q",
        completion_field="a", report_to="trackio", compute_dtype="float32",
    )  # fmt: skip
    arguments = []
    for field in dataclasses.fields(TrainConfig)[1:]:
        value = getattr(config, field.name)
        assert value != field.default, "the test must change it"
        name = f"--{field.name.replace('_', '-')}"
        arguments += [name] if value is True else [name, value]
    configs = []

    def fine_tune(config, **_):
        configs.append(config)
        raise KitError("that will do")

    monkeypatch.setattr("qlora_kit.train.fine_tune", fine_tune)
    assert "that will do" in kit("train", "a.jsonl", *arguments).stderr
    assert configs == [config]


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [(134_515_008, 2e-3), (596_049_920, 8e-4), (7_615_616_512, 2e-4), (70_553_706_496, 1e-4)],
)
def test_the_learning_rate_follows_the_size_of_the_model(parameters, rate):
    assert default_learning_rate(parameters) == rate
    assert default_learning_rate(parameters, "full") == rate / 10
