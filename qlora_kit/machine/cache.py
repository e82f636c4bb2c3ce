"""The kit's cache: where it is, and what was found out about files that have not changed since."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from .files import is_settled, state, write_text

CACHE_VARIABLE = "QLORA_KIT_CACHE"
_ENTRIES = 1000  # of each memo; chosen by hand: a hundred bytes each


def cache_home() -> Path:
    """Where converted models are kept: $QLORA_KIT_CACHE, else the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else user_cache_path("qlora-kit", appauthor=False)


def recall(memo: str) -> dict[str, str]:
    """What this machine's processes have written down so far; nothing where that is damaged.

    Args:
        memo: a file's name in the cache.
    """
    try:
        entries = json.loads((cache_home() / memo).read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in entries.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def remember(memo: str, key: str, value: str) -> None:
    """Write something down for the processes to come.

    Args:
        memo: a file's name in the cache; of its entries the latest stay.
        key, value: what to `recall`.
    """
    entries = [*recall(memo).items(), (key, value)]
    text = json.dumps(dict(entries[-_ENTRIES:]), indent=1)
    with suppress(OSError):  # a cache that cannot be kept costs seconds, nothing else
        cache_home().mkdir(parents=True, exist_ok=True)
        write_text(cache_home() / memo, text)


def once_for_files(memo: str, files: Sequence[Path], find_out: Callable[[], str]) -> str:
    """What is found out about files, for as long as none of them changes, by any process.

    Args:
        memo: a file's name in the cache.
        files: what it is about; known by path, size, times and inode.
        find_out: reads the files.
    """
    states = [state(path) for path in files]
    key = hashlib.sha256(repr(states).encode()).hexdigest()
    text = recall(memo).get(key)
    if text is None:
        text = find_out()
        if all(map(is_settled, states)):
            remember(memo, key, text)
    return text
