"""`qlora-kit plan`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Json

if TYPE_CHECKING:
    from ..memory import Plan


def plan(
    model: Annotated[str, typer.Argument(help="A known name, a folder with config.json.")],
    gpu: Annotated[str | None, typer.Option(help="For example t4; default: this machine.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens a row.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows at once, the micro-batch.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of the adapters.")] = None,
    precision: Annotated[str | None, typer.Option(help="nf4, fp4, int8, 16bit, 32bit.")] = None,
    double_quant: Annotated[bool | None, typer.Option(help="Quantize the absmax too.")] = None,
    targets: Annotated[str | None, typer.Option(
        help="all-linear, attention, query-value.")] = None,
    optimizer: Annotated[str | None, typer.Option(
        help="adamw, adamw-8bit, paged-8bit, adamw-master.")] = None,
    checkpointing: Annotated[bool | None, typer.Option(help="Compute layers twice.")] = None,
    logits: Annotated[str | None, typer.Option(help="full, completion, chunked.")] = None,
    attention: Annotated[str | None, typer.Option(help="sdpa, eager.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Predict the memory of a training: where each byte goes, does it fit, what to change."""
    given = {name: value for name, value in locals().items() if value is not None}
    changes = {k: v for k, v in given.items() if k not in ("model", "gpu", "as_json")}
    from ..machine import detect
    from ..memory import Settings, cpu_settings, find_shape
    from ..memory import plan as predict

    shape = find_shape(model)
    machine = None if gpu else detect()
    if machine is None or machine.device == "cuda":
        settings = Settings(**changes)
    else:
        compute = 4 if machine.compute_dtype == "float32" else 2
        settings = cpu_settings(**{"compute_bytes": compute, **changes})
    found = predict(shape, settings, gpu, machine)
    if as_json:
        print(json.dumps(found.as_json()))
    else:
        _show(found)


def _show(found: "Plan") -> None:
    from rich.console import Console
    from rich.table import Table

    from ..memory import MARGIN

    console = Console()
    tokens = f"{found.settings.batch} x {found.settings.sequence_length} tokens"
    table = Table(title=f"{found.shape.name}, {found.shape.parameters:,} parameters, {tokens}")
    table.add_column("where")
    table.add_column("GB", justify="right")
    table.add_column("what it is")
    for term in found.terms:
        table.add_row(term.name, _gb(term.bytes), term.what)
    table.add_section()
    table.add_row("total", _gb(found.total), "the peak")
    console.print(table)
    verdict = "fits" if found.fits else "does not fit"
    room = f"{found.place}, {_gb(found.capacity)} GB, with {MARGIN:.0%} to spare"
    console.print(f"It {verdict} in {room}.", highlight=False)
    for number, change in enumerate(found.advice, 1):
        saved = f"saves {_gb(change.saves)} GB, " if change.saves else ""
        ends = ", which fits" if change.fits else ""
        console.print(f"{number}. {change.what}: {saved}{_gb(change.total)} GB then{ends}",
                      highlight=False)  # fmt: skip


def _gb(count: Any) -> str:
    return f"{count / 1e9:.2f}"
