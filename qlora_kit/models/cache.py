"""Models converted once into a folder that is offline ever after.

A folder in the cache is whole: it is built beside, under a lock, and renamed when it is ready.
"""

import errno
import hashlib
import json
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import (
    CACHE_VARIABLE,
    GB,
    cache_home,
    digest,
    once_for_files,
    ran_out_of_memory,
    while_unchanged,
    write_text,
)
from .gguf_files import read_gguf_header
from .logging import quiet

FOUR_BITS = ("nf4", "fp4")  # the formats of which copies are kept
_STAMP = "qlora_kit.json"  # written last into a converted folder, with the hash of its weights
_MEMO = "gguf_files.json"
_digest_once = while_unchanged(digest)


class _DamagedError(KitError):
    """A folder in the cache is not as it was built."""


@dataclass(frozen=True)
class CachedModel:
    """A folder in the cache, its size in 10^9 bytes; copy tells of a copy in 4 bits."""

    name: str
    folder: Path
    size_gb: float
    copy: bool


def is_of_library(problem: Exception) -> bool:
    """Whether loading a model raises this for a damaged file, a wrong setting, or a full machine.

    A NameError and its like are mistakes of the code, and are no answer to a user.

    Args:
        problem: what was raised.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    known = (
        AttributeError,
        ImportError,
        KitError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        SafetensorError,
        StrictDataclassError,
        struct.error,
        TypeError,
        ValueError,
    )
    return isinstance(problem, known) or type(problem) is Exception  # tokenizers' own


def gguf_folder(path: Path) -> Path:
    """The folder that a GGUF file was converted into, keyed by its hash; converted when it is not.

    Args:
        path: the GGUF file.

    Raises:
        KitError: no such file, one that is not sound, or one that cannot be converted.
    """
    folder = folder_of_gguf(path)

    def build(scratch: Path, target: Path) -> None:
        convert_gguf(path, target)

    return build_once(folder.name, build, f"rm -r {folder}")


def folder_of_gguf(path: Path) -> Path:
    """Where a GGUF file is converted into, whether it was or not.

    Args:
        path: the GGUF file.

    Raises:
        KitError: no such file, or one that is not sound.
    """
    if not path.is_file():
        raise KitError(f"There is no file {path}.")

    def checked_digest() -> str:
        read_gguf_header(path)
        return digest(path)

    key = once_for_files(_MEMO, [path], checked_digest)[:16]
    return cache_home() / f"gguf-{path.stem}-{key}"


def quantized_folder(source: Path, kind: str, save: Callable[[Path], None]) -> Path | None:
    """The folder of a cached model's copy in 4 bits, one for each version of the libraries.

    Args:
        source: a folder of `bundled_folder` or `gguf_folder`.
        kind: the format, of `FOUR_BITS`.
        save: quantizes the model and saves it into the folder that it is given.

    Returns:
        The folder; None when it cannot be made, since it only saves time.

    Raises:
        MemoryError: or the library's own, where a copy is there and memory ran out: the copy is
            kept, and its original would take far more.
    """
    folder = _copy_of(source, kind)
    for _ in range(2):
        try:
            return build_once(folder.name, lambda _, target: save(target), "", home=folder.parent)
        except _DamagedError:
            shutil.rmtree(folder, ignore_errors=True)
        except Exception as problem:
            full = ran_out_of_memory(problem) and folder.exists()
            if full or not is_of_library(problem):
                raise
            return None
    return None


def _copy_of(source: Path, kind: str) -> Path:
    """Where a copy in 4 bits is that today's libraries make and read."""
    weights = json.loads((source / _STAMP).read_text())["sha256"]
    origin = " ".join((weights, version("bitsandbytes"), version("transformers")))
    name = f"{source.name}-{kind}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"
    return cache_home() / "quantized" / name


def build_once(
    name: str,
    build: Callable[[Path, Path], None],
    mend: str,
    weights: str = "model.safetensors",
    home: Path | None = None,
) -> Path:
    """Build a folder once: one process at a time, in a scratch folder, renamed when whole.

    Args:
        name: of the folder.
        build: builds it, given a folder for scratch and the folder to make.
        mend: the command that builds it again, for people whose folder is damaged.
        weights: the file in it whose hash is checked at each use.
        home: where the folder goes; the cache by default.

    Returns:
        The folder.

    Raises:
        KitError: it is damaged, or there is no room for it.
    """
    from filelock import FileLock

    home = home or cache_home()
    final = home / name
    with _room_in(home):
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(str(home / f".{name}.lock")):
            if final.exists():
                _verify(final, mend, weights)
                return final
            with tempfile.TemporaryDirectory(dir=home, prefix=f".{name}-") as scratch:
                target = Path(scratch) / "model"
                build(Path(scratch), target)
                stamp = {"sha256": digest(target / weights)}
                write_text(target / _STAMP, json.dumps(stamp))
                target.rename(final)
    return final


def _verify(folder: Path, mend: str, weights: str) -> None:
    try:
        expected = json.loads((folder / _STAMP).read_text())["sha256"]
        intact = _digest_once(folder / weights) == expected
    except (OSError, ValueError, KeyError, TypeError) as problem:
        if ran_out_of_memory(problem):
            raise
        intact = False
    if not intact:
        raise _DamagedError(
            f"The cached model in {folder} is damaged (its weights do not match their hash). "
            f"Build it again with: {mend}"
        )


@contextmanager
def _room_in(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno == errno.ENOSPC:
            reason = f"The disk of {home} is full; a model needs about 1 GB."
        elif isinstance(problem, PermissionError):
            reason = f"{home} cannot be written to ({problem.strerror})."
        else:
            raise
        raise KitError(f"{reason} Set {CACHE_VARIABLE} to another folder.") from problem


def convert_gguf(gguf: Path, target: Path) -> None:
    """Dequantize a GGUF file once into bf16 safetensors, the form that Hub models have.

    Args:
        gguf: the file.
        target: the folder to make.

    Raises:
        KitError: a file that transformers cannot read.
        OSError: no room.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print(f"Converting {gguf.name} (about half a minute, once) ...", file=sys.stderr)
    where = {"gguf_file": gguf.name, "trust_remote_code": False}
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **where)
            # Where a kernel for it is installed, the weights would stay packed.
            unpacked = GgufConfig(dequantize=True)
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent), dtype=torch.float32, quantization_config=unpacked, **where
            )
        except Exception as problem:
            full = ran_out_of_memory(problem) or (isinstance(problem, OSError) and problem.errno)
            if full or not is_of_library(problem):
                raise  # the machine, not the file
            raise KitError(
                f"{gguf} cannot be converted: {problem}. Llama, Mistral and Qwen GGUF files can; "
                "for others use the model's safetensors."
            ) from problem
        # save_pretrained refuses a model that remembers its GGUF quantization.
        model.config.__dict__.pop("quantization_config", None)
        model.hf_quantizer, model.is_quantized = None, False
        model.to(torch.bfloat16).save_pretrained(target)
        tokenizer.save_pretrained(target)


def cached_models() -> list[CachedModel]:
    """The converted models on this machine, and after them the copies in 4 bits."""
    home = cache_home()
    stamps = {False: home.glob(f"*/{_STAMP}"), True: home.glob(f"quantized/*/{_STAMP}")}
    return [
        CachedModel(
            stamp.parent.name,
            stamp.parent,
            sum(file.stat().st_size for file in stamp.parent.iterdir()) / GB,
            copy,
        )
        for copy, paths in stamps.items()
        for stamp in sorted(paths)
    ]


def prune_copies() -> list[CachedModel]:
    """Remove copies in 4 bits that nothing here can use: of other versions, of models that left.

    An environment with those versions, if there is one on this machine, makes its copy anew.

    Returns:
        What was removed.
    """
    models = cached_models()
    current = {
        _copy_of(model.folder, kind) for model in models if not model.copy for kind in FOUR_BITS
    }
    stale = [model for model in models if model.copy and model.folder not in current]
    for model in stale:
        shutil.rmtree(model.folder)
    return stale
