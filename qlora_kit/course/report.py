"""A run of the course told to people: one HTML page that needs nothing beside it."""

import base64
import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .baselines import Baseline, Verdict, against_baseline
from .lessons.claims import short
from .notebooks import read_notebook
from .results import CourseRun, NotebookResult

EXECUTED = "executed"
_SAID = {"machine": "the machine decides: not judged", "other unit": "other unit than the baseline"}


@dataclass(frozen=True)
class Figure:
    """A figure that a cell drew: the PNG in base64, and what it is, for who cannot see it."""

    png: str
    alternative: str


def figures_of(path: Path) -> Iterator[Figure]:
    """The figures of an executed notebook, in order.

    Args:
        path: the notebook; one that is not there has none.
    """
    if not path.is_file():
        return
    heading, number = path.stem, 0
    for cell in read_notebook(path).cells:
        if cell.cell_type == "markdown":
            lines = [line for line in cell.source.splitlines() if line.startswith("#")]
            heading = lines[-1].lstrip("# ") if lines else heading
        for output in cell.get("outputs", ()):
            if found := figure_of(output):
                number += 1
                usual = f"Figure {number} of {path.stem}, under '{heading}'"
                yield Figure(found.png, found.alternative or usual)


def figure_of(output: Any) -> Figure | None:
    """The figure that one output of a cell holds, with the words it came with.

    Args:
        output: from an executed notebook.
    """
    png = output.get("data", {}).get("image/png")
    if not png:
        return None
    text = "".join("".join(png).split())
    base64.b64decode(text, validate=True)  # it goes into an attribute as it is
    told = output.get("metadata", {}).get("image/png", {})
    return Figure(text, told.get("alt") or "")


def save_report(run: CourseRun, folder: Path, baseline: Baseline | None = None) -> Path:
    """Write report.html into the folder of a run.

    Args:
        run: what happened.
        folder: also holds the executed notebooks, whose figures are shown.
        baseline: of this profile; without it every metric is new.

    Returns:
        The page's path.
    """
    path = folder / "report.html"
    path.write_text(_page(run, folder, against_baseline(run, baseline or {})), encoding="utf-8")
    return path


def _page(run: CourseRun, folder: Path, verdicts: list[Verdict]) -> str:
    from ..plots import PAGE_STYLE, html_table

    title = f"The course, profile {run.profile}"
    passed = sum(result.passed for result in run.notebooks.values())
    claims = [claim for result in run.notebooks.values() for claim in result.claims]
    out = sum(verdict.failed for verdict in verdicts)
    overview = (
        (name, r.status, f"{sum(c.held for c in r.claims)} of {len(r.claims)}",
         f"{r.minutes:.1f}", f"{r.peak_rss_gb:.1f}")
        for name, r in run.notebooks.items()
    )  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{passed} of {len(run.notebooks)} notebooks passed; {sum(c.held for c in claims)} of "
        f"{len(claims)} claims held. Metrics that are not what the baseline expects: {out}.</p>",
        html_table(("notebook", "status", "claims held", "minutes", "peak memory (GB)"), overview),
        *(
            _section(name, result, [v for v in verdicts if v.notebook == name], folder)
            for name, result in run.notebooks.items()
        ),
        "<h2>How it was made</h2>",
        f"<p>{html.escape(run.machine)}</p><p>{html.escape(versions)}</p>",
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{PAGE_STYLE}</style>{''.join(parts)}</html>\n"
    )


def _section(name: str, result: NotebookResult, verdicts: list[Verdict], folder: Path) -> str:
    from ..plots import html_table

    parts = [f"<h2>{html.escape(name)}: {html.escape(result.status)}</h2>"]
    if result.message:
        parts.append(f"<pre>{html.escape(result.message)}</pre>")
    if result.claims:
        rows = (
            (claim.name, "held" if claim.held else "DOES NOT HOLD",
             ", ".join(f"{key} {short(value)}" for key, value in claim.numbers.items()))
            for claim in result.claims
        )  # fmt: skip
        parts.append(html_table(("claim", "result", "numbers"), rows))
    if verdicts:
        head = ("metric", "measured", "baseline ± band", "verdict")
        parts.append(html_table(head, (_row(verdict) for verdict in verdicts)))
    for figure in figures_of(folder / EXECUTED / f"{name}.ipynb"):
        alternative = html.escape(figure.alternative, quote=True)
        parts.append(f"<p><img alt='{alternative}' src='data:image/png;base64,{figure.png}'></p>")
    return "".join(parts)


def _row(verdict: Verdict) -> tuple[str, str, str, str]:
    metric = verdict.measured
    return (
        verdict.metric,
        f"{short(metric.value)} {metric.unit}".rstrip() if metric else "-",
        str(verdict.expected or "-"),
        _SAID.get(verdict.word, verdict.word.upper() if verdict.failed else verdict.word),
    )
