"""What several verbs of the command line share."""

from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def console() -> Any:
    """A rich console, made where it is needed: rich takes a tenth of a second to load."""
    from rich.console import Console

    return Console()
