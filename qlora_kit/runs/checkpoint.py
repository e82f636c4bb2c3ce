"""Checkpoints that are whole or not there: written beside, flushed, hashed, renamed.

A checkpoint folder under its final name is complete, and its manifest.json has the hash of each
file. What a kill leaves behind keeps its scratch name, is never resumed from, and is removed at
the next save. Only what matches its hash is ever unpickled.
"""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from .. import KitError
from ..machine import digest, flush, flush_all

_NAME = re.compile(r"checkpoint-(\d{1,15})")
_SCRATCH, _ASIDE = ".saving", ".replaced"
_MANIFEST = "manifest.json"
# What the trainer needs to go on as if it had never stopped, beside the weights.
_PARTS = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
_WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")


def save_checkpoint(folder: Path, step: int, write: Callable[[Path], None], keep: int = 2) -> Path:
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
    final, scratch, aside = folder / f"checkpoint-{step}", folder / _SCRATCH, folder / _ASIDE
    tidy(folder)
    try:
        scratch.mkdir(parents=True)
        write(scratch)
        names = sorted(p.relative_to(scratch).as_posix() for p in scratch.rglob("*") if p.is_file())
        hashes = {name: digest(scratch / name) for name in names}
        (scratch / _MANIFEST).write_text(json.dumps({"step": step, "sha256": hashes}, indent=1))
        flush_all(scratch)
        if final.exists():
            final.rename(aside)
        scratch.rename(final)
        flush(folder)
    except KitError:
        tidy(folder)
        raise
    except Exception as problem:  # of a full disk each library tells with an error of its own
        shutil.rmtree(scratch, ignore_errors=True)
        reason = getattr(problem, "strerror", None) or problem
        raise KitError(
            f"Checkpoint {step} could not be saved in {folder}: {reason}. "
            "Earlier ones are untouched: make room and run the same command with --resume."
        ) from problem
    shutil.rmtree(aside, ignore_errors=True)
    # Those that claim to be newer were passed over when the run went on: they are damaged.
    older = [path for path in complete(folder) if step_of(path) < step]
    for old in older[: max(0, len(older) - (keep - 1))]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def tidy(folder: Path) -> None:
    """Remove what killed saves left.

    Args:
        folder: holds all checkpoints of a run; need not exist.
    """
    for name in (_SCRATCH, _ASIDE):
        shutil.rmtree(folder / name, ignore_errors=True)


def step_of(path: Path) -> int:
    """How many optimizer steps a checkpoint has done.

    Args:
        path: its folder.
    """
    return int(path.name.split("-")[1])


def complete(folder: Path) -> list[Path]:
    """The checkpoints that have all files needed to go on, oldest first; hashes are not read.

    Args:
        folder: holds all checkpoints of a run; need not exist.
    """
    whole = [
        path
        for path in folder.glob("checkpoint-*")
        if _NAME.fullmatch(path.name)
        and all((path / part).is_file() for part in _PARTS)
        and any((path / name).is_file() for name in _WEIGHTS)
    ]
    return sorted(whole, key=step_of)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is complete and matches its hashes, whatever lies beside it.

    One without hashes, from an earlier version of the kit, is taken when there is no other,
    with a warning.

    Args:
        folder: holds all checkpoints of a run; need not exist.
    """
    newest_first = complete(folder)[::-1]
    newest_first.sort(key=lambda path: not (path / _MANIFEST).exists())
    for path in newest_first:
        if not (path / _MANIFEST).exists():
            warnings.warn(
                f"{path} has no {_MANIFEST}, so nobody can say whether it is as it was saved; "
                "going on from it unverified.",
                stacklevel=2,
            )
            return path
        reason = damage(path)
        if not reason:
            return path
        warnings.warn(f"{path} is passed over: {reason}.", stacklevel=2)
    return None


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, in words; nothing when it is as it was saved.

    Args:
        path: its folder.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        hashes = dict(manifest["sha256"])
        if manifest["step"] != step_of(path):
            return f"it is of step {manifest['step']}"
        files = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
        if files - {_MANIFEST} != set(hashes):
            different = sorted(map(str, (files - {_MANIFEST}) ^ set(hashes)))
            return f"files were added or removed ({', '.join(different)})"
        changed = [
            name for name in sorted(files & set(hashes)) if digest(path / name) != hashes[name]
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        return f"its {_MANIFEST} cannot be read ({problem})"
    return f"{', '.join(changed)} changed since it was saved" if changed else ""
