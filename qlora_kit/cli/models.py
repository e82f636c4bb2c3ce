"""`qlora-kit models`."""

import json
from typing import Annotated, Any

import typer

from .. import KitError
from .options import Json


def models(
    action: Annotated[str, typer.Argument(help="list, fetch a bundled model, or prune")] = "list",
    name: Annotated[str, typer.Argument(help="the bundled model to fetch")] = "smollm2",
    force: Annotated[bool, typer.Option(help="Build it again, also when it is there.")] = False,
    as_json: Json = False,
) -> None:
    """List the models at hand, make a bundled one ready for offline use, or free room.

    The copies in 4 bits that loading leaves behind are listed, too; prune removes those of other
    versions of the libraries.
    """
    from ..models import BUNDLED, cached_models, fetch, prune_copies

    if action == "fetch":
        folder = fetch(name, force)
        print(json.dumps({"name": name, "folder": str(folder)}) if as_json else folder)
        return
    if action not in ("list", "prune"):
        raise KitError(f"No action {action!r}: use 'list', 'fetch' or 'prune'.")
    folders = cached_models() if action == "list" else prune_copies()
    rows: list[dict[str, Any]] = [
        {"name": each.name, "folder": str(each.folder), "size_gb": round(each.size_gb, 3)}
        for each in folders
    ]
    if action == "list":
        absent = [name for name in BUNDLED if name not in {each.name for each in folders}]
        rows = [{"name": name, "folder": None, "size_gb": None} for name in absent] + rows
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        here = f"{row['size_gb']} GB in {row['folder']}" if row["folder"] else "not fetched yet"
        print(f"{row['name']:<{width}} {here}")
    if action == "list":
        print("Also: a Hub id (org/name), a folder with safetensors, or a .gguf file.")
    else:
        print(f"Removed {len(rows)} copies in 4 bits.")
