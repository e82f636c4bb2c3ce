import os
from pathlib import Path

import pytest

from qlora_kit.machine import cache, files


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname != "Linux", reason="Linux's places")
def test_the_cache_is_where_xdg_says_or_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("QLORA_KIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_home() == Path.home() / ".cache/qlora-kit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_home() == tmp_path / "xdg/qlora-kit"
    monkeypatch.setenv("QLORA_KIT_CACHE", "~/mine")
    assert cache.cache_home() == Path.home() / "mine"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("QLORA_KIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_written_down_is_recalled_and_damage_is_nothing(home):
    assert cache.recall("memo.json") == {}
    cache.remember("memo.json", "a", "1")
    cache.remember("memo.json", "b", "2")
    assert cache.recall("memo.json") == {"a": "1", "b": "2"}
    for damage in ("[1]", "{", "null"):
        (home / "memo.json").write_text(damage)
        assert cache.recall("memo.json") == {}


def test_the_oldest_entries_go(home, monkeypatch):
    monkeypatch.setattr(cache, "_ENTRIES", 2)
    for key in "abc":
        cache.remember("memo.json", key, "1")
    assert list(cache.recall("memo.json")) == ["b", "c"]


def test_files_are_read_once_until_one_changes(home, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_SETTLED", -60)
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("one")

    def find_out():
        return "".join(path.read_text() for path in paths)

    assert cache.once_for_files("memo.json", paths, find_out) == "oneone"
    assert cache.once_for_files("memo.json", paths, lambda: pytest.fail("read again")) == "oneone"
    paths[1].write_text("two")
    assert cache.once_for_files("memo.json", paths, find_out) == "onetwo"


def test_files_that_may_still_change_are_not_remembered(home, tmp_path):
    (tmp_path / "a").write_text("one")
    assert cache.once_for_files("memo.json", [tmp_path / "a"], lambda: "one") == "one"
    assert cache.once_for_files("memo.json", [tmp_path / "a"], lambda: "two") == "two"
