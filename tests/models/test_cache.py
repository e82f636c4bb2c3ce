import errno
import multiprocessing
import os
import shutil
import time

import pytest

from qlora_kit import KitError
from qlora_kit.models import cache as cache_file


def build(scratch, target):
    target.mkdir()
    (target / "model.safetensors").write_bytes(b"weights")


def slow_build(scratch, target):
    with open(os.environ["BUILDS"], "a") as log:
        log.write("built\n")
    time.sleep(0.5)
    build(scratch, target)


def leftovers(cache):
    return [path for path in cache.iterdir() if path.is_dir() and path.name != "model"]


def test_a_folder_is_built_once(cache):
    first = cache_file.build_once("model", build, "mend")
    again = cache_file.build_once("model", lambda *_: pytest.fail("built twice"), "mend")
    assert first == again
    assert (first / "model.safetensors").read_bytes() == b"weights"
    assert not leftovers(cache)


def test_two_processes_that_fetch_at_once_build_once(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("BUILDS", str(tmp_path / "builds"))
    context = multiprocessing.get_context("fork")
    both = [
        context.Process(target=cache_file.build_once, args=("model", slow_build, "mend"))
        for _ in "ab"
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "builds").read_text() == "built\n"


@pytest.mark.parametrize("damage", ["weights changed", "weights gone", "stamp gone"])
def test_a_damaged_cache_is_named_with_the_way_out(cache, damage):
    folder = cache_file.build_once("model", build, "qlora-kit models fetch x --force")
    if damage == "weights changed":
        (folder / "model.safetensors").write_bytes(b"weights?")
    else:
        (folder / ("model.safetensors" if "weights" in damage else "qlora_kit.json")).unlink()
    with pytest.raises(KitError, match=r"damaged.*models fetch x --force"):
        cache_file.build_once("model", build, "qlora-kit models fetch x --force")


def test_a_build_that_was_killed_leaves_no_model(cache):
    def killed(scratch, target):
        target.mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_file.build_once("model", killed, "mend")
    assert not (cache / "model").exists()
    assert (cache_file.build_once("model", build, "mend") / "model.safetensors").exists()


def test_a_full_disk_is_said_plainly_and_leaves_nothing(cache):
    def full(scratch, target):
        target.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(KitError, match=r"disk .* is full.*QLORA_KIT_CACHE"):
        cache_file.build_once("model", full, "mend")
    assert not leftovers(cache)
    assert not (cache / "model").exists()


def write_copy(cache, source, kind, bitsandbytes, monkeypatch):
    """A copy in 4 bits as a version of the library leaves it."""
    monkeypatch.setattr(cache_file, "version", lambda name: bitsandbytes)
    return cache_file.quantized_folder(source, kind, lambda target: build(None, target))


def test_copies_in_4_bits_are_listed_and_those_of_other_versions_pruned(cache, monkeypatch):
    source = cache_file.build_once("model", build, "mend")
    gone = cache_file.build_once("gone", build, "mend")
    old = write_copy(cache, source, "nf4", "0.49", monkeypatch)
    orphan = write_copy(cache, gone, "nf4", "0.50", monkeypatch)
    current = write_copy(cache, source, "nf4", "0.50", monkeypatch)
    shutil.rmtree(gone)
    listed = {each.folder: each.copy for each in cache_file.cached_models()}
    assert listed == {source: False, old: True, orphan: True, current: True}
    assert {each.folder for each in cache_file.prune_copies()} == {old, orphan}
    assert {each.folder for each in cache_file.cached_models()} == {source, current}
    assert cache_file.prune_copies() == []
