"""Rows written: whole or not at all, whatever is in them."""

import json

import pytest

from qlora_kit.data import DataError, write_jsonl


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = write_jsonl([{"text": "old"}], tmp_path / "new folder/rows.jsonl")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(DataError, match="could not be written: No space left"):
        write_jsonl([{"text": "new"}], path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"text": "old"}]
    assert [each.name for each in path.parent.iterdir()] == ["rows.jsonl"]


def test_half_an_emoji_is_written_and_read_again(tmp_path):
    rows = [{"text": "half \ud83d, whole \U0001f642, ü"}]
    path = write_jsonl(rows, tmp_path / "rows.jsonl")
    assert json.loads(path.read_text(encoding="utf-8")) == rows[0]
    assert "\U0001f642, ü" in path.read_text(encoding="utf-8")
