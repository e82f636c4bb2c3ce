"""`qlora-kit verify`: a run and what it was made from, a thin skin."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json


def verify(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    accept: Annotated[bool, typer.Option("--accept", help="Take it as it is now.")] = False,
    as_json: Json = False,
) -> None:
    """Say what changed of a run since it was trained: adapter, base, data, settings, versions."""
    from ..runs import accept as take
    from ..runs import verify as look

    report = take(run) if accept else look(run)
    if as_json:
        print(json.dumps(report.as_json(), indent=1))
    else:
        print(f"{run}, trained {report.made}")
        for item in report.items:
            change = f"{item.was} -> {item.now or 'not here'}"
            shown = item.was if item.state == "same" else change
            print(f"{item.state:<8} {item.name:<24} {shown}")
            if item.mend:
                print(f"{'':<8} mend it: {item.mend}")
        for line in report.accepted:
            print(f"accepted {line}")
        print(report.conclusion)
    if not report.ok:
        raise typer.Exit(1)
