"""What moved: a run of the course against a baseline, or against another run.

A baseline is `tests/baselines/<profile>.json`: {notebook: {metric: {"value", "unit", "band"}}}.
The band is absolute, in the metric's own unit: a measured number is in band when it is within
value ± band. Times, speeds and what else the machine decides are told and never judged.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from .. import KitError
from ..machine import write_text
from .lessons.claims import Metric, short
from .results import CourseRun, NotebookResult

TOLERANCE = 0.05  # of the value, where no band is given; chosen by hand
_TIMING = re.compile(
    r"([mµu]?s|min|h|seconds?|minutes?|hours?)|.*(/\s?s|(a|per) (second|minute|hour))"
)


@dataclass(frozen=True)
class Expected:
    """What a metric should be: in band when |measured - value| <= band."""

    value: float
    unit: str
    band: float

    def holds(self, value: float) -> bool:
        """Whether a measured number is in band.

        Args:
            value: in the same unit.
        """
        return abs(value - self.value) <= self.band * (1 + 1e-9) + 1e-12

    def __str__(self) -> str:
        return f"{short(self.value)} ± {short(self.band)} {self.unit}".rstrip()


Baseline = dict[str, dict[str, Expected]]
T = TypeVar("T")


@dataclass(frozen=True)
class MetricResult:
    """One metric against its baseline.

    status: "in band", "out of band", "other unit", "missing" (expected, not measured), "new"
        (measured, not expected) or "machine" (told, not judged).
    """

    notebook: str
    name: str
    measured: Metric | None
    expected: Expected | None

    @property
    def status(self) -> str:
        """How the measured number stands to the expected one, in a word or two."""
        if self.measured is None:
            return "missing"
        if is_machines(self.measured):
            return "machine"
        if self.expected is None:
            return "new"
        if self.measured.unit != self.expected.unit:
            return "other unit"
        return "in band" if self.expected.holds(self.measured.value) else "out of band"

    @property
    def failed(self) -> bool:
        """Whether a regression test must fail on it."""
        return self.status in ("out of band", "other unit", "missing")


@dataclass(frozen=True)
class Move:
    """One thing that differs between two runs; None where a run does not have it.

    kind: "status", "claim", "metric" or "version"; notebook is "" for a version.
    worse: it held or passed before and does not now, or it is a new claim that is false.
    """

    kind: str
    notebook: str
    name: str
    before: str | None
    after: str | None
    worse: bool = False

    def __str__(self) -> str:
        place = " ".join(filter(None, [self.kind, self.notebook, self.name]))
        change = _change(self.before, self.after, "appeared", "vanished")
        return f"{place}: {change}" + (" (WORSE)" if self.worse else "")


@dataclass(frozen=True)
class Usage:
    """Minutes and peak memory of one notebook in two runs: for information only."""

    notebook: str
    minutes_before: float
    minutes_after: float
    peak_gb_before: float
    peak_gb_after: float

    def __str__(self) -> str:
        return (
            f"{self.notebook}: {self.minutes_before:.1f} -> {self.minutes_after:.1f} minutes, "
            f"{self.peak_gb_before:.1f} -> {self.peak_gb_after:.1f} GB"
        )


@dataclass(frozen=True)
class Comparison:
    """What moved between two runs, over the notebooks that both have."""

    moves: tuple[Move, ...]
    usage: tuple[Usage, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def worse(self) -> bool:
        """Whether a claim turned false, or a notebook that passed no longer does."""
        return any(move.worse for move in self.moves)


def is_machines(metric: Metric) -> bool:
    """Whether the machine decides a metric: it was recorded so, or is a time or a speed.

    Args:
        metric: its unit tells, such as "s" or "tokens/s".
    """
    return metric.machine or _TIMING.fullmatch(metric.unit.strip().lower()) is not None


def compare_runs(
    before: CourseRun, after: CourseRun, baseline: Baseline | None = None
) -> Comparison:
    """Find what moved between two runs of the course.

    Args:
        before, after: the two runs.
        baseline: whose bands count; without it a metric has moved beyond 5 % of its value.
    """
    versions = sorted(_pairs(before.versions, after.versions), key=itemgetter(0))
    moves = [Move("version", "", name, a, b) for name, a, b in versions if a != b]
    usage = []
    for name, old, new in _pairs(before.notebooks, after.notebooks):
        if old is None or new is None:
            continue
        if old.status != new.status:
            moves.append(Move("status", name, "", old.status, new.status, worse=old.passed))
        moves += _claim_moves(name, old, new)
        moves += _metric_moves(name, old, new, (baseline or {}).get(name, {}))
        usage.append(Usage(name, old.minutes, new.minutes, old.peak_rss_gb, new.peak_rss_gb))
    return Comparison(
        moves=tuple(moves),
        usage=tuple(usage),
        only_before=tuple(name for name in before.notebooks if name not in after.notebooks),
        only_after=tuple(name for name in after.notebooks if name not in before.notebooks),
    )


def _pairs(old: Mapping[str, T], new: Mapping[str, T]) -> list[tuple[str, T | None, T | None]]:
    """What two mappings hold under each name that one of them has."""
    return [(name, old.get(name), new.get(name)) for name in {**old, **new}]


def _change(before: object, after: object, came: str, went: str) -> str:
    """What became of a thing that was not there before, or is not there now, where it is None."""
    if before is None:
        return f"{came}: {after}"
    return f"{went}: {before}" if after is None else f"{before} -> {after}"


def _claim_moves(notebook: str, old: NotebookResult, new: NotebookResult) -> list[Move]:
    before, after = ({c.name: c.held for c in result.claims} for result in (old, new))
    words = {True: "held", False: "false", None: None}
    return [
        Move("claim", notebook, name, words[a], words[b], worse=b is False)
        for name, a, b in _pairs(before, after)
        if a != b
    ]


def _metric_moves(
    notebook: str, old: NotebookResult, new: NotebookResult, bands: dict[str, Expected]
) -> list[Move]:
    before, after = ({m.name: m for m in result.metrics} for result in (old, new))
    moves = []
    for name, a, b in _pairs(before, after):
        if a and b and a.unit == b.unit:
            band = _chosen_band(bands.get(name), a, TOLERANCE * abs(a.value))
            if is_machines(b) or Expected(a.value, a.unit, band).holds(b.value):
                continue
        old_amount, new_amount = (metric.amount if metric else None for metric in (a, b))
        moves.append(Move("metric", notebook, name, old_amount, new_amount))
    return moves


def _chosen_band(expected: Expected | None, metric: Metric, usual: float) -> float:
    """The band that somebody chose for a metric in this unit, or the usual one."""
    return expected.band if expected and expected.unit == metric.unit else usual


def against_baseline(run: CourseRun, baseline: Baseline) -> list[MetricResult]:
    """Hold every metric of a run against its baseline.

    Args:
        run: only its notebooks are looked at.
        baseline: from `read_baseline`.
    """
    results = []
    for notebook, result in run.notebooks.items():
        measured = {metric.name: metric for metric in result.metrics}
        expected = baseline.get(notebook, {})
        results += [
            MetricResult(notebook, name, measured.get(name), expected.get(name))
            for name in {**expected, **measured}
        ]
    return results


def read_baseline(path: Path) -> Baseline:
    """Read a baseline; a file that is not there is an empty one.

    Args:
        path: such as `tests/baselines/smoke.json`.

    Raises:
        KitError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            notebook: {name: _expected(entry) for name, entry in metrics.items()}
            for notebook, metrics in content.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as problem:
        raise KitError(
            f"The baseline {path} cannot be read: {problem}. Each metric needs "
            '{"value": number, "unit": text, "band": number of at least 0}.'
        ) from problem


def _expected(entry: Any) -> Expected:
    expected = Expected(**entry)
    for number in (expected.value, expected.band):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{number!r} is not a number")
    if not math.isfinite(expected.value) or not expected.band >= 0:
        raise ValueError(f"{expected} is no band")
    return expected


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Write a baseline.

    Args:
        baseline: what to write.
        path: such as `tests/baselines/smoke.json`.
    """
    content = {
        notebook: {name: vars(expected) for name, expected in sorted(metrics.items())}
        for notebook, metrics in sorted(baseline.items())
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def updated_baseline(run: CourseRun, old: Baseline) -> Baseline:
    """The baseline that this run would set; bands that somebody chose are kept.

    Args:
        run: only notebooks that passed count; what the machine decides is left out.
        old: the baseline so far; other notebooks stay as they are.
    """
    new = dict(old)
    for notebook, result in run.notebooks.items():
        if result.passed:
            bands = old.get(notebook, {})
            new[notebook] = {
                metric.name: _renewed(metric, bands.get(metric.name))
                for metric in result.metrics
                if not is_machines(metric)
            }
    return new


def _renewed(metric: Metric, expected: Expected | None) -> Expected:
    usual = float(f"{TOLERANCE * abs(metric.value):.2g}") or TOLERANCE
    value = float(f"{metric.value:.6g}")
    return Expected(value, metric.unit, _chosen_band(expected, metric, usual))


def baseline_changes(old: Baseline, new: Baseline) -> list[str]:
    """What changes from one baseline to another, a line each.

    Args:
        old, new: the two baselines.
    """
    return [
        f"{notebook} {name}: {_change(a, b, 'new', 'gone')}"
        for notebook in sorted({**old, **new})
        for name, a, b in sorted(
            _pairs(old.get(notebook, {}), new.get(notebook, {})), key=itemgetter(0)
        )
        if a != b
    ]
