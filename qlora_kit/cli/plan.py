"""`qlora-kit plan`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..memory import Workload
from .options import Json, console, with_fields

if TYPE_CHECKING:
    from ..memory import Plan

_OURS = "adapter_bytes label_share loss_bytes compute_bytes upcast device dense_cache workers"


@with_fields(Workload, without=f"{_OURS} last_good", defaults=False)
def plan(
    model: Annotated[str, typer.Argument(help="A known name, a folder with config.json.")],
    gpu: Annotated[str | None, typer.Option(help="For example t4; default: this machine.")] = None,
    as_json: Json = False,
    **fields: Any,
) -> None:
    """Predict the memory of a training: where each byte goes, does it fit, what to change."""
    from ..machine import detect
    from ..memory import find_shape, workload_on
    from ..memory import plan as predict

    changes = {name: value for name, value in fields.items() if value is not None}
    shape = find_shape(model)
    machine = None if gpu else detect()
    workload = workload_on(machine, **changes) if machine else Workload(**changes)
    prediction = predict(shape, workload, gpu, machine)
    if as_json:
        print(json.dumps(prediction.as_json()))
    else:
        _show(prediction)


def _show(prediction: "Plan") -> None:
    from rich.table import Table

    from ..memory import MARGIN

    workload, screen = prediction.workload, console()
    shape, tokens = prediction.shape, f"{workload.batch} x {workload.sequence_length} tokens"
    table = Table(title=f"{shape.name}, {shape.parameters:,} parameters, {tokens}")
    table.add_column("where")
    table.add_column("GB", justify="right")
    table.add_column("what it is")
    for term in prediction.terms:
        table.add_row(term.name, _gb(term.bytes), term.what)
    table.add_section()
    table.add_row("total", _gb(prediction.total), "the peak")
    screen.print(table)
    verdict = "fits" if prediction.fits else "does not fit"
    room = f"{prediction.place}, {_gb(prediction.capacity)} GB, with {MARGIN:.0%} to spare"
    screen.print(f"It {verdict} in {room}.", highlight=False)
    for number, change in enumerate(prediction.advice, 1):
        saved = f"saves {_gb(change.saves)} GB, " if change.saves else ""
        ends = ", which fits" if change.fits else ""
        line = f"{number}. {change.what}: {saved}{_gb(change.total)} GB then{ends}"
        screen.print(line, highlight=False)


def _gb(count: Any) -> str:
    return f"{count / 1e9:.2f}"
