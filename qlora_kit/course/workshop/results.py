"""A room's results side by side: one page from each student's metrics.json."""

import html
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from ... import KitError
from ...machine import write_text
from ..lessons.claims import read_claims, read_metrics, short
from ..notebooks import find_notebooks, read_notebook
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
_HELD = {True: "held", False: "DOES NOT HOLD"}


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
        done = sum(cell.execution_count is not None for cell in code)
        if not done:
            continue
        claims = tuple(read_claims(notebook))
        status = "passed" if done == len(code) and all(c.held for c in claims) else "failed"
        message = "" if done == len(code) else f"{done} of {len(code)} cells were run"
        metrics = tuple(read_metrics(notebook))
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
        said = " ".join(unreadable) or "Students make theirs with: qlora-kit workshop share"
        raise KitError(f"There are no results in {', '.join(map(str, paths))}. {said}")
    return dict(sorted(runs.items())), unreadable


def save_room(runs: dict[str, CourseRun], out: Path) -> Path:
    """Write the page: who measured what, on which machine, and where all agree.

    Args:
        runs: from `read_room`.
        out: the page.

    Returns:
        The page.
    """
    from ...plots import PAGE_STYLE, html_table

    head = ("student", "profile", "notebooks passed", "claims held", "minutes", "machine")
    parts = [
        "<h1>The room</h1>",
        html_table(head, [_line(name, run) for name, run in runs.items()]),
    ]
    groups: dict[tuple[str, str], dict[str, NotebookResult]] = {}
    for name, run in runs.items():
        for notebook, result in run.notebooks.items():
            groups.setdefault((notebook, run.profile), {})[name] = result
    for (notebook, profile), results in sorted(groups.items()):
        parts.append(f"<h2>{html.escape(notebook)}, {html.escape(profile)}</h2>")
        parts += [
            f"<p>{html.escape(name)}: {html.escape(result.message)}</p>"
            for name, result in results.items()
            if result.message
        ]
        claims, metrics = _claims(results), _metrics(results)
        if claims:
            parts.append(html_table(("claim", *results), claims))
        if metrics:
            parts.append(html_table(("metric", "median", *results), metrics, numbers=True))
    write_text(
        out,
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>The room</title><style>{PAGE_STYLE}</style>{''.join(parts)}</html>\n",
    )
    return out


def _files(path: Path) -> list[Path]:
    if (path / FILE).is_file():
        return [path / FILE]
    if path.is_dir():
        return sorted([*path.glob("*.json"), *path.glob(f"*/{FILE}")])
    return [path]


def _line(name: str, run: CourseRun) -> tuple[str, ...]:
    results = list(run.notebooks.values())
    claims = [claim for result in results for claim in result.claims]
    minutes = sum(result.minutes for result in results)
    return (
        name,
        run.profile,
        f"{sum(result.passed for result in results)} of {len(results)}",
        f"{sum(claim.held for claim in claims)} of {len(claims)}",
        f"{minutes:.1f}" if minutes else "-",
        run.machine,
    )


def _claims(results: dict[str, NotebookResult]) -> list[tuple[str, ...]]:
    """A row for each claim; "-" where a student did not come so far."""
    told = {name: {c.name: _HELD[c.held] for c in r.claims} for name, r in results.items()}
    names = dict.fromkeys(claim for one in told.values() for claim in one)
    return [(claim, *(told[name].get(claim, "-") for name in results)) for claim in names]


def _metrics(results: dict[str, NotebookResult]) -> list[tuple[str, ...]]:
    """A row for each metric, with the room's median first."""
    told = {name: {(m.name, m.unit): m.value for m in r.metrics} for name, r in results.items()}
    keys = dict.fromkeys(key for one in told.values() for key in one)
    return [
        (
            f"{key[0]} ({key[1]})" if key[1] else key[0],
            short(statistics.median(one[key] for one in told.values() if key in one)),
            *(short(told[name][key]) if key in told[name] else "-" for name in results),
        )
        for key in keys
    ]
