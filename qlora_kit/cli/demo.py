"""`qlora-kit demo`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import console


def demo(
    output: Annotated[Path, typer.Option(help="The run folder to write.")] = Path("runs/demo"),
) -> None:
    """Fine-tune the bundled model on the bundled support data, and show that it worked."""
    from ..demo import demo as show

    show(output, console())
