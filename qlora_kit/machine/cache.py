"""Where converted models are kept."""

import os
from pathlib import Path

CACHE_VARIABLE = "QLORA_KIT_CACHE"


def cache_home() -> Path:
    """Where converted models are kept: $QLORA_KIT_CACHE, else the user's cache folder."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "qlora-kit"
