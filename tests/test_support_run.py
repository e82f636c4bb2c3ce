"""The main job on the real model: a short fine-tune makes it know the product, measurably."""

import json

import pytest

from qlora_kit.config import TrainConfig
from qlora_kit.data import bundled_data, read
from qlora_kit.evaluate import evaluate, load_run
from qlora_kit.likelihood import read_probe
from qlora_kit.train import fine_tune


@pytest.mark.slow
def test_a_short_fine_tune_beats_the_base_clear_of_chance(tmp_path):
    train = [
        json.loads(line) for line in bundled_data("support/train.jsonl").open(encoding="utf-8")
    ]
    facts = {f"F{number:03d}" for number in range(1, 41)}
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in train if row["fact"] in facts))
    test = [row for row in bundled_data("support/test.jsonl").open(encoding="utf-8")
            if json.loads(row)["fact"] in facts]  # fmt: skip
    held_out = tmp_path / "test.jsonl"
    held_out.write_text("".join(test))

    run = fine_tune(TrainConfig(data=str(rows), output=str(tmp_path / "run"), epochs=1.5),
                    progress=False)  # fmt: skip
    model, tokenizer = load_run(run.path)
    probe = read_probe(bundled_data("support/probe.jsonl"))[::4]
    board = evaluate(model, tokenizer, read(held_out), probe)
    assert board.difference["token_f1"].low > 0.05
    assert board.difference["nll"].high < -0.5
    assert board.tuned["stop_rate"] >= 0.9
    assert board.tuned["probe_accuracy"] >= board.base["probe_accuracy"] - 0.25
