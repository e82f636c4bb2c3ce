"""A room side by side: who measured what, also when one file is damaged or one stopped early."""

import errno
import json
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from qlora_kit import KitError
from qlora_kit.course import read_room, read_run, save_room, share_results
from qlora_kit.course.lessons.claims import Claim, Metric
from qlora_kit.course.results import CourseRun, NotebookResult, write_run

LESSON = "01_a"


def result(loss, held=True, **changes):
    told = {"status": "passed", "message": "", "minutes": 1.5, "peak_rss_gb": 1.0, "hash": "h"}
    return NotebookResult(
        **told | changes,
        claims=(Claim("it_learns", held, {"loss": loss}),),
        metrics=(Metric("loss", loss, "nats a token"),),
    )


@pytest.fixture
def room(tmp_path):
    """Three students: two run folders and a file."""
    for name, one in (
        ("bob", result(3.0)),
        ("ann", result(1.0)),
        ("cy<b>", result(7.0, False, status="failed", message="a & b")),
    ):
        folder = tmp_path / "room" / name
        folder.mkdir(parents=True)
        write_run(CourseRun("smoke", {}, f"cpu of {name}", {LESSON: one}), folder)
    (tmp_path / "room/cy<b>/metrics.json").rename(tmp_path / "room/cy<b>.json")
    (tmp_path / "room/cy<b>").rmdir()
    return tmp_path / "room"


def test_a_room_is_read_and_told_side_by_side(room, tmp_path):
    runs, unreadable = read_room([room])
    assert list(runs) == ["ann", "bob", "cy<b>"]
    assert unreadable == []
    page = save_room(runs, tmp_path / "room.html").read_text()
    for shown in (
        "<td>ann</td><td>smoke</td><td>1 of 1</td><td>1 of 1</td><td>1.5</td><td>cpu of ann</td>",
        "<td>cy&lt;b&gt;</td><td>smoke</td><td>0 of 1</td><td>0 of 1</td>",
        "<td>it_learns</td><td>held</td><td>held</td><td>DOES NOT HOLD</td>",
        "<td>loss (nats a token)</td><td class=n>3</td><td class=n>1</td><td class=n>3</td>",
        "<p>cy&lt;b&gt;: a &amp; b</p>",
    ):
        assert shown in page
    assert "<b>" not in page


def test_profiles_are_not_mixed(room, tmp_path):
    slow = CourseRun("laptop", {}, "cpu", {LESSON: result(0.5), "02_b": result(0.1)})
    write_run(slow, room / "ann")
    page = save_room(read_room([room])[0], tmp_path / "room.html").read_text()
    assert "<h2>01_a, laptop</h2>" in page
    assert "<h2>02_b, laptop</h2>" in page
    smoke = page[page.index("<h2>01_a, smoke</h2>") :]
    assert "<td class=n>5</td><td class=n>3</td><td class=n>7</td>" in smoke


def test_one_damaged_file_does_not_stop_the_others(room):
    (room / "bob/metrics.json").write_text("{")
    runs, [line] = read_room([room])
    assert list(runs) == ["ann", "cy<b>"]
    assert line.startswith("bob: ")
    with pytest.raises(KitError, match=r"no results in.*bob"):
        read_room([room / "bob"])


def test_two_students_of_one_name_and_an_empty_folder_are_refused(room, tmp_path):
    (room / "nobody").mkdir()
    with pytest.raises(KitError, match="Two students are called 'ann'"):
        read_room([room, room / "ann"])
    with pytest.raises(KitError, match="qlora-kit workshop share"):
        read_room([tmp_path / "room" / "nobody"])


def lesson(*outputs):
    cells = [v4.new_markdown_cell("# One")]
    for at, output in enumerate(outputs):
        cell = v4.new_code_cell("claim(...)", execution_count=at + 1 if output else None)
        cell.outputs = [v4.new_output("display_data", output)] if output else []
        cells.append(cell)
    return v4.new_notebook(cells=cells)


CLAIM = {"application/vnd.qlora-kit.claim+json": {"name": "a", "held": True, "numbers": {"n": 2}}}
METRIC = {"application/vnd.qlora-kit.metric+json": {"name": "m", "value": 0.5, "unit": ""}}


def test_saved_notebooks_become_a_students_file(tmp_path):
    nbformat.write(lesson(CLAIM, METRIC), tmp_path / "01_a.ipynb")
    nbformat.write(lesson(CLAIM, None), tmp_path / "02_b.ipynb")
    nbformat.write(lesson(None), tmp_path / "03_c.ipynb")
    path = share_results("ann", tmp_path, tmp_path)
    assert path == tmp_path / "ann.json"
    run = read_run(path)
    assert {name: one.status for name, one in run.notebooks.items()} == {
        "01_a": "passed",
        "02_b": "failed",
    }
    assert run.notebooks["02_b"].message == "1 of 2 cells were run"
    assert run.notebooks["01_a"].claims == (Claim("a", True, {"n": 2}),)
    assert run.notebooks["01_a"].metrics == (Metric("m", 0.5, ""),)
    assert json.loads(path.read_text())["profile"] == "by hand"


def test_sharing_into_a_run_of_the_course_leaves_that_run(room, tmp_path):
    nbformat.write(lesson(CLAIM), tmp_path / "01_a.ipynb")
    before = (room / "bob/metrics.json").read_bytes()
    assert share_results("ann", tmp_path, room / "bob") == room / "bob/ann.json"
    assert (room / "bob/metrics.json").read_bytes() == before
    assert sorted(path.name for path in (room / "bob").iterdir()) == ["ann.json", "metrics.json"]
    for name in ("metrics", "Metrics"):  # one file where names have no case
        with pytest.raises(KitError, match="take another name"):
            share_results(name, tmp_path, room / "bob")
    assert (room / "bob/metrics.json").read_bytes() == before


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    nbformat.write(lesson(CLAIM), tmp_path / "01_a.ipynb")
    path = share_results("ann", tmp_path, tmp_path)
    before = path.read_bytes()

    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(KitError, match=r"cannot be written: No space left.*--out"):
        share_results("ann", tmp_path, tmp_path)
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["01_a.ipynb", "ann.json"]


def test_who_ran_nothing_is_told_how(tmp_path):
    nbformat.write(lesson(None), tmp_path / "01_a.ipynb")
    with pytest.raises(KitError, match="Run All Cells"):
        share_results("ann", tmp_path, tmp_path)
    with pytest.raises(KitError, match="no name for a file"):
        share_results("../ann", tmp_path, tmp_path)
