"""Files that are whole or not there, also after a kill, a power cut or a full disk."""

import functools
import hashlib
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

State = tuple[str, int, int, int, int]
T = TypeVar("T")

_SCRATCH = ".writing"
_SETTLED = 2.0  # seconds, FAT's clock tick: within it a file may change and show the same time


def write_text(path: Path, text: str) -> None:
    """Write a file so that nobody ever finds half of it, also where several processes write it.

    Args:
        path: the file; what stood there before stays until the new one is safe.
        text: written as UTF-8.

    Raises:
        OSError: no room, or no permission; the file is as it was.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """As `write_text`, with bytes.

    Args:
        path: the file.
        content: its bytes.

    Raises:
        OSError: see `write_text`.
    """
    scratch = _new_scratch(path.parent)
    try:
        scratch.write_bytes(content)
        flush(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    flush(path.parent)


def write_files(folder: Path, write: Callable[[Path], object], last: Sequence[str]) -> None:
    """Add files to a folder, each replaced only when all of them are safe on the disk.

    Args:
        folder: where they go; need not exist.
        write: writes them into the empty folder that it is given.
        last: names to move in after all others, in this order: where the last one is, all are.
    """
    scratch = _new_scratch(folder)
    try:
        scratch.mkdir(parents=True)
        write(scratch)
        flush_all(scratch)
        order = {name: place for place, name in enumerate(last, 1)}
        for path in sorted(
            scratch.iterdir(), key=lambda path: (order.get(path.name, 0), path.name)
        ):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    flush(folder)


def _new_scratch(folder: Path) -> Path:
    """A path in a folder that nobody else writes to; what killed processes left is removed.

    With a name that processes share, one of them would publish another's half.
    """
    import psutil

    machine = platform.node()  # a folder in the network has scratches of other machines, too
    for left in folder.glob(f"{_SCRATCH}-*-*-*"):
        process, _, owner = left.name.removeprefix(f"{_SCRATCH}-").split("-", 2)
        if owner == machine and process.isdigit() and not psutil.pid_exists(int(process)):
            with suppress(OSError):  # another process was quicker
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return folder / f"{_SCRATCH}-{os.getpid()}-{secrets.token_hex(8)}-{machine}"


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex.

    Args:
        path: the file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state(path: Path) -> State:
    """What tells whether a file is still the one that was read: path, size, times and inode.

    Args:
        path: the file.

    Raises:
        OSError: it is not there.
    """
    now = path.stat()
    return str(path.resolve()), now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino


def is_settled(file: State) -> bool:
    """Whether a file's next change will show in its state.

    Args:
        file: its state.
    """
    return max(file[2:4]) < (time.time() - _SETTLED) * 1e9


def while_unchanged(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Let a function of a file remember, in this process, its result until the file changes.

    Args:
        read: the function; reading the file is all that it does.
    """
    results: dict[str, tuple[State, T]] = {}

    @functools.wraps(read)
    def remembering(path: Path) -> T:
        now = state(path)
        before, result = results.get(now[0], (None, None))
        if before != now:
            result = read(path)
            if is_settled(now):
                results[now[0]] = now, result
        return cast(T, result)

    return remembering


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
