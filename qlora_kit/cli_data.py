"""`qlora-kit documents` and `qlora-kit audit`: data before training, a thin skin."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import KitError

if TYPE_CHECKING:
    from .audit import Cleaned
    from .findings import Audit

_SHOWN = 5  # findings of each kind in the terminal; --json has all
_ROWS = 40  # dropped rows in the terminal; the log beside the copy has all


def documents(
    folder: Annotated[Path, typer.Argument(help="Of .md, .markdown and .txt files.")],
    output: Annotated[Path, typer.Option(help="The folder for train.jsonl and test.jsonl.")],
    question: Annotated[str, typer.Option(help="What to ask; {title} is the headings.")] = (
        "What does the manual say about {title}?"
    ),
    held_out: Annotated[float, typer.Option(help="Share of the sections, whole pages.")] = 0.1,
    max_words: Annotated[int, typer.Option(help="Longer sections are cut.", min=1)] = 180,
    seed: Annotated[int, typer.Option(help="Of the draw of pages.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Turn a folder of documents into conversations, no page in both training and test."""
    from .documents import read_documents, split_by_document, to_conversations, write_rows

    rows = to_conversations(read_documents(folder, max_words), question)
    train, test = split_by_document(rows, held_out, seed)
    files = [write_rows(train, output / "train.jsonl"), write_rows(test, output / "test.jsonl")]
    if as_json:
        print(json.dumps({"train": str(files[0]), "test": str(files[1]),
                          "train_rows": len(train), "test_rows": len(test)}))  # fmt: skip
        return
    print(f"{len(train)} conversations in {files[0]}, {len(test)} held out in {files[1]}.")
    print("Their questions are headings. Questions as your customers ask them teach more.")


def audit(
    data: Annotated[Path, typer.Argument(help=".jsonl, .json, .csv, .tsv, .parquet")],
    test: Annotated[Path | None, typer.Option(help="The held-out set, to find leaks.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Save the counts as a .png.")] = None,
    clean: Annotated[Path | None, typer.Option(help="Write a cleaned copy, .jsonl.")] = None,
    prompt_field: Annotated[str | None, typer.Option(help="Column of the question.")] = None,
    completion_field: Annotated[str | None, typer.Option(help="Column of the answer.")] = None,
    never: Annotated[list[str] | None, typer.Option(help="What no answer may say.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Find duplicates, test leaks, contradictions, personal data and bad answers in a data set."""
    from .audit import audit as look
    from .audit import check_copy, check_output
    from .audit import clean as write_clean

    if figure:
        check_output(data, test, figure)
    if clean:
        check_copy(data, test, clean)
    found = look(data, test, prompt_field, completion_field, never or ())
    cleaned = write_clean(found, clean) if clean else None
    if figure:
        save_figure(found, figure)
    if as_json:
        told = found.as_json() | ({"cleaned": cleaned.as_json()} if cleaned else {})
        print(json.dumps(told, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console()
    _show(found, console)
    if cleaned:
        _show_cleaned(cleaned, console)
    if figure:
        console.print(f"Figure: {figure}", highlight=False, markup=False)


def save_figure(found: "Audit", path: Path) -> Any:
    """Draw how many rows each kind of finding touches.

    Args:
        found: from `audit.audit`.
        path: the .png to write.

    Returns:
        The matplotlib figure.

    Raises:
        KitError: the file cannot be written.
    """
    from . import plots
    from .findings import KINDS
    from .pictures import png

    rows = {kind: len({row for each in found.of(kind) for row in each.rows}) for kind in KINDS}
    figure = plots.bars(
        {kind.replace("_", " "): count for kind, count in rows.items()},
        f"Audit of {found.file.name}", f"rows with a finding, of {found.rows:,}", digits=0,
    )  # fmt: skip
    try:
        path.write_bytes(png(figure))
    except OSError as problem:
        raise KitError(f"{path} could not be written: {problem.strerror or problem}.") from problem
    return figure


def _show(found: "Audit", console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from .findings import KINDS

    beside = f", test: {found.test.name}, {found.test_rows:,} rows" if found.test else ""
    title = Text(f"{found.file.name}, {found.rows:,} rows{beside}")
    if not found.findings:
        console.print(Text(f"{title}: nothing found."))
        return
    table = Table(title=title, title_justify="left")
    for name in ("finding", "count", "rows", "a cleaned copy"):
        table.add_column(name, justify="right" if name in ("count", "rows") else "left")
    for kind, count in found.counts().items():
        rows = len({row for each in found.of(kind) for row in each.rows})
        table.add_row(kind.replace("_", " "), f"{count:,}", f"{rows:,}", KINDS[kind])
    console.print(table)
    for kind, count in found.counts().items():
        console.print(Text(f"\n{kind.replace('_', ' ')}", style="bold"))
        for each in found.of(kind)[:_SHOWN]:
            console.print(Text(f"  {_numbers(each.rows)}: {each.reason}"))
        if count > _SHOWN:
            console.print(Text(f"  ... and {count - _SHOWN:,} more; --json has all of them"))


def _numbers(rows: tuple[int, ...]) -> str:
    shown = ", ".join(str(row) for row in rows[:4])
    more = f" and {len(rows) - 4:,} more" if len(rows) > 4 else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def _show_cleaned(cleaned: "Cleaned", console: Any) -> None:
    from rich.text import Text

    console.print(Text(
        f"\n{cleaned.path}: {cleaned.kept:,} rows kept, {len(cleaned.dropped):,} dropped, "
        f"{len(cleaned.masked):,} masked", style="bold",
    ))  # fmt: skip
    for row, (kind, reason) in list(cleaned.dropped.items())[:_ROWS]:
        console.print(Text(f"  dropped row {row}, {kind.replace('_', ' ')}: {reason}"))
    for row, reason in list(cleaned.masked.items())[:_ROWS]:
        console.print(Text(f"  masked in row {row}: {reason}"))
    console.print(Text(f"Row by row, with all reasons: {cleaned.log}"))
