"""What to serve, where, and to whom; and what of it can be seen to be wrong."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import KitError
from ..models import GgufHeader
from .gguf_check import read_gguf_model, require_adapter

KEY_VARIABLE = "QLORA_KIT_API_KEY"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class ServerConfig:
    """What to serve, where, and to whom.

    adapters: name to GGUF LoRA file; a request chooses one by `model`.
    host: beyond loopback only with an api_key. port: 0 takes a free one.
    origins: of web pages that may ask, for example "http://localhost:3000".
    parallel: conversations answered at once; others wait. context: tokens of each.
    threads: 0 takes every core. offline: the kernel refuses any connection to the outside.
    parent: stop when this process is gone; 0 is nobody.
    address_file: gets the server's URL as soon as it answers.
    """

    model: Path
    adapters: Mapping[str, Path] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    parallel: int = 4
    context: int = 2048
    threads: int = 0
    offline: bool = False
    verbose: bool = False
    parent: int = 0
    address_file: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.origins, str):  # would be taken for many pages of one letter
            raise KitError(f"origins are several web pages: origins=({self.origins!r},).")

    @property
    def name(self) -> str:
        """What the model is called in requests: the file's name without .gguf."""
        return self.model.stem


def check(config: ServerConfig) -> GgufHeader:
    """Everything that can be seen to be wrong before the model is loaded.

    Args:
        config: what is to be served.

    Returns:
        The model's header.

    Raises:
        KitError: open to others without a key, a wildcard with one, a wrong file or name.
    """
    if config.api_key is not None and not config.api_key.strip():
        raise KitError("The API key is empty; leave it out or give one.")
    if not _is_loopback(config.host) and config.api_key is None:
        raise KitError(
            f"On {config.host} others could ask the server too, so it needs --api-key KEY (or "
            f"{KEY_VARIABLE}). For this machine alone leave out --host."
        )
    if "*" in config.origins and config.api_key is not None:
        raise KitError("With an API key, name each --origin; '*' lets any web page use the key.")
    if config.parallel < 1 or config.context < 64:
        raise KitError("At least one conversation in parallel, with 64 tokens of context.")
    base = read_gguf_model(config.model)
    for name, path in config.adapters.items():
        if not _NAME.fullmatch(name) or name == config.name:
            raise KitError(
                f"An adapter cannot be called {name!r}: use letters, digits, '.', '_' and '-', and "
                "another name than the model's."
            )
        require_adapter(path, base)
    return base


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
