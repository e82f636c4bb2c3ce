"""The demo: it leaves a run with its report, and removes no folder but one of its own."""

import dataclasses
import io
import json

import pytest
import rich.console
import yaml

from qlora_kit import KitError
from qlora_kit import demo as demo_file
from qlora_kit.runs import LOCK, TrainConfig, load_config, locked_folder

PROBE = {"question": "What color is the sky?", "choices": ["blue", "red"], "answer": 0}
DEMO_CONFIG = demo_file.demo_config


@pytest.fixture(autouse=True)
def small(tiny, rows, tmp_path, monkeypatch):
    """The demo with the tiny model and few rows; the function that makes its settings."""
    few, probe = tmp_path / "few.jsonl", tmp_path / "probe.jsonl"
    few.write_text("\n".join(rows.read_text().splitlines()[:4]))
    probe.write_text(json.dumps(PROBE) + "\n")

    def config(output):
        return TrainConfig(str(few), str(output), model=str(tiny), max_steps=2, rank=4)

    monkeypatch.setattr(demo_file, "demo_config", config)
    monkeypatch.setattr(demo_file, "bundled_data", lambda name: probe if "probe" in name else few)
    return config


def demo(folder):
    """The run, its scoreboard, and the text that people see."""
    text = io.StringIO()
    run, board = demo_file.demo(folder, rich.console.Console(file=text, width=200))
    return run, board, text.getvalue()


def contents(folder):
    """Everything in a folder but its lock: path to bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK
    }


def begin(folder, monkeypatch):
    """The demo up to its training."""

    def fine_tune(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_file, "fine_tune", fine_tune)
    with pytest.raises(KeyboardInterrupt):
        demo(folder)


def write_run(folder, config, marked):
    """The little of a run that tells whose it is, with something to lose."""
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(config)))
    (folder / "adapter_model.safetensors").write_text("a day's work")
    if marked:
        (folder / demo_file.MARKER).write_text("")


def assert_refused(folder):
    """The demo says what to do, and leaves every byte."""
    before = contents(folder)
    with pytest.raises(KitError, match=r"something else than a demo.*--output"):
        demo(folder)
    assert contents(folder) == before


def test_the_demo_leaves_a_run_with_its_report(tmp_path, small):
    folder = tmp_path / "runs/demo"
    run, board, text = demo(folder)
    assert (run.path, run.status, run.steps) == (folder, "finished", 2)
    assert board.training_tokens_per_second == run.tokens_per_second
    assert board.generation_tokens_per_second > 0
    assert "probe_accuracy" in board.tuned
    for name in ("adapter_model.safetensors", "scoreboard.json", "report.html"):
        assert name in contents(folder)
    assert f"qlora-kit chat {folder}" in text
    assert load_config(folder / "config.yaml") == small(folder)


def test_an_earlier_demo_is_replaced(tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    demo(folder)
    assert "adapter_model.safetensors" in contents(folder)
    begin(folder, monkeypatch)
    assert contents(folder).keys() == {demo_file.MARKER}
    begin(folder, monkeypatch)  # one that was killed before it trained has nothing to lose
    assert contents(folder).keys() == {demo_file.MARKER}


def test_the_settings_of_the_real_demo_are_known_again(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_file, "demo_config", DEMO_CONFIG)
    folder = tmp_path / "demo"
    write_run(folder, DEMO_CONFIG(folder), marked=True)
    begin(folder, monkeypatch)
    assert contents(folder).keys() == {demo_file.MARKER}


def test_a_demo_that_still_trains_is_not_replaced(tmp_path):
    folder = tmp_path / "demo"
    write_run(folder, DEMO_CONFIG(folder), marked=True)
    before = contents(folder)
    with locked_folder(folder), pytest.raises(KitError, match="is in use: another training"):
        demo_file._claim(folder, DEMO_CONFIG(folder))
    assert contents(folder) == before


def test_a_demo_is_known_again_by_another_name_of_its_folder(tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    monkeypatch.chdir(tmp_path)
    config = DEMO_CONFIG(folder)
    write_run(folder, dataclasses.replace(config, output="demo"), marked=True)
    assert demo_file._is_demo(folder, config)
    assert not demo_file._is_demo(folder, dataclasses.replace(config, rank=8))


def test_an_empty_folder_is_taken(tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    folder.mkdir()
    begin(folder, monkeypatch)
    assert contents(folder).keys() == {demo_file.MARKER}


@pytest.mark.parametrize("marked", [False, True])
def test_ones_own_run_on_the_bundled_data_stays(tmp_path, small, marked):
    folder = tmp_path / "mine"
    write_run(folder, dataclasses.replace(small(folder), rank=8), marked)
    assert_refused(folder)


def test_a_run_with_the_settings_of_the_demo_but_without_its_mark_stays(tmp_path, small):
    folder = tmp_path / "mine"
    write_run(folder, small(folder), marked=False)
    assert_refused(folder)


def test_a_copy_of_a_demo_stays(tmp_path, small):
    folder = tmp_path / "kept"
    write_run(folder, small(tmp_path / "demo"), marked=True)
    assert_refused(folder)


@pytest.mark.parametrize("config", [None, "data: [", "just a text"])
def test_what_is_no_run_stays(tmp_path, config):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "notes.txt").write_text("a day's work")
    (folder / demo_file.MARKER).write_text("")
    if config is not None:
        (folder / "config.yaml").write_text(config)
    assert_refused(folder)
    (folder / demo_file.MARKER).unlink()
    assert_refused(folder)


def test_what_is_no_folder_is_one_message(tmp_path):
    path = tmp_path / "file"
    path.write_text("a day's work")
    with pytest.raises(KitError, match=r"cannot be used: Not a directory.*--output"):
        demo(path)
    assert path.read_text() == "a day's work"
