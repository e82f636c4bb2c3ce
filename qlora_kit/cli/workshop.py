"""`qlora-kit workshop ...`: a course for a room, a thin skin."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .options import Json

workshop_app = typer.Typer(
    no_args_is_help=True,
    help="Teach the course to a room: pack it, check machines, put results side by side.",
)
Notebooks = Annotated[Path, typer.Option(help="The folder of the notebooks.")]
_NOTEBOOKS = Path("notebooks")


@workshop_app.command(epilog="Example: qlora-kit workshop pack --out room --platform windows")
def pack(
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    platform: Annotated[
        list[str] | None, typer.Option(help="Also for linux, linux-arm, mac or windows.")
    ] = None,
    python: Annotated[list[str] | None, typer.Option(help="Also for this one: 3.12.")] = None,
    notebooks: Notebooks = _NOTEBOOKS,
) -> None:
    """Make a folder from which the course installs without a network."""
    from ..course import pack_folder, targets_of

    targets = targets_of(platform or [], python or [])
    print(f"Packing for {', '.join(map(str, targets))}; some minutes each ...")
    packed = pack_folder(out, Path(), notebooks, targets)
    print(
        f"{packed.wheels} wheels, {packed.size_gb:.1f} GB. Hand out {out}: START.md says the rest."
    )


@workshop_app.command(epilog="Example: qlora-kit workshop students --out notebooks-for-students")
def students(
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    notebooks: Notebooks = _NOTEBOOKS,
) -> None:
    """Copy the notebooks without their solutions and without the teacher's guide."""
    from ..course import student_edition

    print(f"{len(student_edition(notebooks, out))} notebooks in {out}.")


@workshop_app.command(epilog="Example: qlora-kit workshop check")
def check(
    folder: Annotated[Path, typer.Option(help="Where the lessons will run.")] = Path(),
    as_json: Json = False,
) -> None:
    """Say in under a minute whether this machine is ready, or what to do."""
    from ..course import check_machine, readiness_line

    began = time.perf_counter()
    checks = check_machine(folder)
    verdict, seconds = readiness_line(checks), time.perf_counter() - began
    if as_json:
        record = {"verdict": verdict, "seconds": seconds, "checks": list(map(asdict, checks))}
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        for one in checks:
            print(f"{one.status:<5} {one.name:<13} {one.detail}")
            if one.fix:
                print(f"{'':<19} what to do: {one.fix}")
        print(f"\n{verdict} ({seconds:.0f} s)")
    if verdict != "ready":
        raise typer.Exit(1)


@workshop_app.command(epilog="Example: qlora-kit workshop share --name ann")
def share(
    name: Annotated[str, typer.Option(help="Whose results they are.")],
    notebooks: Notebooks = _NOTEBOOKS,
    out: Annotated[Path, typer.Option(help="Where NAME.json goes.")] = Path(),
) -> None:
    """Write what your saved notebooks measured into one file, for the teacher."""
    from ..course import share_results

    print(f"Give this to your teacher: {share_results(name, notebooks, out)}")


@workshop_app.command(epilog="Example: qlora-kit workshop report collected/ --out room.html")
def report(
    results: Annotated[list[Path], typer.Argument(help="The students' files, or their folder.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("room.html"),
) -> None:
    """Put a room's results side by side, from each student's metrics.json."""
    from ..course import read_room, save_room

    runs, unreadable = read_room(results)
    page = save_room(runs, out)
    for line in unreadable:
        print(f"left out: {line}")
    print(f"{len(runs)} students side by side in {page}")
