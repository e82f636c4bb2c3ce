"""What to serve, where, and to whom; and whether it can be, as far as the headers say.

llama.cpp's own words for a wrong file are a line in its log; here they are a sentence with the
way out.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import KitError
from ..models import GgufHeader, read_gguf_header

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
    parallel: int = 4  # chosen by hand, like the next
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


def require_servable(config: ServerConfig) -> GgufHeader:
    """Check, before the model is loaded, that it can be served like this.

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


def read_gguf_model(path: str | Path) -> GgufHeader:
    """The header of a file that is to be served; the weights are not touched.

    Args:
        path: a GGUF model.

    Raises:
        KitError: see `read_gguf_header`; or an adapter, which is no model by itself.
    """
    header = read_gguf_header(path, sizes=False)
    kind = _kind(header)
    if kind == "lora":
        raise KitError(
            f"{header.path} is a LoRA adapter, not a model. Serve the model that it was trained "
            f"on, with --lora NAME={header.path.name}."
        )
    if kind != "model":
        raise KitError(f"{header.path} holds no model: its type is {kind!r}.")
    return header


def require_adapter(path: str | Path, base: GgufHeader) -> None:
    """Check from its header that an adapter fits the model.

    Args:
        path: a GGUF LoRA adapter.
        base: the model's header.

    Raises:
        KitError: see `read_gguf_header`; not a LoRA adapter, or one of another model.
    """
    header = read_gguf_header(path, sizes=False)
    kind = _kind(header)
    if kind != "lora":
        raise KitError(
            f"{header.path} is not a LoRA adapter but holds a {kind}. Export the adapter of "
            "a run by itself, or serve this file as the model."
        )
    misfit = _misfit(header, base)
    if misfit:
        raise KitError(
            f"The adapter {header.path} does not fit {base.path}: {misfit}. It was trained on "
            "another model; serve that one."
        )


def _kind(header: GgufHeader) -> str:
    """ "model", or "lora" of an adapter; another word is something that is not served."""
    kind = str(header.metadata.get("general.type", "model"))
    return str(header.metadata.get("adapter.type", kind)) if kind == "adapter" else kind


def _misfit(adapter: GgufHeader, base: GgufHeader) -> str:
    """The first thing that differs; "" when all fits."""
    if adapter.architecture != base.architecture:
        return f"it is for a {adapter.architecture!r} model, this is {base.architecture!r}"
    halves, targets = adapter.shapes, base.shapes
    names = {name.rpartition(".lora_")[0] for name in halves if ".lora_" in name}
    if not names:
        return "there are no lora_a and lora_b tensors in it"
    if base.metadata.get("split.count", 1) not in (0, 1):
        return ""  # the other tensors are in other files; llama.cpp compares them
    for name in sorted(names):
        down, up = halves.get(f"{name}.lora_a"), halves.get(f"{name}.lora_b")
        target = targets.get(name)
        if down is None or up is None:
            return f"of {name} it has only one of lora_a and lora_b"
        if target is None:
            return f"the model has no {name}"
        looked_up = name.startswith("token_embd")  # not multiplied, so its halves lie transposed
        product = (up[1], down[1]) if looked_up else (down[0], up[1])
        if product != target[:2]:
            return f"{name} is {_size(target)}, the adapter's {_size(product)}"
    return ""


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
