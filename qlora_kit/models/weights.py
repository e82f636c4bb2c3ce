"""What safetensors files hold, read without loading them: names, shapes, and one hash of it all."""

import hashlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import GB, cache_home, is_settled, state, write_text

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
_LONGEST_HEADER = 100_000_000  # the format's own limit, in bytes
_INDEX = "model.safetensors.index.json"
_CACHE = "fingerprints.json"
_LARGE = 4 * GB  # takes some seconds
_CACHED = 1000  # fingerprints kept


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
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(_LONGEST_HEADER, size - 8):
                raise ValueError("its header does not fit in it")
            header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        header.pop("__metadata__", None)
        tensors = [_tensor(path, name, entry, 8 + length) for name, entry in header.items()]
        tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
        at = 8 + length
        for tensor in tensors:
            if tensor.start != at:
                raise ValueError(f"{tensor.name!r} does not begin where the one before it ends")
            at = tensor.end
        if at != size:
            raise ValueError(f"it has {size} bytes where its header tells of {at}")
    except (OSError, ValueError, RecursionError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise KitError(
            f"{path} is not a sound safetensors file: {reason}. It was cut off or damaged: copy or "
            "download it again."
        ) from problem
    return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in its header twice")
    return found


def _tensor(path: Path, name: str, entry: Any, base: int) -> Tensor:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{name!r} has no dtype, shape and offsets") from None
    numbers = [*shape, start, end] if isinstance(shape, list) else [None]
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or len(shape) > 64:
        raise ValueError(f"{name!r} has a shape or offsets that are no whole numbers")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"{name!r} has the unknown dtype {str(dtype)[:20]!r}")
    if end - start != math.prod(shape) * _BITS[dtype] / 8:
        raise ValueError(f"{name!r} has more or fewer bytes than its shape says")
    return Tensor(name, dtype, tuple(shape), path, base + start, base + end)


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
            named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            names = sorted(set(named))
            if not all(Path(name).name == name for name in names):
                raise ValueError("it names files elsewhere")
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
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


def fingerprint(files: list[Path]) -> str:
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
    states = [state(path) for path in files]
    key = hashlib.sha256(repr(states).encode()).hexdigest()
    known = _remembered()
    if key in known:
        return known[key]
    size = sum(seen[1] for seen in states)
    if size > _LARGE:
        print(f"Hashing {size / GB:.0f} GB of weights (once) ...", file=sys.stderr)
    tensors = sorted((t for path in files for t in read_header(path)), key=lambda t: t.name)
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        with tensor.file.open("rb") as file:
            file.seek(tensor.start)
            left = tensor.end - tensor.start
            while left:
                block = file.read(min(left, 1 << 22))
                if not block:
                    raise KitError(f"{tensor.file} became shorter while it was read.")
                total.update(block)
                left -= len(block)
    if all(map(is_settled, states)):
        _remember(known | {key: total.hexdigest()})
    return total.hexdigest()


def _remembered() -> dict[str, str]:
    try:
        known = json.loads((cache_home() / _CACHE).read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in known.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _remember(known: dict[str, str]) -> None:
    try:
        cache_home().mkdir(parents=True, exist_ok=True)
        write_text(cache_home() / _CACHE, json.dumps(dict(list(known.items())[-_CACHED:])))
    except OSError:  # a cache that cannot be kept costs seconds, nothing else
        return
