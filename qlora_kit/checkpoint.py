"""Checkpoints that are whole or not there: written beside, flushed, renamed.

A checkpoint folder under its final name is complete. What a kill leaves behind keeps its
scratch name, is never resumed from, and is removed at the next save.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from . import KitError

_NAME = re.compile(r"checkpoint-(\d+)")
_SCRATCH = ".saving"
# What the trainer needs to go on as if it had never stopped.
_PARTS = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


def save(folder: Path, step: int, write: Callable[[Path], None], keep: int = 2) -> Path:
    """Save one checkpoint atomically, then prune older ones.

    Args:
        folder: holds all checkpoints of a run.
        step: optimizer steps done.
        write: writes the checkpoint's files into the folder it is given.
        keep: how many to keep, this one included.

    Returns:
        The checkpoint's folder, `folder/checkpoint-{step}`.

    Raises:
        KitError: it could not be written; earlier checkpoints are untouched.
    """
    final, scratch = folder / f"checkpoint-{step}", folder / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        write(scratch)
        for path in sorted(scratch.rglob("*")):
            if path.is_file():
                _flush(path)
        if final.exists():
            shutil.rmtree(final)
        scratch.rename(final)
        _flush(folder)
    except (OSError, RuntimeError, SafetensorError) as problem:  # torch's and safetensors' own
        shutil.rmtree(scratch, ignore_errors=True)
        reason = getattr(problem, "strerror", None) or problem
        raise KitError(
            f"Checkpoint {step} could not be saved in {folder}: {reason}. "
            "Earlier ones are untouched: make room and run the same command with --resume."
        ) from problem
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def complete(folder: Path) -> list[Path]:
    """The checkpoints that hold everything needed to go on, oldest first.

    Args:
        folder: holds all checkpoints of a run; need not exist.
    """
    found = []
    for path in folder.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match and all((path / part).is_file() for part in _PARTS):
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, whatever lies beside it.

    Args:
        folder: holds all checkpoints of a run; need not exist.
    """
    return next(reversed(complete(folder)), None)


def _flush(path: Path) -> None:
    """Make a file or a folder's entries survive a power cut."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
