"""Cards tell what was measured, where it was measured, and nothing else changes."""

from dataclasses import replace

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from qlora_kit import KitError
from qlora_kit.course import stamp_cards
from qlora_kit.course.results import CourseRun, NotebookResult

CARD = "# One\n\n| | CPU | T4 | H200 |\n|---|---|---|---|\n| minutes | ? | ? | ? |\n"
MAP = "## The map\n\n| lesson | you | minutes |\n|---|---|---|\n| [two](01_b.ipynb) | do | ? |"


@pytest.fixture
def notebooks(tmp_path):
    for name, cells in (
        ("00_start_here", [CARD + "| memory (GB) | ? | ? | ? |", MAP]),
        ("01_b", [CARD + "| memory (GB) | ? | ? | ? |", "text"]),
    ):
        made = new_notebook(cells=[new_markdown_cell(text) for text in cells])
        nbformat.write(made, tmp_path / f"{name}.ipynb")
    return tmp_path


def a_run(machine="cpu (some), float32"):
    passed = NotebookResult("passed", "", 3.21, 2.34, "hash")
    return CourseRun("laptop", {}, machine, {"01_b": passed, "02_gone": passed})


def cell(folder, name, index):
    return nbformat.read(folder / f"{name}.ipynb", as_version=4).cells[index].source


def test_the_measured_column_and_the_map_are_stamped(notebooks):
    assert stamp_cards(a_run(), notebooks) == ["01_b: 3.2 minutes, 2.3 GB"]
    assert "| minutes | 3.2 | ? | ? |" in cell(notebooks, "01_b", 0)
    assert "| memory (GB) | 2.3 | ? | ? |" in cell(notebooks, "01_b", 0)
    assert "| [two](01_b.ipynb) | do | 3 |" in cell(notebooks, "00_start_here", 1)
    assert cell(notebooks, "01_b", 1) == "text"
    assert stamp_cards(a_run(), notebooks) == []
    stamp_cards(a_run("cuda (Tesla T4), float16"), notebooks)
    assert "| minutes | 3.2 | 3.2 | ? |" in cell(notebooks, "01_b", 0)


def test_what_was_not_measured_for_readers_is_refused(notebooks):
    with pytest.raises(KitError, match="not smoke"):
        stamp_cards(replace(a_run(), profile="smoke"), notebooks)
    with pytest.raises(KitError, match="this run's was cuda"):
        stamp_cards(a_run("cuda (RTX 4090)"), notebooks)
    failed = NotebookResult("failed", "", 9.0, 9.0, "hash")
    assert stamp_cards(replace(a_run(), notebooks={"01_b": failed}), notebooks) == []
