"""A room's results side by side: one page from each student's metrics.json."""

import re
import statistics
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from ... import KitError
from ...machine import write_text
from ..lessons.claims import read_claims, read_metrics, short
from ..notebooks import find_notebooks, read_notebook
from ..report import HELD
from ..results import (
    FILE,
    CourseRun,
    NotebookResult,
    course_versions,
    machine_line,
    read_run,
    write_run,
)

BY_HAND = "by hand"  # the profile of results that were made cell by cell, in JupyterLab
_BODY = """
{% set head = ("student", "profile", "notebooks passed", "claims held", "minutes", "machine") %}
{{ html_table(head, students) }}
{% for title, results, claims, metrics in lessons %}
<h2>{{ title }}</h2>
{% for name, result in results.items() if result.message %}
<p>{{ name }}: {{ result.message }}</p>
{% endfor %}
{% if claims %}{{ html_table(["claim"] + results | list, claims) }}{% endif %}
{% if metrics %}
{{ html_table(["metric", "median"] + results | list, metrics, numbers=True) }}
{% endif %}
{% endfor %}
"""


def share_results(name: str, notebooks: Path, out: Path) -> Path:
    """Write what saved notebooks measured, whoever ran their cells, as one NAME.json.

    Args:
        name: the student's; letters, digits, - and _.
        notebooks: the folder of the notebooks, saved with their outputs.
        out: the folder that the file goes into.

    Returns:
        The file.

    Raises:
        KitError: a name that no file can have, no notebook that was run, or a file that cannot be
            written.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise KitError(f"{name!r} is no name for a file: take letters, digits, - and _.")
    path = out / f"{name}.json"
    if path.name.lower() == FILE:
        raise KitError(f"{FILE} is a whole run of the course; take another name than {name!r}.")
    results = {}
    for lesson in find_notebooks(notebooks):
        notebook = read_notebook(lesson)
        code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        done = [cell for cell in code if cell.execution_count is not None]
        if not done:
            continue
        message = "" if done == code else f"{len(done)} of {len(code)} cells were run"
        claims, metrics = tuple(read_claims(notebook)), tuple(read_metrics(notebook))
        whole = done == code and all(claim.held for claim in claims)
        status = "passed" if whole else "failed"
        results[lesson.stem] = NotebookResult(status, message, 0.0, 0.0, "", claims, metrics)
    if not results:
        raise KitError(
            f"No notebook in {notebooks} was run and saved. In JupyterLab: Run > Run All Cells, "
            "then File > Save."
        )
    run = CourseRun(BY_HAND, course_versions(), machine_line(), results)
    try:
        write_run(run, out, path.name)
    except OSError as problem:
        reason = problem.strerror or problem
        raise KitError(f"{path} cannot be written: {reason}. Give another --out.") from problem
    return path


def read_room(paths: Sequence[Path]) -> tuple[dict[str, CourseRun], list[str]]:
    """Read the students' results.

    Args:
        paths: a file NAME.json, a run folder NAME with its metrics.json, or a folder of such.

    Returns:
        (the runs by student, in order of name; a line for each that cannot be read).

    Raises:
        KitError: nothing is there, or two students have one name.
    """
    files = [file for path in paths for file in _files(path)]
    runs: dict[str, CourseRun] = {}
    unreadable = []
    for file in files:
        name = file.parent.name if file.name == FILE else file.stem
        if name in runs:
            raise KitError(f"Two students are called {name!r}; the second is {file}. Rename one.")
        try:
            runs[name] = read_run(file)
        except KitError as problem:
            unreadable.append(f"{name}: {problem}")
    if not runs:
        reasons = " ".join(unreadable) or "Students make theirs with: qlora-kit workshop share"
        raise KitError(f"There are no results in {', '.join(map(str, paths))}. {reasons}")
    return dict(sorted(runs.items())), unreadable


def save_room(runs: dict[str, CourseRun], out: Path) -> Path:
    """Write the page: who measured what, on which machine, and where all agree.

    Args:
        runs: from `read_room`.
        out: the page.

    Returns:
        The page.
    """
    from ...plots import html_page

    lessons: dict[tuple[str, str], dict[str, NotebookResult]] = {}
    for name, run in runs.items():
        for notebook, result in run.notebooks.items():
            lessons.setdefault((notebook, run.profile), {})[name] = result
    page = html_page(
        "The room",
        _BODY,
        students=[_student(name, run) for name, run in runs.items()],
        lessons=[
            (", ".join(lesson), results, _claims(results), _metrics(results))
            for lesson, results in sorted(lessons.items())
        ],
    )
    write_text(out, page)
    return out


def _files(path: Path) -> list[Path]:
    if (path / FILE).is_file():
        return [path / FILE]
    if path.is_dir():
        return sorted([*path.glob("*.json"), *path.glob(f"*/{FILE}")])
    return [path]


def _student(name: str, run: CourseRun) -> tuple[str, ...]:
    minutes = sum(result.minutes for result in run.notebooks.values())
    spent = f"{minutes:.1f}" if minutes else "-"
    return name, run.profile, run.passed, run.claims_held, spent, run.machine


def _claims(results: dict[str, NotebookResult]) -> list[tuple[str, ...]]:
    """A row for each claim; "-" where a student did not come so far."""
    cells = {name: {c.name: HELD[c.held] for c in r.claims} for name, r in results.items()}
    return [
        (claim, *(column.get(claim, "-") for column in cells.values()))
        for claim in dict.fromkeys(chain(*cells.values()))
    ]


def _metrics(results: dict[str, NotebookResult]) -> list[tuple[str, ...]]:
    """A row for each metric, with the room's median first."""
    values = {name: {(m.name, m.unit): m.value for m in r.metrics} for name, r in results.items()}
    rows = []
    for metric, unit in dict.fromkeys(chain(*values.values())):
        row = [column.get((metric, unit)) for column in values.values()]
        median = statistics.median(value for value in row if value is not None)
        cells = (short(value) if value is not None else "-" for value in row)
        rows.append((f"{metric} ({unit})" if unit else metric, short(median), *cells))
    return rows
