import os

import pytest

from qlora_kit.machine import digest, files, while_unchanged, write_files, write_text


def test_a_text_is_replaced_or_left(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_text(path, "one")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        write_text(path, "two")
    assert path.read_text() == "one"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_files_come_together_and_the_named_ones_last(tmp_path, monkeypatch):
    moved = []
    replace = os.replace

    def noted(source, target):
        moved.append(os.path.basename(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)

    def write(folder):
        for name in ("config", "a", "weights"):
            (folder / name).write_text(name)

    write_files(tmp_path / "run", write, last=("weights", "config"))
    assert moved == ["a", "weights", "config"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(moved)


def test_what_fails_halfway_changes_nothing(tmp_path):
    (tmp_path / "a").write_text("old")

    def write(folder):
        (folder / "a").write_text("new")
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError):
        write_files(tmp_path, write, last=())
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_digest_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert digest(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_what_was_read_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    path, reads = tmp_path / "a", []

    @while_unchanged
    def read(path):
        reads.append(path)
        return path.read_text()

    path.write_text("one")
    assert [read(path), read(path)] == ["one", "one"]
    assert len(reads) == 2  # so fresh a file may change within the clock's tick
    monkeypatch.setattr(files, "_SETTLED", -1.0)
    assert [read(path), read(path)] == ["one", "one"]
    assert len(reads) == 3
    path.write_text("two")  # as long as before
    assert read(path) == "two"
