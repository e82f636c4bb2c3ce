"""`qlora-kit course ...`: run the notebooks, compare runs, set baselines; no logic lives here."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .options import Json, console

course_app = typer.Typer(
    no_args_is_help=True,
    help="Run the course's notebooks, and see which claims held and what moved.",
)
Notebooks = Annotated[Path, typer.Option(help="The folder of the notebooks.")]
Baselines = Annotated[Path, typer.Option(help="The folder of the baselines.")]
_NOTEBOOKS, _BASELINES = Path("notebooks"), Path("tests/baselines")


@course_app.command(epilog="Example: qlora-kit course run 01 03 --profile smoke")
def run(
    numbers: Annotated[list[str] | None, typer.Argument(help="Such as 03; none: all.")] = None,
    profile: Annotated[str, typer.Option(help="smoke, laptop, t4 or full.")] = "laptop",
    out: Annotated[
        Path | None, typer.Option(help="The run folder; by itself runs/course-PROFILE.")
    ] = None,
    notebooks: Notebooks = _NOTEBOOKS,
    baselines: Baselines = _BASELINES,
    timeout: Annotated[int, typer.Option(help="Seconds that one cell may take.", min=1)] = 1800,
    fresh: Annotated[bool, typer.Option(help="Forget what the folder holds.")] = False,
    as_json: Json = False,
) -> None:
    """Run notebooks in fresh kernels; what the folder already passed is kept."""
    from ..course import run_course, selected

    folder = out or Path("runs") / f"course-{profile}"
    try:
        done = run_course(
            numbers or [],
            profile,
            folder,
            notebooks,
            timeout,
            fresh,
            baselines,
            console=None if as_json else console(),
        )
    except KeyboardInterrupt:
        typer.echo("Stopped. What is done is kept: the same command goes on.", err=True)
        raise typer.Exit(130) from None
    results = selected(done, numbers or [], notebooks)
    failed = [result for result in results if not result.passed]
    if as_json:
        print(json.dumps(done.as_json(), indent=1, ensure_ascii=False))
    else:
        print(f"{len(results) - len(failed)} of {len(results)} notebooks passed.")
        print(f"Report: {folder / 'report.html'}")
    if failed:
        raise typer.Exit(1)


@course_app.command(epilog="Example: qlora-kit course compare runs/before runs/after")
def compare(
    before: Annotated[Path, typer.Argument(help="A run folder, or its metrics.json.")],
    after: Annotated[Path, typer.Argument(help="The run to hold against it.")],
    baselines: Baselines = _BASELINES,
    as_json: Json = False,
) -> None:
    """Show which claims, metrics and versions moved; exit code 1 when a claim turned false."""
    from ..course import compare_runs, read_baseline, read_run

    old, new = read_run(before), read_run(after)
    comparison = compare_runs(old, new, read_baseline(baselines / f"{new.profile}.json"))
    if as_json:
        head = {"worse": comparison.worse, "profiles": [old.profile, new.profile]}
        print(json.dumps(head | asdict(comparison), indent=1, ensure_ascii=False))
    else:
        if old.profile != new.profile:
            print(f"profile: {old.profile} -> {new.profile}")
        for move in comparison.moves:
            print(move)
        for name in comparison.only_before:
            print(f"notebook {name}: only before")
        for name in comparison.only_after:
            print(f"notebook {name}: only after")
        print("\n".join(["For information:", *map(str, comparison.usage)]))
        print("A claim or a notebook got worse." if comparison.worse else "No claim turned false.")
    if comparison.worse:
        raise typer.Exit(1)


@course_app.command(epilog="Example: qlora-kit course baseline runs/course-smoke")
def baseline(
    run: Annotated[Path, typer.Argument(help="A run folder, or its metrics.json.")],
    baselines: Baselines = _BASELINES,
    yes: Annotated[bool, typer.Option("--yes", help="Write without asking.")] = False,
) -> None:
    """Take a run's metrics as the baseline of its profile, after showing what changes."""
    from ..course import baseline_changes, read_baseline, read_run, updated_baseline, write_baseline

    done = read_run(run)
    path = baselines / f"{done.profile}.json"
    old = read_baseline(path)
    new = updated_baseline(done, old)
    for name, result in done.notebooks.items():
        if not result.passed:
            print(f"{name}: left out, {result.status}")
    lines = baseline_changes(old, new)
    print("\n".join(lines) or f"{path} stays as it is.")
    if lines and (yes or typer.confirm(f"Write {path}?")):
        write_baseline(new, path)
        print(f"Written: {path}")


@course_app.command(epilog="Example: qlora-kit course site runs/course-laptop")
def site(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Option(help="The site's folder.")] = Path("runs/site"),
) -> None:
    """Make a static web site of a run's lessons, with their outputs and a search."""
    from ..course import build_site

    print(f"Site: {build_site(run, out)}")


@course_app.command(epilog="Example: qlora-kit course cards runs/course-laptop")
def cards(
    run: Annotated[Path, typer.Argument(help="A run folder in profile laptop.")],
    notebooks: Notebooks = _NOTEBOOKS,
) -> None:
    """Write a run's minutes and memory into the lessons' cards."""
    from ..course import read_run, stamp_cards

    print("\n".join(stamp_cards(read_run(run), notebooks)) or "The cards stay as they are.")


@course_app.command(epilog="Example: qlora-kit course stamp --repo owner/name")
def stamp(
    repo: Annotated[str, typer.Option(help="The repository on GitHub, as owner/name.")],
    notebooks: Notebooks = _NOTEBOOKS,
) -> None:
    """Write a repository's name into all lessons: Colab badges and install lines."""
    from ..course import stamp_repository

    print("\n".join(stamp_repository(repo, notebooks)) or "The lessons name it already.")
