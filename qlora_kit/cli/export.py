"""`qlora-kit export`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json, console

if TYPE_CHECKING:
    from ..export import Exported


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    to: Annotated[str, typer.Option(help="merged, gguf, adapter-gguf.")],
    quant: Annotated[str, typer.Option(help="f16, q8_0, q5_0, q4_1, q4_0.")] = "f16",
    into: Annotated[str, typer.Option(help="The base: dequantized or original.")] = "dequantized",
    data: Annotated[Path | None, typer.Option(help="Held-out conversations to check with.")] = None,
    output: Annotated[Path | None, typer.Option(help="The folder to make.")] = None,
    questions: Annotated[int, typer.Option(help="How many the check takes.", min=1)] = 32,
    shard_size: Annotated[str, typer.Option(help="Of merged safetensors.")] = "2GB",
    prompt_field: Annotated[str | None, typer.Option(help="Column of the question.")] = None,
    completion_field: Annotated[str | None, typer.Option(help="Column of the answer.")] = None,
    as_json: Json = False,
) -> None:
    """Export a run and check that it still is the model that was trained."""
    from ..export import export as write

    say = None if as_json else lambda line: print(f"{line} ...")
    columns = (prompt_field, completion_field)
    done = write(run, to, quant, into, data, output, questions, shard_size, say, *columns)
    if as_json:
        print(json.dumps(done.as_json(), ensure_ascii=False))
    else:
        _show(done)


def _show(done: "Exported") -> None:
    from rich.table import Table

    from ..export import COLUMNS

    terminal = console()
    for row in done.parity.rows():
        title = f"Parity with the adapter: {row[0]}"
        table = Table("", "", title=title, title_justify="left", show_header=False)
        for name, cell in zip(COLUMNS[1:], row[1:], strict=True):
            table.add_row(name, cell)
        terminal.print(table)
    size = f"{done.bytes / 1e6:.0f} MB"
    terminal.print(f"{', '.join(done.files)} ({size}) in {done.folder}", highlight=False)
