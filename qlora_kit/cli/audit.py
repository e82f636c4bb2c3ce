"""`qlora-kit audit`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json, console


def audit(
    data: Annotated[Path, typer.Argument(help=".jsonl, .json, .csv, .tsv, .parquet")],
    test: Annotated[Path | None, typer.Option(help="The held-out set, to find leaks.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Save the counts as a .png.")] = None,
    clean: Annotated[Path | None, typer.Option(help="Write a cleaned copy, .jsonl.")] = None,
    prompt_field: Annotated[str | None, typer.Option(help="Column of the question.")] = None,
    completion_field: Annotated[str | None, typer.Option(help="Column of the answer.")] = None,
    never: Annotated[list[str] | None, typer.Option(help="What no answer may say.")] = None,
    as_json: Json = False,
) -> None:
    """Find duplicates, test leaks, contradictions, personal data and bad answers in a data set."""
    from ..audit import audit as look
    from ..audit import check_copy, check_output, save_figure, show_audit, show_cleaned
    from ..audit import clean as write_clean

    if figure:
        check_output(data, test, figure)
    if clean:
        check_copy(data, test, clean)
    report = look(data, test, prompt_field, completion_field, never or ())
    cleaned = write_clean(report, clean) if clean else None
    if figure:
        save_figure(report, figure)
    if as_json:
        copy = {"cleaned": cleaned.as_json()} if cleaned else {}
        print(json.dumps(report.as_json() | copy, ensure_ascii=False))
        return
    terminal = console()
    show_audit(report, terminal)
    if cleaned:
        show_cleaned(cleaned, terminal)
    if figure:
        terminal.print(f"Figure: {figure}", highlight=False, markup=False)
