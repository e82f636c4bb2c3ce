import os
import signal
import subprocess
import sys

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


def test_a_writer_between_a_writers_calls_changes_nothing_for_either(tmp_path, monkeypatch):
    path, inner = tmp_path / "a.json", ["inner " * 50_000]
    flush = files.flush

    def interrupted(scratch):
        if inner:  # another process writes the same file before this one can rename its own
            write_text(path, inner.pop())
            assert path.read_text() == "inner " * 50_000
        flush(scratch)

    monkeypatch.setattr(files, "flush", interrupted)
    write_text(path, "outer " * 70_000)
    assert path.read_text() == "outer " * 70_000
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


WRITER = """
import sys
from pathlib import Path
from qlora_kit.machine import write_text

path, letter, length = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(60):
    write_text(path, letter * length)
"""


def test_two_processes_that_write_one_file_never_show_a_mixture(tmp_path):
    path, lengths = tmp_path / "shared.json", {"a": 300_000, "b": 500_000}
    write_text(path, "a" * lengths["a"])
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), letter, str(length)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for letter, length in lengths.items()
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        text = path.read_text()
        assert text == text[:1] * lengths[text[:1]]
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


KILLED = """
import os, signal, sys
from pathlib import Path
from qlora_kit.machine import files

def killed(path):
    os.kill(os.getpid(), signal.SIGKILL)

files.flush = killed
folder = Path(sys.argv[1])
if sys.argv[2] == "text":
    files.write_text(folder / "a.json", "half")
files.write_files(folder, lambda scratch: (scratch / "weights").write_text("half"), last=())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("kind", ["text", "files"])
def test_what_a_killed_writer_left_is_no_result_and_goes_with_the_next_write(tmp_path, kind):
    write_text(tmp_path / "a.json", "whole")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), kind])
    assert done.returncode == -signal.SIGKILL
    [left] = {each for each in tmp_path.iterdir() if each.name != "a.json"}
    assert left.name.startswith(".")
    assert (tmp_path / "a.json").read_text() == "whole"
    write_text(tmp_path / "b.json", "next")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_the_scratch_of_a_living_process_or_another_machine_stays(tmp_path):
    own = files._new_scratch(tmp_path).name
    living = own.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    foreign = own.replace(f"-{os.getpid()}-", "-999999999-") + "-of-another-house"
    for name in (living, foreign):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "a.json", "whole")
    assert {each.name for each in tmp_path.iterdir()} == {living, foreign, "a.json"}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no modes")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_get_the_modes_that_a_plain_open_would_give(tmp_path, mask):
    before = os.umask(mask)
    try:
        (tmp_path / "plain").write_text("")
        write_text(tmp_path / "text", "")
        write_files(tmp_path / "run", lambda folder: (folder / "a").write_text(""), last=())
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode for name in ("plain", "text", "run/a")}
    assert len(set(modes.values())) == 1, modes
    assert modes["text"] & 0o777 == 0o666 & ~mask


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
