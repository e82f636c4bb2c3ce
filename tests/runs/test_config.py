import dataclasses

import pytest
import yaml

from qlora_kit import KitError
from qlora_kit.runs import TrainConfig, load_config, make_config

CONFIG = TrainConfig(data="a.jsonl", output="run", max_steps=7, learning_rate=1e-3)


def test_yaml_gives_the_same_configuration_back(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(dataclasses.asdict(CONFIG)))
    assert load_config(path) == CONFIG
    assert load_config(path, rank=64, seed=None) == dataclasses.replace(CONFIG, rank=64)


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert make_config({"data": "a", "output": "b", "learning_rate": "2e-4"}).learning_rate == 2e-4


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"data": "a"}, "output missing"),
        ({"data": "a", "output": "b", "learning-rate": 1}, "unknown learning-rate"),
        ({"data": "a", "output": "b", "rank": "many"}, "rank must be int, not 'many'"),
        ({"data": "a", "output": "b", "rank": 1.5}, "rank must be int"),
        ({"data": "a", "output": "b", "rank": 0}, "rank must be above 0"),
        ({"data": "a", "output": "b", "max_steps": 0}, "max_steps must be at least 1"),
        ({"data": "a", "output": "b", "dropout": 1.0}, "dropout"),
        ({"data": 3, "output": "b"}, "data must be str"),
        ({"data": "a", "output": "b", "precision": "4bit"}, "precision"),
        ({"data": "a", "output": "b", "schedule": "cosine"}, "schedule"),
        ({"data": "a", "output": "b", "report_to": "wandb"}, "report_to"),
        ({"data": "a", "output": "b", "packing": "yes"}, "packing must be bool"),
        ({"data": "a", "output": "b", "packing": 1}, "packing must be bool"),
        ({"data": "a", "output": "b", "rank": True}, "rank must be int"),
        ({"data": "a", "output": "b", "method": "full"}, "4-bit weights cannot move"),
        ({"data": "a", "output": "b", "learning_rate": float("nan")}, "learning_rate"),
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
