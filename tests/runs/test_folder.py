import dataclasses
import json
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from qlora_kit import KitError
from qlora_kit.runs import (
    Start,
    TrainConfig,
    begin_run,
    checkpoint,
    claim_folder,
    hash_inputs,
    locked_folder,
    with_room,
)
from tests.helpers import CPU


def write(folder):
    for name in (*checkpoint._PARTS, "adapter_model.safetensors"):
        (folder / name).write_text(name)


def line(step):
    return json.dumps({"step": step, "loss": 1.0 / step, "tokens": step, "seconds": 0.5}) + "\n"


@pytest.fixture
def run(tmp_path):
    """A folder killed after step 3 of 4, with a checkpoint of step 2."""
    config = TrainConfig(data="a.jsonl", output=str(tmp_path / "run"), model="org/absent")
    with locked_folder(tmp_path / "run"):
        begin_run(
            tmp_path / "run", config, CPU, claim_folder(tmp_path / "run", config, False, 4), {}
        )
    checkpoint.save_checkpoint(tmp_path / "run/checkpoints", 2, write)
    (tmp_path / "run/metrics.jsonl").write_text(line(1) + line(2) + line(3))
    return tmp_path / "run", config


def test_a_killed_run_goes_on_with_the_metrics_of_the_steps_that_count(run):
    folder, config = run
    start = claim_folder(folder, config, True, 4)
    assert (start.checkpoint.name, start.done) == ("checkpoint-2", 2)
    assert [each["step"] for each in start.past] == [1, 2]
    assert (folder / "metrics.jsonl").read_text().count("\n") == 3  # until it is begun
    begin_run(folder, config, CPU, start, {})
    assert (folder / "metrics.jsonl").read_text().count("\n") == 2


def test_a_run_that_may_not_go_on_is_left_as_it_was(run, tmp_path):
    """Its base is another: the run's own configuration must not name it from then on."""
    folder, config = run
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    save_file({"w": torch.zeros(2)}, base / "model.safetensors")
    begun = dataclasses.replace(config, model=str(base))
    begin_run(folder, begun, CPU, Start(None, 0, ()), {"data": "1"})
    (folder / "metrics.jsonl").write_text(line(1) + line(2) + line(3))
    before = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    start = claim_folder(folder, begun, True, 4)
    with pytest.raises(KitError, match="cannot go on: data changed"):
        begin_run(folder, begun, CPU, start, {"data": "2"})
    other = tmp_path / "other"
    shutil.copytree(base, other)
    save_file({"w": torch.ones(2)}, other / "model.safetensors")
    elsewhere = dataclasses.replace(begun, model=str(other))
    start = claim_folder(folder, elsewhere, True, 4)
    with pytest.raises(KitError, match="cannot go on: base weights changed"):
        begin_run(folder, elsewhere, CPU, start, {"data": "1"})
    assert {path.name: path.read_text() for path in folder.iterdir() if path.is_file()} == before


def test_data_that_may_not_be_read_are_one_clear_error(tmp_path, monkeypatch):
    data = tmp_path / "a.jsonl"
    data.touch()

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("qlora_kit.runs.manifest.digest", refuse)
    with pytest.raises(KitError, match=r"a\.jsonl cannot be read: Permission denied"):
        hash_inputs(TrainConfig(data=str(data), output="run"))


def test_a_first_adapter_may_lie_elsewhere_but_not_be_left_out(run):
    folder, config = run
    begun = dataclasses.replace(config, adapter="runs/first")
    begin_run(folder, begun, CPU, Start(None, 0, ()), {})
    assert claim_folder(folder, dataclasses.replace(begun, adapter="moved"), True, 4).done == 2
    with pytest.raises(KitError, match="adapter was 'runs/first', now None"):
        claim_folder(folder, config, True, 4)


@pytest.mark.parametrize("broken", ['{"step": 2, "lo', "[1]", "\0\0\0", '{"loss": null}'])
def test_a_broken_line_of_metrics_stops_nobody(run, broken):
    folder, config = run
    (folder / "metrics.jsonl").write_text(line(1) + broken)
    assert [each["step"] for each in claim_folder(folder, config, True, 4).past] == [1]


def test_one_killed_before_its_first_checkpoint_begins_again(run):
    folder, config = run
    for path in (folder / "checkpoints/checkpoint-2").iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text("{}")  # an end that was never reached
    start = claim_folder(folder, config, True, 4)
    assert (start.checkpoint, start.done, start.past) == (None, 0, ())


def test_a_run_that_was_not_told_to_have_ended_is_ended_from_its_last_checkpoint(run):
    folder, config = run
    checkpoint.save_checkpoint(folder / "checkpoints", 4, write)
    assert claim_folder(folder, config, True, 4).done == 4
    (folder / "run.json").write_text('{"status": "finished"}')
    with pytest.raises(KitError, match="has done all of its 4 steps"):
        claim_folder(folder, config, True, 4)


@pytest.mark.parametrize(
    "problem",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
)
def test_a_full_disk_is_one_error_whoever_tells_of_it(tmp_path, problem):
    def write():
        raise problem

    with pytest.raises(KitError, match=r"cannot be written to: No space left on device.*--resume"):
        with_room(tmp_path, write)


def test_what_has_nothing_to_do_with_the_disk_is_not_called_a_full_one(tmp_path):
    with pytest.raises(IndexError):
        with_room(tmp_path, lambda: [][0])


def test_what_killed_saves_left_is_removed(run):
    folder, config = run
    (folder / "checkpoints/.saving").mkdir()
    begin_run(folder, config, CPU, claim_folder(folder, config, True, 4), {})
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["checkpoint-2"]
