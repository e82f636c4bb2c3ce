"""What a run of the course leaves for scripts: metrics.json, one entry a notebook."""

import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import apply_thread_policy, versions, write_text
from .lessons.claims import Claim, Metric

FILE = "metrics.json"


def count(answers: Iterable[bool]) -> str:
    """How many are true, as "3 of 4".

    Args:
        answers: true or false each.
    """
    truths = list(answers)
    return f"{sum(truths)} of {len(truths)}"


@dataclass(frozen=True)
class NotebookResult:
    """What became of one notebook.

    status: "passed", "failed", "timeout" or "killed"; message says why it did not pass.
    peak_rss_gb: the most main memory of its kernel and the kernel's children, in 10^9 bytes.
    hash: of the source, the parameters and the versions that it ran with.
    """

    status: str
    message: str
    minutes: float
    peak_rss_gb: float
    hash: str
    claims: tuple[Claim, ...] = ()
    metrics: tuple[Metric, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every cell ran and every claim held."""
        return self.status == "passed"

    @property
    def claims_held(self) -> str:
        """How many of its claims held, as "3 of 4"."""
        return count(claim.held for claim in self.claims)

    def as_json(self) -> dict[str, Any]:
        """The entry in metrics.json."""
        return {
            "status": self.status,
            "message": self.message,
            "minutes": self.minutes,
            "peak_rss_gb": self.peak_rss_gb,
            "hash": self.hash,
            "claims": {c.name: {"held": c.held, "numbers": c.numbers} for c in self.claims},
            "metrics": {
                m.name: {"value": m.value, "unit": m.unit, "machine": m.machine}
                for m in self.metrics
            },
        }


@dataclass(frozen=True)
class CourseRun:
    """A run of the course in one profile on one machine; notebooks by name, in order."""

    profile: str
    versions: dict[str, str]
    machine: str
    notebooks: dict[str, NotebookResult] = field(default_factory=dict)

    @property
    def passed(self) -> str:
        """How many notebooks passed, as "3 of 4"."""
        return count(result.passed for result in self.notebooks.values())

    @property
    def claims_held(self) -> str:
        """How many claims of all notebooks held, as "3 of 4"."""
        return count(c.held for result in self.notebooks.values() for c in result.claims)

    def with_result(self, notebook: str, result: NotebookResult) -> "CourseRun":
        """The same run with one notebook's result added or replaced.

        Args:
            notebook: its name without the ending.
            result: what became of it.
        """
        notebooks = {**self.notebooks, notebook: result}
        return replace(self, notebooks=dict(sorted(notebooks.items())))

    def as_json(self) -> dict[str, Any]:
        """The content of metrics.json."""
        return {
            "profile": self.profile,
            "versions": self.versions,
            "machine": self.machine,
            "notebooks": {name: result.as_json() for name, result in self.notebooks.items()},
        }


def write_run(run: CourseRun, folder: Path, name: str = FILE) -> None:
    """Write a run's results so that the file is whole or the one before it.

    Args:
        run: what to write.
        folder: the run's folder.
        name: of the file in it.

    Raises:
        OSError: no room, no permission or no such folder.
    """
    text = json.dumps(run.as_json(), indent=1, ensure_ascii=False) + "\n"
    write_text(folder / name, text)


def read_run(path: Path) -> CourseRun:
    """Read a run of the course back.

    Args:
        path: its folder, or its metrics.json.

    Raises:
        KitError: there is none, or it is damaged.
    """
    file = path / FILE if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        notebooks = {name: _result(entry) for name, entry in content["notebooks"].items()}
        return CourseRun(content["profile"], content["versions"], content["machine"], notebooks)
    except FileNotFoundError:
        raise KitError(
            f"There is no run of the course in {path}: {FILE} is not there. "
            "Make one with: qlora-kit course run --out FOLDER"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
        reason = problem if isinstance(problem, OSError) else repr(problem)
        raise KitError(
            f"{file} is not a run of the course that can be read: {reason}. "
            "Make it anew with: qlora-kit course run --fresh"
        ) from problem


def _result(entry: dict[str, Any]) -> NotebookResult:
    claims = tuple(Claim(name, **claim) for name, claim in entry["claims"].items())
    metrics = tuple(Metric(name, **metric) for name, metric in entry["metrics"].items())
    return NotebookResult(**{**entry, "claims": claims, "metrics": metrics})


def course_versions() -> dict[str, str]:
    """The versions of all that a notebook's results depend on, with a hash of kit and data."""
    from ..data import bundled_data

    packages = versions("numpy", "matplotlib", "ipykernel", "nbclient", "papermill")
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    sources = [*package.rglob("*.py"), *package.rglob("*.pyi"), *bundled_data(".").rglob("*.*")]
    for path in sorted(path for path in sources if path.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    return {**packages, "qlora-kit source": digest.hexdigest()[:8]}


@functools.cache
def machine_line() -> str:
    """This machine in one line.

    Looked up in a process of its own: torch would stay in this one's memory, and a CUDA
    context in the GPU's, for as long as the notebooks run.
    """
    code = "from qlora_kit.machine import detect; print(detect())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=kit_environment())
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = done.stderr.strip().splitlines() or ["it printed nothing"]
        raise KitError(f"This machine cannot be described: {reason[-1]}. Try: qlora-kit doctor")
    return lines[-1]


def kit_environment() -> dict[str, str]:
    """This process's environment for a child: with the thread policy, and with this very kit."""
    environ = dict(os.environ)
    apply_thread_policy(environ)
    environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    home = Path(__file__).parents[2]
    if (home / "pyproject.toml").is_file():  # a checkout counts before an installed kit
        environ["PYTHONPATH"] = os.pathsep.join(
            [str(home), *filter(None, [environ.get("PYTHONPATH")])]
        )
    return environ
