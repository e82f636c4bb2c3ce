"""One command renames the repository in every lesson, and no other file names it."""

import re
import shutil
from pathlib import Path

import pytest

from qlora_kit import KitError
from qlora_kit.course import stamp_repository
from qlora_kit.course.notebooks import find_notebooks

ROOT = Path(__file__).parents[2]
BADGE = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/")
SKIPPED = {".git", ".venv", "runs", "dist", "build"}


@pytest.fixture
def copy(tmp_path):
    """The whole repository, without what is built or ignored."""
    ignored = shutil.ignore_patterns(*SKIPPED, "__pycache__", ".*_cache", ".hypothesis")
    return Path(shutil.copytree(ROOT, tmp_path / "copy", ignore=ignored))


def naming(folder, name):
    """How often each file of a folder names a repository."""
    counts = {}
    for path in folder.rglob("*"):
        if path.is_file() and not SKIPPED & set(path.relative_to(folder).parts):
            count = path.read_bytes().count(name.encode())
            if count:
                counts[str(path.relative_to(folder))] = count
    return counts


def test_nothing_but_badges_and_install_lines_names_the_repository(copy):
    notebooks = find_notebooks(copy / "notebooks")
    [before] = set(BADGE.findall("".join(path.read_text() for path in notebooks)))
    twice = {f"notebooks/{path.name}": 2 for path in notebooks}
    assert naming(copy, before) == twice
    stamp_repository("ann-b/a.fork_2", copy / "notebooks")
    assert naming(copy, before) == {}
    assert naming(copy / "notebooks", "ann-b/a.fork_2") == {path.name: 2 for path in notebooks}
    assert len(BADGE.findall(notebooks[0].read_text())) == 1
    assert stamp_repository("ann-b/a.fork_2", copy / "notebooks") == []
    stamp_repository(before, copy / "notebooks")
    assert naming(copy, before) == twice


def test_badges_lead_to_their_own_notebook(copy):
    stamp_repository("ann/fork", copy / "notebooks")
    for path in find_notebooks(copy / "notebooks"):
        assert f"github/ann/fork/blob/main/notebooks/{path.name})" in path.read_text()


@pytest.mark.parametrize("name", ["qlora", "a/b/c", "a b/c", "https://github.com/a/b"])
def test_what_is_no_repository_is_refused(copy, name):
    with pytest.raises(KitError, match="owner/name"):
        stamp_repository(name, copy / "notebooks")


def test_a_lesson_without_its_badge_is_named_before_anything_changes(copy):
    first, *_, last = find_notebooks(copy / "notebooks")
    last.write_text(BADGE.sub("example.org/", last.read_text()))
    before = first.read_bytes()
    with pytest.raises(KitError, match=f"{last.name} has not exactly one Colab badge"):
        stamp_repository("ann/fork", copy / "notebooks")
    assert first.read_bytes() == before
