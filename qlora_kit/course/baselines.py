"""What moved: a run of the course against a baseline, or against another run.

A baseline is `tests/baselines/<profile>.json`: {notebook: {metric: {"value", "unit", "band"}}}.
The band is absolute, in the metric's own unit: a measured number is in band when it is within
value ± band. Times, speeds and what else the machine decides are told and never judged.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import KitError
from .lessons.claims import Metric, short
from .results import CourseRun, NotebookResult

TOLERANCE = 0.05  # of the value, where no band is given
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


@dataclass(frozen=True)
class Verdict:
    """One metric against its baseline.

    word: "in band", "out of band", "other unit", "missing" (expected, not measured), "new"
        (measured, not expected) or "machine" (told, not judged).
    """

    notebook: str
    metric: str
    word: str
    measured: Metric | None
    expected: Expected | None

    @property
    def failed(self) -> bool:
        """Whether a regression test must fail on it."""
        return self.word in ("out of band", "other unit", "missing")


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
        place = " ".join(filter(None, [self.notebook, self.name]))
        change = (
            f"appeared: {self.after}" if self.before is None
            else f"vanished: {self.before}" if self.after is None
            else f"{self.before} -> {self.after}"
        )  # fmt: skip
        return f"{self.kind} {place}: {change}" + (" (WORSE)" if self.worse else "")


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


def compare(before: CourseRun, after: CourseRun, baseline: Baseline | None = None) -> Comparison:
    """Find what moved between two runs of the course.

    Args:
        before, after: the two runs.
        baseline: whose bands count; without it a metric has moved beyond 5 % of its value.
    """
    moves = [
        Move("version", "", name, before.versions.get(name), after.versions.get(name))
        for name in sorted({*before.versions, *after.versions})
        if before.versions.get(name) != after.versions.get(name)
    ]
    usage = []
    for name in (name for name in before.notebooks if name in after.notebooks):
        old, new = before.notebooks[name], after.notebooks[name]
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


def _claim_moves(notebook: str, old: NotebookResult, new: NotebookResult) -> list[Move]:
    before, after = ({c.name: c for c in result.claims} for result in (old, new))
    moves = []
    for name in {**before, **after}:
        a, b = before.get(name), after.get(name)
        if a is None or b is None or a.held != b.held:
            told = [None if c is None else "held" if c.held else "false" for c in (a, b)]
            worse = b is not None and not b.held
            moves.append(Move("claim", notebook, name, told[0], told[1], worse))
    return moves


def _metric_moves(
    notebook: str, old: NotebookResult, new: NotebookResult, bands: dict[str, Expected]
) -> list[Move]:
    before, after = ({m.name: m for m in result.metrics} for result in (old, new))
    moves = []
    for name in {**before, **after}:
        a, b = before.get(name), after.get(name)
        if a and b and a.unit == b.unit:
            known = bands.get(name)
            band = known.band if known and known.unit == a.unit else TOLERANCE * abs(a.value)
            if is_machines(b) or Expected(a.value, a.unit, band).holds(b.value):
                continue
        told = [f"{short(m.value)} {m.unit}".rstrip() if m else None for m in (a, b)]
        moves.append(Move("metric", notebook, name, told[0], told[1]))
    return moves


def against_baseline(run: CourseRun, baseline: Baseline) -> list[Verdict]:
    """Hold every metric of a run against its baseline.

    Args:
        run: only its notebooks are looked at.
        baseline: from `read_baseline`.
    """
    verdicts = []
    for notebook, result in run.notebooks.items():
        measured = {metric.name: metric for metric in result.metrics}
        expected = baseline.get(notebook, {})
        for name in {**expected, **measured}:
            got, want = measured.get(name), expected.get(name)
            verdicts.append(Verdict(notebook, name, _word(got, want), got, want))
    return verdicts


def _word(got: Metric | None, want: Expected | None) -> str:
    if got is None:
        return "missing"
    if is_machines(got):
        return "machine"
    if want is None:
        return "new"
    if got.unit != want.unit:
        return "other unit"
    return "in band" if want.holds(got.value) else "out of band"


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
    found = Expected(**entry)
    for number in (found.value, found.band):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{number!r} is not a number")
    if not math.isfinite(found.value) or not found.band >= 0:
        raise ValueError(f"{found} is no band")
    return found


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
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def updated_baseline(run: CourseRun, old: Baseline) -> Baseline:
    """The baseline that this run would set; bands that somebody chose are kept.

    Args:
        run: only notebooks that passed count; what the machine decides is left out.
        old: the baseline so far; other notebooks stay as they are.
    """
    new = dict(old)
    for notebook, result in run.notebooks.items():
        if not result.passed:
            continue
        metrics: dict[str, Expected] = {}
        for metric in result.metrics:
            if is_machines(metric):
                continue
            known = old.get(notebook, {}).get(metric.name)
            band = known.band if known and known.unit == metric.unit else _usual_band(metric.value)
            value = float(f"{metric.value:.6g}")
            metrics[metric.name] = Expected(value, metric.unit, band)
        new[notebook] = metrics
    return new


def difference(old: Baseline, new: Baseline) -> list[str]:
    """What changes from one baseline to another, a line each.

    Args:
        old, new: the two baselines.
    """
    lines = []
    for notebook in sorted({**old, **new}):
        before, after = old.get(notebook, {}), new.get(notebook, {})
        for name in sorted({**before, **after}):
            a, b = before.get(name), after.get(name)
            if a != b:
                change = f"new: {b}" if a is None else f"gone: {a}" if b is None else f"{a} -> {b}"
                lines.append(f"{notebook} {name}: {change}")
    return lines


def _usual_band(value: float) -> float:
    return float(f"{TOLERANCE * abs(value):.2g}") or TOLERANCE
