"""A GGUF file's header, read with every number checked, before any library trusts it.

A damaged count would have a reader loop for hours or ask for all memory; a damaged offset would
give wrong weights in silence. `gguf.GGUFReader` checks neither, and takes 1.7 seconds for the
49,152 tokens of the bundled model where this takes 0.07. Source: the GGUF specification (ggml,
docs/gguf.md).
"""

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import KitError

_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS = dict(zip((*range(8), 10, 11, 12), "BbHhIifBQqd", strict=True))  # codes of `struct`
_SMALLEST_PAIR, _SMALLEST_TENSOR = 13, 24  # bytes
_ALIGNMENT = 32
_DIMENSIONS = 4


@dataclass(frozen=True)
class GgufTensor:
    """shape: as in the file, the fastest dimension first. start, end: bytes of the file."""

    name: str
    type: int
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class GgufHeader:
    """metadata: key to value; tensors in the order of their bytes."""

    path: Path
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]

    @property
    def architecture(self) -> str:
        """The family, for example "llama", with which the keys of its sizes begin."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor to its shape, the fastest dimension first."""
        return {tensor.name: tensor.shape for tensor in self.tensors}


def read_gguf_header(path: str | Path, sizes: bool = True) -> GgufHeader:
    """Read the header of a GGUF file and check it against the file.

    Args:
        path: the file.
        sizes: also compare the model's sizes with its tensors, as a conversion needs it;
            llama.cpp does that by itself, for more architectures.

    Raises:
        KitError: no file, not a GGUF file, or one that is cut off or damaged.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "is not there"
        raise KitError(f"{path} {what}. A GGUF file is wanted; 'qlora-kit export' writes one.")
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise KitError(
                    f"{path} is not a GGUF file (it does not begin with the bytes 'GGUF')."
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header = GgufHeader(path, *_Reader(data).contents())
        if sizes:
            _require_sizes(header)
    except (OSError, ValueError, struct.error) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise KitError(
            f"{path} is not a sound GGUF file: {reason}. It was cut off or damaged: download it "
            "again, or use the model's safetensors."
        ) from problem
    return header


def _require(sound: bool, reason: str) -> None:
    if not sound:
        raise ValueError(reason)


class _Reader:
    """Walks over the bytes; nothing is read that does not lie inside the file."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at, self.size = data, 4, len(data)

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise ValueError(f"it ends before byte {self.at + count:,}")
        self.at += count
        return self.data[self.at - count : self.at]

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        raw = self.take(count * struct.calcsize(f"<{code}"))
        return struct.unpack(f"<{count}{code}", raw)

    def number(self, code: str) -> Any:
        return self.numbers(code, 1)[0]

    def count(self, smallest: int, what: str) -> int:
        """A number of things that each take at least `smallest` bytes of what is left."""
        count = self.number("Q")
        _require(count * smallest <= self.size - self.at, f"it cannot hold {count:,} {what}")
        return int(count)

    def text(self, errors: str = "strict") -> str:
        return self.take(self.number("Q")).decode("utf-8", errors)

    def contents(self) -> tuple[dict[str, Any], tuple[GgufTensor, ...]]:
        version = self.number("I")
        _require(version in (2, 3), f"its version is {version}, not 2 or 3 (little-endian)")
        tensors = self.count(_SMALLEST_TENSOR, "tensors")
        metadata: dict[str, Any] = {}
        for _ in range(self.count(_SMALLEST_PAIR, "metadata")):
            key = self.text()
            _require(key not in metadata, f"the key {key[:60]!r} stands in it twice")
            metadata[key] = self.value(self.number("I"))
        return metadata, tuple(self.tensors(tensors, metadata.get("general.alignment", _ALIGNMENT)))

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text("replace")  # tokens may be parts of a character
        if kind == _ARRAY:
            inner = self.number("I")
            if inner == _STRING:
                return [self.text("replace") for _ in range(self.count(8, "texts"))]
            return list(self.values(inner, self.number("Q")))
        return self.values(kind, 1)[0]

    def values(self, kind: int, count: int) -> tuple[Any, ...]:
        _require(kind in _SCALARS, f"its metadata have a value of the unknown type {kind}")
        values = self.numbers(_SCALARS[kind], count)
        if kind != _BOOL:
            return values
        _require(set(values) <= {0, 1}, "a flag in it is neither 0 nor 1")
        return tuple(map(bool, values))

    def tensors(self, count: int, alignment: Any) -> Iterator[GgufTensor]:
        from gguf.constants import GGML_QUANT_SIZES

        sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
        power_of_two = type(alignment) is int and alignment.bit_count() == 1 and alignment > 0
        _require(power_of_two, f"its alignment is {alignment!r}, no power of two")
        rows = [self.tensor() for _ in range(count)]
        _require(len({row.name for row in rows}) == count, "two tensors have one name")
        start, at = -(-self.at // alignment) * alignment, 0
        for row in sorted(rows, key=lambda row: row.start):
            name = repr(row.name[:60])
            _require(row.type in sizes, f"{name} is of the unknown type {row.type}")
            block, width = sizes[row.type]
            elements = math.prod(row.shape)
            fits = elements > 0 and row.shape[0] % block == 0
            _require(fits, f"{name} has the shape {row.shape}, which its type cannot have")
            _require(row.start == at, f"{name} does not begin where the one before it ends")
            end = at + elements // block * width
            _require(start + end <= self.size, f"{name} ends after the file does")
            yield replace(row, start=start + at, end=start + end)
            at = -(-end // alignment) * alignment
        _require(start + at >= self.size - alignment, "bytes follow that belong to no tensor")

    def tensor(self) -> GgufTensor:
        """As the file describes it: `start` is from the end of the header, `end` is unknown."""
        name, dimensions = self.text(), self.number("I")
        _require(1 <= dimensions <= _DIMENSIONS, f"{name[:60]!r} has {dimensions} dimensions")
        shape = self.numbers("Q", dimensions)
        return GgufTensor(name, self.number("I"), shape, start=self.number("Q"), end=0)


def _require_sizes(header: GgufHeader) -> None:
    """What the metadata say of the model's size must be what its tensors are."""
    kind, shapes = header.architecture, header.shapes
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blk.")}
    embedding = shapes.get("token_embd.weight", ())
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    actual = {
        f"{kind}.block_count": len(blocks) or None,
        f"{kind}.embedding_length": embedding[0] if embedding else None,
        f"{kind}.feed_forward_length": shapes.get("blk.0.ffn_up.weight", (0, None))[1],
        f"{kind}.vocab_size": embedding[1] if len(embedding) > 1 else None,
    }
    for key, size in actual.items():
        stated = header.metadata.get(key, size)
        if size is not None and type(stated) is int:
            reason = f"it says that {key} is {stated:,}, and its tensors that it is {size:,}"
            _require(stated == size, reason)
    if "blk.0.attn_q.weight" in shapes:
        _require_attention(header.metadata, f"{kind}.attention", shapes)
    if tokens is not None and len(embedding) > 1:
        reason = f"it has {len(tokens):,} tokens and embeddings for {embedding[1]:,}"
        _require(len(tokens) <= embedding[1], reason)


def _require_attention(
    metadata: dict[str, Any], kind: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    """A key that is lost would be replaced by a default, and the model would babble."""
    heads, epsilon = metadata.get(f"{kind}.head_count"), f"{kind}.layer_norm_rms_epsilon"
    stated = heads is not None and {epsilon, f"{kind}.layer_norm_epsilon"} & set(metadata)
    _require(bool(stated), f"{kind}.head_count or {epsilon} is not in it")
    value = metadata.get(epsilon, 1e-5)
    _require(0 < value < 0.1, f"its {epsilon} is {value}")
    if type(heads) is not int:  # a list: each layer has a number of its own
        return
    inputs, outputs = shapes["blk.0.attn_q.weight"][:2]
    width = metadata.get(f"{kind}.key_length", inputs // heads if heads else 0)
    keys = shapes.get("blk.0.attn_k.weight", (0, outputs))[1]
    for count, rows in ((heads, outputs), (metadata.get(f"{kind}.head_count_kv", heads), keys)):
        sound = type(count) is not int or count * width == rows
        _require(sound, f"it says {count} heads of {width}, and its tensors have {rows} rows")
