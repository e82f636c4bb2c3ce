"""Files that are whole or not there, also after a kill, a power cut or a full disk."""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

_SCRATCH = ".writing"


def write_text(path: Path, text: str) -> None:
    """Write a file so that nobody ever finds half of it.

    Args:
        path: the file; what stood there before stays until the new one is safe.
        text: written as UTF-8.

    Raises:
        OSError: no room, or no permission; the file is as it was.
    """
    scratch = path.with_name(f"{_SCRATCH}-{path.name}")
    try:
        scratch.write_text(text, encoding="utf-8")
        flush(scratch)
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
    flush(path.parent)


def write_files(folder: Path, write: Callable[[Path], object], last: Sequence[str]) -> None:
    """Add files to a folder, each replaced only when all of them are safe on the disk.

    Args:
        folder: where they go; need not exist.
        write: writes them into the empty folder that it is given.
        last: names to move in after all others, in this order: where the last one is, all are.
    """
    scratch = folder / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        write(scratch)
        flush_all(scratch)
        paths = sorted(scratch.iterdir(), key=lambda path: (path.name in last, path.name))
        paths.sort(key=lambda path: last.index(path.name) if path.name in last else -1)
        for path in paths:
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    flush(folder)


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex.

    Args:
        path: the file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_all(folder: Path) -> None:
    """Make all files of a folder, and the folder itself, survive a power cut.

    Args:
        folder: with its subfolders.
    """
    for path in sorted(folder.rglob("*"), reverse=True):  # a folder after what is in it
        flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Make a file's bytes or a folder's entries survive a power cut.

    Args:
        path: a file or a folder.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
