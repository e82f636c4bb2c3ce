"""Run the course: each notebook in a fresh kernel, its results kept, and gone on with later.

A run folder holds `executed/NN_name.ipynb`, `metrics.json` and `report.html`, each complete
after every notebook; `scratch/NN_name/` is where the notebooks' own files went.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import KitError
from .baselines import read_baseline
from .extras import needs_extra
from .lessons.claims import Claim, Metric, read_claims, read_metrics
from .notebooks import find_notebooks, inputs_hash, read_notebook, select_notebooks
from .profiles import read_profile
from .progress import View
from .report import EXECUTED, REPORT, save_report
from .results import (
    FILE,
    CourseRun,
    NotebookResult,
    course_versions,
    machine_line,
    read_run,
    write_run,
)

if TYPE_CHECKING:
    from .papermill_engine import Outcome, Progress

SCRATCH = "scratch"
CELL_SECONDS = 1800  # chosen by hand


def run_course(
    numbers: Sequence[str],
    profile: str,
    out: Path,
    notebooks: Path,
    timeout: int = CELL_SECONDS,
    fresh: bool = False,
    baselines: Path | None = None,
    console: Any = None,
) -> CourseRun:
    """Run notebooks of the course in order; one that fails does not stop the others.

    What an earlier run into the same folder passed is kept, as long as the notebook, its
    parameters, the kit and the packages are the same. After Ctrl-C the same call goes on.

    Args:
        numbers: which notebooks, as "3", "03" or "03_qlora"; none means all.
        profile: which parameters they get, a file in `notebooks/profiles`.
        out: the run's folder.
        notebooks: the folder of the notebooks.
        timeout: seconds that one cell may take.
        fresh: forget what the folder holds of an earlier run.
        baselines: folder of `<profile>.json`, for the report.
        console: a rich console to show progress on; None shows nothing.

    Returns:
        All results in the folder, also of notebooks that were not asked for now.

    Raises:
        KitError: there is no such notebook, profile or parameter, or the folder holds something
            else.
        KeyboardInterrupt: what was done is in the folder.
    """
    with needs_extra("Running the course", "course"):
        from . import papermill_engine
    lessons = find_notebooks(notebooks)
    paths, plan = select_notebooks(lessons, numbers), read_profile(profile, notebooks)
    versions, out = course_versions(), out.resolve()
    hashes = {path.stem: inputs_hash(path, plan[path.stem], versions) for path in lessons}
    earlier = _earlier(out, profile, fresh).items()
    valid = {name: result for name, result in earlier if result.hash == hashes.get(name)}
    run = CourseRun(profile, versions, machine_line(), valid)
    expected = read_baseline(baselines / f"{profile}.json") if baselines else {}
    progress = [papermill_engine.Progress(path.stem) for path in paths]
    with View(console, progress) as view:
        for path, state in zip(paths, progress, strict=True):
            result = run.notebooks.get(path.stem)
            if result is not None and result.passed and (out / EXECUTED / path.name).is_file():
                state.status = "passed before"
            else:
                executed, scratch = out / EXECUTED / path.name, out / SCRATCH / path.stem
                outcome = papermill_engine.execute(
                    path.resolve(), executed, plan[path.stem], scratch, timeout, state
                )
                result = _judge(outcome, executed, state, hashes[path.stem])
                state.status = result.status
                run = run.with_result(path.stem, result)
                write_run(run, out)
            view.finished(state, result)
            save_report(run, out, expected)
    return run


def selected(run: CourseRun, numbers: Sequence[str], notebooks: Path) -> list[NotebookResult]:
    """The results of the notebooks that were asked for.

    Args:
        run: from `run_course`.
        numbers, notebooks: as they were given to it.
    """
    return [run.notebooks[path.stem] for path in find_notebooks(notebooks, numbers)]


def _earlier(out: Path, profile: str, fresh: bool) -> dict[str, NotebookResult]:
    """The results that the folder holds; the folder is there afterwards, and ours."""
    if out.exists() and not out.is_dir():
        raise KitError(f"{out} is a file. Give a folder with --out.")
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if FILE not in names and names - {EXECUTED, SCRATCH}:
        raise KitError(f"{out} holds something that is no run of the course. Give another --out.")
    if fresh:
        for name in (EXECUTED, SCRATCH):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in (FILE, REPORT):
            (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / FILE).exists():
        return {}
    earlier = read_run(out)
    if earlier.profile != profile:
        raise KitError(
            f"{out} holds a run in profile {earlier.profile!r}, and this one is {profile!r}. "
            "Give another folder with --out, or begin anew here with --fresh."
        )
    return earlier.notebooks


def _judge(outcome: "Outcome", executed: Path, state: "Progress", digest: str) -> NotebookResult:
    """What became of a notebook: the kernel's word, and what the notebook itself recorded."""
    status, message = outcome.status, outcome.message
    claims: list[Claim] = []
    metrics: list[Metric] = []
    try:
        if executed.is_file():
            notebook = read_notebook(executed)
            claims, metrics = read_claims(notebook), read_metrics(notebook)
    except KitError as problem:
        if status == "passed":
            status, message = "failed", str(problem)
    broken = [f"the claim does not hold: {str(claim)[2:]}" for claim in claims if not claim.held]
    if broken and status in ("passed", "failed"):
        status, message = "failed", "; ".join(broken)
    minutes, peak_gb = round(state.minutes, 3), round(state.peak_gb, 3)
    return NotebookResult(status, message, minutes, peak_gb, digest, tuple(claims), tuple(metrics))
