"""One notebook, run through papermill in a fresh kernel of this same Python, and watched.

Papermill runs the cells and saves after each. What it does not tell is added here: which cell
runs, how much memory the kernel and its children hold, whether a cell hung, and whether the
kernel died and of what.
"""

import logging
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill
import psutil
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import remove_error_markers

from ..machine import GB, main_memory
from .lessons.claims import COURSE_VARIABLE
from .notebooks import read_notebook, write_notebook
from .results import kit_environment

_ENGINE = "qlora-kit"
_LOG = logging.getLogger(__name__)  # nbclient tells it what the outcome says better
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False
# Chosen by hand: what a busy machine takes at most, and what finds a peak without being one.
_START_SECONDS, _OUTPUT_SECONDS, _SAMPLE_SECONDS = 120, 60, 0.25
_NEARLY_ALL = 0.85  # of the free memory, chosen by hand: a kernel that dies above it died of want


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended: "passed", "failed", "timeout" or "killed"; message says why."""

    status: str
    message: str = ""


@dataclass
class Progress:
    """Where a notebook stands, for whoever watches; changed while it runs."""

    notebook: str
    status: str = "waiting"
    cell: int = 0
    cells: int = 0
    memory_gb: float = 0.0
    peak_gb: float = 0.0
    began: float = 0.0
    ended: float = 0.0

    @property
    def minutes(self) -> float:
        """How long it has run, or ran."""
        if not self.began:
            return 0.0
        return ((self.ended or time.perf_counter()) - self.began) / 60


def execute(
    source: Path,
    target: Path,
    parameters: dict[str, Any],
    scratch: Path,
    timeout: int,
    progress: Progress,
) -> Outcome:
    """Run a notebook from top to bottom in a fresh kernel.

    Args:
        source: the notebook.
        target: where the executed notebook goes; saved after every cell.
        parameters: papermill's, injected after the cell tagged `parameters`.
        scratch: the kernel's working directory, emptied first; kernel.log beside what cells write.
        timeout: seconds that one cell may take.
        progress: kept up to date while it runs.

    Returns:
        How it ended. Only an interruption is raised.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    papermill_engines.register(_ENGINE, _KitEngine)
    watch = _Watch(progress)
    progress.status, progress.began = "running", time.perf_counter()
    try:
        papermill.execute_notebook(
            _verbatim(source),
            _verbatim(target),
            parameters,
            engine_name=_ENGINE,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            watch=watch,
            scratch=scratch,
            cell_timeout=timeout,
        )
    except PapermillExecutionError:
        if watch.error is None:  # a cell tagged raises-exception: papermill objects all the same
            write_notebook(remove_error_markers(read_notebook(target)), target)
    except KeyboardInterrupt:
        progress.status = "interrupted"
        raise
    except DeadKernelError:
        return _killed(watch)
    except CellTimeoutError as problem:
        late = "its output did not arrive" if "IOPub" in str(problem) else "it ran longer"
        return Outcome("timeout", f"{watch.where}: {late} than {timeout} s (--timeout)")
    except Exception as problem:  # the other notebooks must still run
        reason = str(problem).strip().splitlines() or [type(problem).__name__]
        return Outcome("failed", f"{watch.where}: {reason[0]}; see {scratch / 'kernel.log'}")
    finally:
        progress.ended = time.perf_counter()
        watch.stop()
    if watch.error is not None:
        name, value = watch.error
        return Outcome("failed", f"{watch.where}: {name}: {value}")
    return Outcome("passed")


class _Watch:
    """Follows one kernel: its cells through nbclient's hooks, its memory from a thread."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.error: tuple[str, str] | None = None
        self.provisioner: Any = None
        self.oom_kills = oom_kills()
        self.free_gb = main_memory()[0] / GB
        self._kernel: psutil.Process | None = None
        self._children: set[psutil.Process] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_done, daemon=True)

    @property
    def where(self) -> str:
        """The cell that ran last, as JupyterLab numbers it."""
        return f"cell [{self.progress.cell}]" if self.progress.cell else "before the first cell"

    def started(self, provisioner: Any) -> None:
        self.provisioner = provisioner
        with suppress(psutil.Error):
            self._kernel = psutil.Process(provisioner.pid)
        self._thread.start()

    def cell_executes(self, cell: Any, cell_index: int) -> None:
        self.progress.cell += 1

    def cell_failed(self, cell: Any, cell_index: int, execute_reply: Any) -> None:
        # Asked here, since papermill takes sys.exit(0) halfway for success.
        if "raises-exception" not in cell.metadata.get("tags", []):
            content = execute_reply["content"]
            self.error = (content.get("ename", "an error"), content.get("evalue", ""))

    def stop(self) -> None:
        """Stop sampling, and end what the notebook started and did not end."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        for process in self._children:
            with suppress(psutil.Error):
                process.kill()
        self.progress.memory_gb = 0.0

    def _sample_until_done(self) -> None:
        while True:
            with suppress(psutil.Error):
                self._sample()
            if self._done.wait(_SAMPLE_SECONDS):
                return

    def _sample(self) -> None:
        if self._kernel is None:
            return
        children = self._kernel.children(recursive=True)
        self._children.update(children)
        total = 0
        for process in (self._kernel, *children):
            with suppress(psutil.Error):
                total += process.memory_info().rss
        self.progress.memory_gb = total / GB
        self.progress.peak_gb = max(self.progress.peak_gb, total / GB)


class _ThisPython(KernelSpecManager):
    """Every kernel is this interpreter, whatever is registered on this machine."""

    def get_kernel_spec(self, kernel_name: str) -> Any:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class _KitEngine(Engine):
    """Papermill's engine with our kernel, its folder and streams, and a watch on it."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        """Run the cells; options: papermill's, and watch, scratch and cell_timeout from us."""
        watch, scratch = options["watch"], options["scratch"]
        paths = nb_man.nb.metadata.papermill  # an executed notebook may be published
        paths.update({key: Path(paths[key]).name for key in ("input_path", "output_path")})
        code = [cell for cell in nb_man.nb.cells if cell.cell_type == "code"]
        watch.progress.cells = sum(bool(cell.source.strip()) for cell in code)
        manager = AsyncKernelManager(
            kernel_name=kernel_name, kernel_spec_manager=_ThisPython(), log=_LOG
        )
        client = PapermillNotebookClient(
            nb_man,
            km=manager,
            log=_LOG,
            timeout=options["cell_timeout"],
            coalesce_streams=True,  # what is printed in pieces is one text, in pages too
            startup_timeout=_START_SECONDS,
            iopub_timeout=_OUTPUT_SECONDS,
            on_notebook_start=lambda notebook: watch.started(manager.provisioner),
            on_cell_execute=watch.cell_executes,
            on_cell_error=watch.cell_failed,
        )
        environ = {**kit_environment(), COURSE_VARIABLE: "1"}
        environ.pop("MPLBACKEND", None)  # figures belong into the notebook
        with open(scratch / "kernel.log", "wb") as log:
            try:
                streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
                client.execute(cleanup_kc=True, cwd=str(scratch), env=environ, **streams)
            except (DeadKernelError, CellTimeoutError, KeyboardInterrupt) as problem:
                _mark_unfinished(nb_man, problem)
                raise


def _mark_unfinished(nb_man: Any, problem: BaseException) -> None:
    """Papermill marks the cell that a kernel died in, and all after it, as completed."""
    states = [cell.metadata.papermill for cell in nb_man.nb.cells]
    begun = [index for index, state in enumerate(states) if state.get("start_time")]
    if begun:
        nb_man.cell_exception(nb_man.nb.cells[begun[-1]], begun[-1], exception=problem)


def _killed(watch: _Watch) -> Outcome:
    peak = watch.progress.peak_gb
    memory = f"its peak was {peak:.1f} GB, and {watch.free_gb:.1f} GB were free when it began"
    if oom_kills() > watch.oom_kills or peak > _NEARLY_ALL * watch.free_gb:
        return Outcome("killed", f"{watch.where}: killed, probably for memory: {memory}")
    process = getattr(watch.provisioner, "process", None)
    code = process.poll() if process is not None else None
    how = ""
    if code is not None and code < 0:
        with suppress(ValueError):
            how = f" of {signal.Signals(-code).name}"
    return Outcome("killed", f"{watch.where}: the kernel died{how}; {memory}")


def oom_kills(cgroup: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """How many processes of this control group the system has killed for want of memory.

    Args:
        cgroup: where the control groups (version 2 or 1) are mounted.
        own: says which of them are this process's.

    Returns:
        The count since the group was made; 0 where there are no control groups.
    """
    groups = [""]
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if not kinds or "memory" in kinds.split(","):
                groups.insert(0, path.strip("/"))
    for group in groups:
        version_2 = cgroup / group / "memory.events"
        for file in (version_2, cgroup / "memory" / group / "memory.oom_control"):
            with suppress(OSError):
                if match := re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE):
                    return int(match[1])
    return 0


def _verbatim(path: Path) -> str:
    """A path for papermill, which would fill in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")
