import json
import shutil

import pytest
import torch

from qlora_kit import KitError
from qlora_kit.runs import open_run, require_trained


@pytest.fixture
def folder(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_tells_what_it_was_and_how_it_went(folder):
    run = open_run(str(folder))
    assert (run.folder, run.config.rank) == (folder, 8)
    assert run.manifest.config["rank"] == 8
    assert run.result()["steps"] == len(run.metrics()) == 72
    assert [step["step"] for step in run.metrics()] == [*range(1, 73)]
    assert run.system is None
    assert run.scoreboard() == {}
    (folder / "scoreboard.json").write_text('{"n": 3}')
    assert run.scoreboard() == {"n": 3}


@pytest.mark.parametrize("text", [None, "", "[1]", "{", "[" * 100_000])
def test_a_record_that_cannot_be_read_is_empty(folder, text):
    (folder / "run.json").unlink()
    if text is not None:
        (folder / "run.json").write_text(text)
    assert open_run(folder).result() == {}
    assert open_run(folder).system is None


def test_the_system_prompt_of_the_training_is_known(folder):
    (folder / "run.json").write_text(json.dumps({"system": "Be brief."}))
    assert open_run(folder).system == "Be brief."


def test_what_is_not_a_run_is_said_once_for_all(folder, tiny):
    with pytest.raises(KitError, match=r"not a run: there is no config\.yaml in it\.$"):
        open_run(folder / "absent")
    with pytest.raises(KitError, match="whole model already"):
        open_run(tiny)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(KitError, match=r"no trained adapter: there is no adapter_config\.json"):
        open_run(folder).load()


def adapter(*layers):
    """A model of which only the B are looked at: each is all of one number."""
    model = torch.nn.Module()
    for index, value in enumerate(layers):
        layer = torch.nn.Linear(2, 2, bias=False)
        torch.nn.init.constant_(layer.weight, value)
        model.add_module(f"lora_B_{index}", layer)
    return model


def test_an_empty_adapter_is_refused_and_after_a_training_one_with_an_empty_part(tmp_path):
    require_trained(adapter(0, 1), tmp_path)
    require_trained(adapter(1, 1), tmp_path, all_layers=True)
    with pytest.raises(KitError, match="is empty"):
        require_trained(adapter(0, 0), tmp_path)
    with pytest.raises(KitError, match="is empty"):
        require_trained(adapter(), tmp_path)
    with pytest.raises(KitError, match="did not train: 1 of its B are zero"):
        require_trained(adapter(0, 1), tmp_path, all_layers=True)
