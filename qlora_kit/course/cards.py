"""The card at the top of each lesson: minutes and memory as they were last measured."""

import re
from pathlib import Path
from typing import Any

from .. import KitError
from .notebooks import read_notebook, write_notebook
from .results import CourseRun

COLUMNS = ("CPU", "T4", "H200")
_MAP = "00_start_here"


def stamp_cards(run: CourseRun, notebooks: Path) -> list[str]:
    """Write a run's minutes and memory into the lessons' cards, and the map of lesson 00.

    Only the column of the run's machine changes, and only lessons that passed.

    Args:
        run: a run of the course with the settings that readers have: profile "laptop".
        notebooks: the folder of the notebooks.

    Returns:
        A line for each card that changed.

    Raises:
        KitError: another profile, a machine without a column, or a card that is not there.
    """
    if run.profile != "laptop":
        raise KitError(
            f"Cards tell readers what to expect, so they take a run in profile laptop, not "
            f"{run.profile}: qlora-kit course run --profile laptop"
        )
    column = _column(run.machine)
    changed = []
    for name, result in run.notebooks.items():
        path = notebooks / f"{name}.ipynb"
        if not result.passed or not path.exists():
            continue
        notebook = read_notebook(path)
        minutes, memory = f"{result.minutes:.1f}", f"{result.peak_rss_gb:.1f}"
        if _stamp(notebook.cells[0], {"minutes": minutes, "memory (GB)": memory}, column, path):
            write_notebook(notebook, path)
            changed.append(f"{name}: {minutes} minutes, {memory} GB")
    _stamp_map(run, column, notebooks / f"{_MAP}.ipynb")
    return changed


def _column(machine: str) -> str:
    if machine.startswith("cpu"):
        return "CPU"
    for column in COLUMNS[1:]:
        if column in machine:
            return column
    raise KitError(f"The cards have columns for {', '.join(COLUMNS)}; this run's was {machine}.")


def _stamp(cell: Any, values: dict[str, str], column: str, path: Path) -> bool:
    lines = cell.source.split("\n")
    for row, value in values.items():
        index = next((i for i, line in enumerate(lines) if line.startswith(f"| {row} |")), None)
        if index is None:
            raise KitError(f"{path}: the card in the first cell has no row '{row}'.")
        cells = lines[index].split("|")
        cells[2 + COLUMNS.index(column)] = f" {value} "
        lines[index] = "|".join(cells)
    before, cell.source = cell.source, "\n".join(lines)
    return cell.source != before


def _stamp_map(run: CourseRun, column: str, path: Path) -> None:
    """The last column of the map in lesson 00; measured on a CPU, as most readers have."""
    if column != "CPU" or not path.exists():
        return
    notebook = read_notebook(path)
    for cell in notebook.cells:
        if cell.cell_type != "markdown" or not cell.source.startswith("## The map"):
            continue
        for name, result in run.notebooks.items():
            pattern = rf"^(\| [^|]*{name}\.ipynb[^|]*\|[^|]*\|)[^|]*\|$"
            row = rf"\g<1> {max(1, round(result.minutes))} |"
            cell.source = re.sub(pattern, row, cell.source, flags=re.MULTILINE)
    write_notebook(notebook, path)
