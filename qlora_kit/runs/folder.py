"""A run's folder: claimed for one run, gone on with, finished; each file whole or absent."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import Machine, write_files, write_text
from ..models import Tokenizer
from . import checkpoint, manifest
from .config import TrainConfig
from .opening import open_run

RESULTS = ("adapter_config.json", "model.safetensors")
LOCK = ".lock"
# How libraries that write in C++ or Rust tell of a full disk: with errors that are no OSError.
_NO_ROOM = ("No space left on device", "os error 28", "PytorchStreamWriter failed")
_RESUME = "Its checkpoints are untouched: make room and run the same command with --resume."
_FREE = {"output", "save_steps", "report_to"}  # what may differ when a run goes on
_HASHED = {"data", "model", "adapter"}  # may have moved: the manifest knows them by their hashes


@dataclass(frozen=True)
class Start:
    """Where a run begins: a checkpoint or None, the steps done, and the metrics up to there."""

    checkpoint: Path | None
    done: int
    past: tuple[dict[str, Any], ...]


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Inside, the run folder is this process's alone; the system ends the lock with the process.

    Args:
        folder: the run folder, made when it is not there.

    Raises:
        KitError: another process trains into it, it is a file, or it cannot be written to.
    """
    from filelock import FileLock, Timeout

    if folder.exists() and not folder.is_dir():
        raise KitError(f"{folder} is a file; --output must name a folder.")
    with_room(folder, lambda: folder.mkdir(parents=True, exist_ok=True))
    lock = FileLock(folder / LOCK)
    try:
        with_room(folder, lambda: lock.acquire(timeout=0))
    except Timeout:
        raise KitError(
            f"{folder} is in use: another training writes into it. Wait until that one has ended, "
            "or choose another --output."
        ) from None
    try:
        yield
    finally:
        lock.release()


def claim_folder(folder: Path, config: TrainConfig, resume: bool, steps: int) -> Start:
    """Look whether a run folder may be taken for a run, or where to go on in it.

    To be called inside `locked_folder`. Nothing is changed in it before `begin_run`.

    Args:
        folder: the run folder.
        config: the run.
        resume: go on from the newest complete checkpoint; with none, from the beginning.
        steps: optimizer steps of the whole run.

    Raises:
        KitError: a folder that holds another run or a finished one, or cannot be written to.
    """
    checkpoints = folder / "checkpoints"
    ended = (folder / "run.json").exists()  # written last; without it the run was killed
    if not resume and (checkpoints.exists() or any((folder / name).exists() for name in RESULTS)):
        raise KitError(
            f"{folder} already holds a run. Go on with it (--resume), choose another --output, or "
            "remove it."
        )
    start = checkpoint.latest(checkpoints) if resume else None
    if resume and start is None and ended:
        raise KitError(f"{folder} has no checkpoint to go on from (--save-steps makes them).")
    done, past = 0, []
    if start:
        run = open_run(folder)
        free = _FREE | _HASHED if (folder / manifest.NAME).exists() else _FREE
        if (run.config.adapter is None) != (config.adapter is None):
            free = free - {"adapter"}  # with one or without is no question of where it lies
        _require_same(run.config, config, free)
        done = checkpoint.step_of(start)
        past = run.metrics()[:done]
    if ended and done >= steps:
        raise KitError(f"{folder} has done all of its {steps} steps already.")
    return Start(start, done, tuple(past))


def begin_run(
    folder: Path, config: TrainConfig, machine: Machine, start: Start, inputs: dict[str, str]
) -> None:
    """Write down what a run begins from, or goes on from, in the folder that was claimed for it.

    Args:
        folder: the run folder.
        config: the run; its base is on this machine.
        machine: trains it.
        start: from `claim_folder`.
        inputs: from `hash_inputs`, as the data were when they were read.

    Raises:
        KitError: base, data or first adapter are not what the run began with, and the folder is
            left as it was; or it cannot be written to.
    """
    import yaml

    now = manifest.make(config, machine, inputs)

    def write() -> None:
        manifest.begin_manifest(folder, now, start.checkpoint is not None)
        checkpoint.tidy(folder / "checkpoints")
        write_text(folder / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))
        past = "".join(json.dumps(step) + "\n" for step in start.past)
        write_text(folder / "metrics.jsonl", past)
        (folder / "run.json").unlink(missing_ok=True)  # it tells that a run has ended

    with_room(folder, write)


def _require_same(before: TrainConfig, now: TrainConfig, free: set[str]) -> None:
    """A run goes on as it began: with other settings it would be neither run."""
    changed = [
        f"{name} was {value!r}, now {getattr(now, name)!r}"
        for name, value in asdict(before).items()
        if name not in free and value != getattr(now, name)
    ]
    if changed:
        raise KitError(f"Cannot resume with other settings: {'; '.join(changed)}.")


def save_model(folder: Path, model: Any, tokenizer: Tokenizer) -> None:
    """Save what was trained: an adapter in PEFT's format, or a whole model with its tokenizer.

    Args:
        folder: the run folder; an earlier result stays until the new one is safe.
        model: with adapters, or with all weights trained.
        tokenizer: saved beside a whole model.

    Raises:
        KitError: it could not be written.
    """

    def write(scratch: Path) -> None:
        model.save_pretrained(scratch)
        if not hasattr(model, "peft_config"):
            tokenizer.save_pretrained(scratch)

    with_room(folder, lambda: write_files(folder, write, last=RESULTS))


def with_room(path: Path, write: Callable[[], object], way_out: str = _RESUME) -> None:
    """Write something into a run folder or elsewhere, a full disk being one clear error.

    Args:
        path: named in the error.
        write: does it. What it raises for other reasons than the disk passes through.
        way_out: ends the error.

    Raises:
        KitError: it could not be written.
    """
    from filelock import Timeout

    try:
        write()
    except Timeout:  # an OSError, too; it tells of another process
        raise
    except Exception as problem:
        full = any(sign in str(problem) for sign in _NO_ROOM)
        if not full and not isinstance(problem, OSError):
            raise
        reason = os.strerror(errno.ENOSPC) if full else getattr(problem, "strerror", None)
        raise KitError(f"{path} cannot be written to: {reason or problem}. {way_out}") from problem
