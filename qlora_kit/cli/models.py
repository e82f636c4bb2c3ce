"""`qlora-kit models`."""

import json
from typing import Annotated, Any

import typer

from .. import KitError
from .options import Json


def models(
    action: Annotated[str, typer.Argument(help="list, or fetch a bundled model")] = "list",
    name: Annotated[str, typer.Argument(help="the bundled model to fetch")] = "smollm2",
    force: Annotated[bool, typer.Option(help="Build it again, also when it is there.")] = False,
    as_json: Json = False,
) -> None:
    """List the models at hand, or make a bundled one ready for offline use."""
    from ..models import BUNDLED, cached_models, fetch

    if action == "fetch":
        folder = fetch(name, force)
        print(json.dumps({"name": name, "folder": str(folder)}) if as_json else folder)
        return
    if action != "list":
        raise KitError(f"No action {action!r}: use 'list' or 'fetch'.")
    cached = {name: (folder, size) for name, folder, size in cached_models()}
    names = list(dict.fromkeys([*BUNDLED, *cached]))
    table: list[dict[str, Any]] = [
        {"name": name, "folder": None, "size_gb": None} for name in names
    ]
    for row in table:
        if row["name"] in cached:
            folder, size = cached[row["name"]]
            row.update(folder=str(folder), size_gb=round(size, 3))
    if as_json:
        print(json.dumps(table, indent=1))
        return
    for row in table:
        here = f"{row['size_gb']} GB in {row['folder']}" if row["folder"] else "not fetched yet"
        print(f"{row['name']:<12} {here}")
    print("Also: a Hub id (org/name), a folder with safetensors, or a .gguf file.")
