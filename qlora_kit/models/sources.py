"""A model name becomes local weights.

A name is one of four things: a bundled model ("smollm2"), a Hub id ("org/name"), a local
folder with safetensors, or a GGUF file. No pickle is ever read.
"""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from .. import KitError
from ..machine import cache_home
from .bundled import BUNDLED, bundled_folder
from .cache import folder_of_gguf, gguf_folder

Precision = Literal["nf4", "fp4", "int8", "16bit", "32bit"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass(frozen=True)
class ModelRef:
    """Where a model's weights are. source: "bundled", "hub", "folder" or "gguf".

    location is what `from_pretrained` takes: a folder, or the Hub id itself.
    """

    name: str
    source: str
    location: str


def resolve(name: str) -> ModelRef:
    """Find the weights behind a model name, fetching or converting them when needed.

    Args:
        name: a bundled name, a Hub id, a folder or a GGUF file.

    Returns:
        A reference whose location transformers can load (a Hub id is downloaded by it).

    Raises:
        KitError: unknown name, unsafe or missing weights, no network, wrong hash, full disk.
    """
    path = Path(name).expanduser()
    if name in BUNDLED:
        return ModelRef(name, "bundled", str(bundled_folder(BUNDLED[name])))
    if path.is_dir():
        require_safetensors(path)
        return ModelRef(name, "folder", str(path.resolve()))
    if path.suffix == ".gguf" or path.is_file():
        return ModelRef(name, "gguf", str(gguf_folder(path)))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return ModelRef(name, "hub", name)
    close = difflib.get_close_matches(name, BUNDLED, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise KitError(
        f"There is no model {name!r}.{hint} A model is a bundled name ({', '.join(BUNDLED)}), "
        "a Hub id such as HuggingFaceTB/SmolLM2-360M-Instruct, a folder with safetensors, "
        "or a .gguf file."
    )


def locate(name: str) -> Path | None:
    """The folder with a model's weights when it is on this machine already.

    Nothing is fetched and nothing converted.

    Args:
        name: see `resolve`.

    Returns:
        The folder; None when the model is not here, or a GGUF file that was not converted yet.

    Raises:
        KitError: a GGUF file that is not sound.
    """
    from huggingface_hub import try_to_load_from_cache

    path = Path(name).expanduser()
    if path.is_dir() and name not in BUNDLED:
        return path
    if name in BUNDLED or path.is_file():
        folder = cache_home() / name if name in BUNDLED else folder_of_gguf(path)
        return folder if folder.is_dir() else None
    try:
        config = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no Hub id either: an absent folder
        return None
    return Path(config).parent if isinstance(config, str) else None


def require_safetensors(folder: Path) -> None:
    """Refuse a folder whose weights are no safetensors.

    Args:
        folder: a model's.

    Raises:
        KitError: none there, none that can be read, or pickles instead.
    """
    try:
        names = os.listdir(folder)
    except PermissionError as problem:
        raise KitError(f"The folder {folder} cannot be read: {problem.strerror}.") from problem
    if "config.json" not in names:
        raise KitError(f"{folder} holds no model: there is no config.json in it.")
    if any(name.endswith(".safetensors") for name in names):
        return
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        raise KitError(
            f"{folder} has its weights only as pickle files, which can run code when read. "
            "Save the model again as safetensors (save_pretrained does)."
        )
    raise KitError(f"{folder} has a config.json but no .safetensors weights.")
