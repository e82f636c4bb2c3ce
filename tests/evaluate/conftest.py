"""Fixtures that several tests of the room use."""

import json

import pytest

from qlora_kit.models import load
from qlora_kit.runs import TrainConfig
from qlora_kit.train import fine_tune
from tests.helpers import CPU


@pytest.fixture(scope="module")
def real():
    return load("smollm2", "nf4", CPU)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rows = folder / "rows.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"prompt": f"Light {n}?", "completion": f"It is {c}."}) + "\n"
            for n, c in enumerate(["red", "green", "blue", "amber"] * 4)
        )
    )
    config = TrainConfig(
        data=str(rows),
        output=str(folder / "run"),
        model=str(tiny),
        epochs=16,
        learning_rate=5e-3,
        rank=8,
    )
    return fine_tune(config, progress=False), rows
