"""What a lesson measured: claims that must hold and metrics to remember, kept in the notebook.

Each call leaves one output with a mime type of its own, so that an executed notebook is also the
record of its results; everything that cannot read that type shows the line of text beside it.
"""

import math
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ... import KitError

COURSE_VARIABLE = "QLORA_KIT_COURSE_RUN"  # set in the kernels of `qlora-kit course run`
CLAIM_MIME = "application/vnd.qlora-kit.claim+json"
METRIC_MIME = "application/vnd.qlora-kit.metric+json"
_NAME = re.compile(r"[a-z0-9_]+")


class ClaimError(AssertionError):
    """A claim of the lesson does not hold: the message gives its name and its numbers."""


@dataclass(frozen=True)
class Claim:
    """One claim of a lesson: its name, whether it held, and the numbers it rests on."""

    name: str
    held: bool
    numbers: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {short(value)}" for name, value in self.numbers.items())
        return f"{'✓' if self.held else '✗'} {self.name}" + (f"  ({shown})" if shown else "")


@dataclass(frozen=True)
class Metric:
    """One measured number and its unit; machine: the machine decides it, so no band judges it."""

    name: str
    value: float
    unit: str
    machine: bool = False

    @property
    def amount(self) -> str:
        """The number for people, with its unit."""
        return f"{short(self.value)} {self.unit}".rstrip()

    def __str__(self) -> str:
        return f"{self.name} = {self.amount}"


def claim(name: str, condition: Any, **numbers: Any) -> None:
    """State what the lesson claims; it is stored in the notebook, and a false one ends it.

    In a course run a false claim fails the notebook too, but only at its end, so that the report
    tells of all claims and not of the first false one alone.

    Args:
        name: of lower-case letters, digits and _, once in a notebook.
        condition: whether it holds; one truth value, also NumPy's or torch's.
        numbers: what the claim rests on, by name; plain numbers or scalars of NumPy or torch.

    Raises:
        ClaimError: it does not hold; it was stored first.
        KitError: the name, the condition or a number cannot be stored.
    """
    where = f"claim({name!r}, ...)"
    _check_name(name, where)
    try:
        held = bool(condition)
    except (RuntimeError, ValueError) as problem:  # an array of several truth values
        raise KitError(f"{where}: the condition is not one truth value: {problem}") from problem
    plain = {key: _number(value, key, where) for key, value in numbers.items()}
    result = Claim(name, held, plain)
    _show(CLAIM_MIME, result)
    if not held and not os.environ.get(COURSE_VARIABLE):
        raise ClaimError(f"the claim does not hold: {str(result)[2:]}")


def record(name: str, value: Any, unit: str, machine: bool = False) -> None:
    """Remember a measured number, so that runs can be compared.

    Args:
        name: of lower-case letters, digits and _, once in a notebook.
        value: a plain number, or a scalar of NumPy or torch.
        unit: such as "nats a token", "GB" or "" for a ratio.
        machine: the machine decides the number, as it does the memory of a process: it is told,
            and never fails a run. So are all numbers in a unit of time ("s", "minutes") or of
            speed ("tokens/s"). What must hold anywhere is a claim.

    Raises:
        KitError: the name or the number cannot be stored.
    """
    where = f"record({name!r}, ...)"
    _check_name(name, where)
    if not isinstance(unit, str):
        raise KitError(f"{where}: the unit is {unit!r}. Give it as text, '' for a ratio.")
    _show(METRIC_MIME, Metric(name, _number(value, "value", where), unit, machine))


def read_claims(notebook: Any) -> list[Claim]:
    """The claims that an executed notebook holds, in order.

    Args:
        notebook: from `nbformat.read`.

    Raises:
        KitError: two claims have one name.
    """
    return [Claim(**data) for data in _stored(notebook, CLAIM_MIME, "claim")]


def read_metrics(notebook: Any) -> list[Metric]:
    """The metrics that an executed notebook holds, in order.

    Args:
        notebook: from `nbformat.read`.

    Raises:
        KitError: two metrics have one name.
    """
    return [Metric(**data) for data in _stored(notebook, METRIC_MIME, "metric")]


def short(value: float) -> str:
    """A number for people: four digits, or all of them before the point.

    Args:
        value: a finite number.
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"


def _check_name(name: object, where: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise KitError(f"{where}: a name has lower-case letters, digits and _ only.")


def _number(value: Any, name: str, where: str) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError("it is text")
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as problem:  # torch: not one element
        raise KitError(f"{where}: {name} is not one number: {problem}.") from problem
    if not math.isfinite(number):
        raise KitError(
            f"{where}: {name} is {number}. Something before this cell went wrong: look at where "
            f"{name} is computed (an empty mean, a division by zero, a diverged loss)."
        )
    return number


def _show(mime: str, result: Claim | Metric) -> None:
    """Store it as an output of the running cell; outside IPython, print it."""
    ipython = sys.modules.get("IPython")  # whoever runs in IPython has it loaded
    if ipython is None or ipython.get_ipython() is None:
        print(result)
        return
    from IPython.display import display

    display({mime: asdict(result), "text/plain": str(result)}, raw=True)


def _stored(notebook: Any, mime: str, kind: str) -> Iterator[dict[str, Any]]:
    cells: dict[str, int] = {}
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            data = output.get("data", {}).get(mime)
            if data is None:
                continue
            name = data["name"]
            if name in cells:
                raise KitError(
                    f"The {kind} {name!r} stands twice, in cells {cells[name] + 1} and {index + 1} "
                    "of the notebook. Rename one: results are found by name."
                )
            cells[name] = index
            yield data
