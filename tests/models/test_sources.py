"""Where a model's weights are, as far as they are on this machine already."""

import pytest

from qlora_kit import KitError
from qlora_kit.machine import digest
from qlora_kit.models import bundled, cache, locate
from tests.tools.gguf_files import write_model


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache, and a pytest.fail in the place of what fetches and what converts."""

    def forbidden(*arguments):
        pytest.fail("locate must only look")

    monkeypatch.setenv("QLORA_KIT_CACHE", str(tmp_path / "cache"))
    for module in (bundled, cache):
        monkeypatch.setattr(module, "convert_gguf", forbidden)
    monkeypatch.setattr(bundled, "_download", forbidden)
    return tmp_path / "cache"


@pytest.fixture
def gguf(tmp_path):
    return write_model(tmp_path / "base.gguf", shapes={"token_embd.weight": (8, 6)})


def test_a_gguf_file_that_was_not_converted_is_only_looked_for(gguf, home):
    assert locate(str(gguf)) is None
    assert not home.exists()


def test_a_gguf_file_is_located_where_it_was_converted_into(gguf, home):
    folder = home / f"gguf-base-{digest(gguf)[:16]}"
    folder.mkdir(parents=True)
    assert locate(str(gguf)) == folder
    write_model(gguf, shapes={"token_embd.weight": (8, 7)})  # other weights under its name
    assert locate(str(gguf)) is None


def test_a_gguf_file_that_is_not_sound_is_said(gguf):
    gguf.write_bytes(gguf.read_bytes()[:40])
    with pytest.raises(KitError, match=r"base\.gguf is not a sound GGUF file"):
        locate(str(gguf))


def test_a_gguf_file_is_hashed_once_until_it_changes(gguf, home, monkeypatch):
    monkeypatch.setattr("qlora_kit.machine.files._SETTLED", -60)  # as if it lay there for long
    hashed = []

    def counted(path):
        hashed.append(path)
        return digest(path)

    monkeypatch.setattr(cache, "digest", counted)
    folder = home / f"gguf-base-{digest(gguf)[:16]}"
    folder.mkdir(parents=True)
    assert {locate(str(gguf)) for _ in range(3)} == {folder}
    assert hashed == [gguf]
    write_model(gguf, shapes={"token_embd.weight": (8, 7)})
    assert locate(str(gguf)) is None
    assert hashed == [gguf, gguf]


@pytest.mark.parametrize("name", ["smollm2", "some-org/some-model", "/gone/base.gguf", "gone"])
def test_what_is_not_here_is_not_fetched(name, home, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert locate(name) is None
    assert not home.exists()


def test_a_folder_and_a_bundled_model_are_located(home, tmp_path):
    (home / "smollm2").mkdir(parents=True)
    assert locate("smollm2") == home / "smollm2"
    assert locate(str(tmp_path)) == tmp_path
