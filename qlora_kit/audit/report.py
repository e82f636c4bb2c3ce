"""The findings of an audit as a table in the terminal and as a figure."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import KitError
from ..machine import write_bytes
from .findings import KINDS, Audit, named_rows

if TYPE_CHECKING:
    from .pipeline import Cleaned

_SHOWN = 5  # findings of each kind in the terminal; --json has all
_PARTNERS = 4  # rows named in one line
_ROWS = 40  # dropped rows in the terminal; the log beside the copy has all


def save_figure(report: Audit, path: Path) -> Any:
    """Draw how many rows each kind of finding touches.

    Args:
        report: from `audit.audit`.
        path: the .png to write.

    Returns:
        The matplotlib figure.

    Raises:
        KitError: the file cannot be written.
    """
    from .. import plots

    rows = {kind: len({row for each in report.of(kind) for row in each.rows}) for kind in KINDS}
    names = {kind.replace("_", " "): count for kind, count in rows.items()}
    unit = f"rows with a finding, of {report.rows:,}"
    figure = plots.bars(names, f"Audit of {report.file.name}", unit, digits=0)
    try:
        write_bytes(path, plots.png(figure))
    except OSError as problem:
        raise KitError(f"{path} could not be written: {problem.strerror or problem}.") from problem
    return figure


def show_audit(report: Audit, console: Any) -> None:
    """Show the findings in the terminal, the first few of each kind.

    Args:
        report: from `audit`.
        console: a rich console.
    """
    from rich.table import Table
    from rich.text import Text

    beside = f", test: {report.test.name}, {report.test_rows:,} rows" if report.test else ""
    title = Text(f"{report.file.name}, {report.rows:,} rows{beside}")
    if not report.findings:
        console.print(Text(f"{title}: nothing found."))
        return
    table = Table(title=title, title_justify="left")
    for name in ("finding", "count", "rows", "a cleaned copy"):
        table.add_column(name, justify="right" if name in ("count", "rows") else "left")
    for kind, count in report.counts().items():
        rows = len({row for each in report.of(kind) for row in each.rows})
        table.add_row(kind.replace("_", " "), f"{count:,}", f"{rows:,}", KINDS[kind])
    console.print(table)
    for kind, count in report.counts().items():
        console.print(Text(f"\n{kind.replace('_', ' ')}", style="bold"))
        for each in report.of(kind)[:_SHOWN]:
            console.print(Text(f"  {named_rows(each.rows, _PARTNERS)}: {each.reason}"))
        if count > _SHOWN:
            console.print(Text(f"  ... and {count - _SHOWN:,} more; --json has all of them"))


def show_cleaned(cleaned: "Cleaned", console: Any) -> None:
    """Show in the terminal what a cleaned copy leaves out and masks.

    Args:
        cleaned: from `clean`.
        console: a rich console.
    """
    from rich.text import Text

    changes = f"{len(cleaned.dropped):,} dropped, {len(cleaned.masked):,} masked"
    console.print(Text(f"\n{cleaned.path}: {cleaned.kept:,} rows kept, {changes}", style="bold"))
    for row, (kind, reason) in list(cleaned.dropped.items())[:_ROWS]:
        console.print(Text(f"  dropped row {row}, {kind.replace('_', ' ')}: {reason}"))
    for row, reason in list(cleaned.masked.items())[:_ROWS]:
        console.print(Text(f"  masked in row {row}: {reason}"))
    console.print(Text(f"Row by row, with all reasons: {cleaned.log}"))
