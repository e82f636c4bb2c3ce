"""What safetensors files hold, read without loading them: names, shapes, and one hash of it all."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import KitError
from ..machine import GB, once_for_files

_INDEX = "model.safetensors.index.json"
_MEMO = "fingerprints.json"
_LARGE = 4 * GB  # chosen by hand: takes some seconds
_BLOCK = 1 << 22  # bytes hashed at a time


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file: dtype as safetensors names it; its bytes are [start, end) of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int


def read_header(path: Path) -> list[Tensor]:
    """The tensors of a safetensors file, every number checked against the file's size.

    Args:
        path: the file.

    Returns:
        The tensors in the order of their bytes.

    Raises:
        KitError: not a safetensors file, or one that is cut off or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"), path.open("rb") as file:  # which checks the header
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (OSError, SafetensorError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise KitError(
            f"{path} is not a sound safetensors file: {reason}. It was cut off or damaged: copy or "
            "download it again."
        ) from problem
    header.pop("__metadata__", None)
    tensors = []
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors.append(Tensor(name, entry["dtype"], tuple(entry["shape"]), path, start, end))
    return sorted(tensors, key=lambda tensor: (tensor.start, tensor.end))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from a model's folder.

    Args:
        folder: of a model.

    Raises:
        KitError: there are none, or an index that cannot be read or names one that is not there.
    """
    whole, index = folder / "model.safetensors", folder / _INDEX
    if whole.is_file():
        return [whole]
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
            if not all(Path(name).name == name for name in names):
                raise ValueError("it names files elsewhere")
        except (
            AttributeError,
            KeyError,
            OSError,
            RecursionError,
            TypeError,
            ValueError,
        ) as problem:
            raise KitError(f"{index} cannot be read: {problem}.") from problem
        absent = [name for name in names if not (folder / name).is_file()]
        if absent or not names:
            raise KitError(f"{folder} lacks {', '.join(absent) or 'weights'}: download it again.")
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise KitError(f"There are no .safetensors weights in {folder}.")
    return files


def fingerprint(files: Sequence[Path]) -> str:
    """One hash of all tensors: names, dtypes, shapes and bytes.

    The same weights have the same hash however they are spread over files. It is remembered by
    the files' paths, sizes and times, so that a model is read once and not at every start.

    Args:
        files: of one model.

    Returns:
        SHA-256 in hex.

    Raises:
        KitError: a file that is not sound.
    """
    return once_for_files(_MEMO, files, lambda: _hash_of(files))


def _hash_of(files: Sequence[Path]) -> str:
    total_bytes = sum(path.stat().st_size for path in files)
    if total_bytes > _LARGE:
        print(f"Hashing {total_bytes / GB:.0f} GB of weights (once) ...", file=sys.stderr)
    tensors = [tensor for path in files for tensor in read_header(path)]
    total = hashlib.sha256()
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        total.update(f"{tensor.name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        with tensor.file.open("rb") as file:
            file.seek(tensor.start)
            for start in range(tensor.start, tensor.end, _BLOCK):
                size = min(_BLOCK, tensor.end - start)
                block = file.read(size)
                if len(block) < size:
                    raise KitError(f"{tensor.file} became shorter while it was read.")
                total.update(block)
    return total.hexdigest()
