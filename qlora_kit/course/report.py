"""A run of the course told to people: one HTML page that needs nothing beside it."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..machine import while_unchanged, write_text
from .baselines import Baseline, MetricResult, against_baseline
from .lessons.claims import Claim, short
from .notebooks import read_notebook
from .results import CourseRun

EXECUTED = "executed"
REPORT = "report.html"
HELD = {True: "held", False: "DOES NOT HOLD"}
_STATUS = {
    "machine": "the machine decides: not judged",
    "other unit": "other unit than the baseline",
}
_BODY = """
<p>{{ summary }}
Metrics that are not what the baseline expects: {{ deviations }}.</p>
{{ html_table(("notebook", "status", "claims held", "minutes", "peak memory (GB)"), overview) }}
{% for name, result in run.notebooks.items() %}
<h2>{{ name }}: {{ result.status }}</h2>
{% if result.message %}<pre>{{ result.message }}</pre>{% endif %}
{% if result.claims %}
{{ html_table(("claim", "result", "numbers"), claim_rows[name]) }}
{% endif %}
{% if metric_rows[name] %}
{{ html_table(("metric", "measured", "baseline ± band", "verdict"), metric_rows[name]) }}
{% endif %}
{% for figure in figures[name] %}
<p><img alt='{{ figure.alternative }}' src='data:image/png;base64,{{ figure.png }}'></p>
{% endfor %}
{% endfor %}
<h2>How it was made</h2>
<p>{{ run.machine }}</p><p>{{ versions }}</p>
"""


@dataclass(frozen=True)
class Figure:
    """A figure that a cell drew: the PNG in base64, and what it is, for who cannot see it."""

    png: str
    alternative: str


@while_unchanged  # the report of a run is written after each lesson, with the figures of all
def figures_of(path: Path) -> list[Figure]:
    """The figures of an executed notebook, in order.

    Args:
        path: the notebook.
    """
    figures: list[Figure] = []
    heading = path.stem
    for cell in read_notebook(path).cells:
        if cell.cell_type == "markdown":
            lines = [line for line in cell.source.splitlines() if line.startswith("#")]
            heading = lines[-1].lstrip("# ") if lines else heading
        for output in cell.get("outputs", ()):
            if figure := figure_of(output):
                usual = f"Figure {len(figures) + 1} of {path.stem}, under '{heading}'"
                figures.append(Figure(figure.png, figure.alternative or usual))
    return figures


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
    metadata = output.get("metadata", {}).get("image/png", {})
    return Figure(text, metadata.get("alt") or "")


def save_report(run: CourseRun, folder: Path, baseline: Baseline | None = None) -> Path:
    """Write report.html into the folder of a run.

    Args:
        run: what happened.
        folder: also holds the executed notebooks, whose figures are shown.
        baseline: of this profile; without it every metric is new.

    Returns:
        The page's path.
    """
    from ..plots import html_page

    metrics = against_baseline(run, baseline or {})
    executed = {name: folder / EXECUTED / f"{name}.ipynb" for name in run.notebooks}
    page = html_page(
        f"The course, profile {run.profile}",
        _BODY,
        run=run,
        summary=f"{run.passed} notebooks passed; {run.claims_held} claims held.",
        deviations=sum(metric.failed for metric in metrics),
        overview=[
            (name, one.status, one.claims_held, f"{one.minutes:.1f}", f"{one.peak_rss_gb:.1f}")
            for name, one in run.notebooks.items()
        ],
        claim_rows={
            name: [_claim_row(claim) for claim in result.claims]
            for name, result in run.notebooks.items()
        },
        metric_rows={
            name: [_metric_row(metric) for metric in metrics if metric.notebook == name]
            for name in run.notebooks
        },
        figures={
            name: figures_of(path) if path.is_file() else [] for name, path in executed.items()
        },
        versions=", ".join(f"{name} {version}" for name, version in run.versions.items()),
    )
    path = folder / REPORT
    write_text(path, page)
    return path


def _claim_row(claim: Claim) -> tuple[str, str, str]:
    numbers = ", ".join(f"{key} {short(value)}" for key, value in claim.numbers.items())
    return claim.name, HELD[claim.held], numbers


def _metric_row(metric: MetricResult) -> tuple[str, str, str, str]:
    usual = metric.status.upper() if metric.failed else metric.status
    return (
        metric.name,
        str(metric.measured.amount if metric.measured else "-"),
        str(metric.expected or "-"),
        _STATUS.get(metric.status, usual),
    )
