"""4-bit quantization by hand in plain torch, equal bit for bit to bitsandbytes.

    code = nearest level of x / absmax(block)        value = level[code] * absmax(block)

Absmax scaling, blocks, the NF4, FP4 and int4 levels, two codes a byte, and double quantization.
bitsandbytes does the work in training; this module is how one sees that nothing else happens.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch

from .. import KitError

QUANT_TYPES = ("nf4", "fp4", "int4")
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NESTED_BLOCK_SIZE = 256  # absmax values that share one statistic in double quantization

_PLACES = 65_536
_TINY = 1e-38  # stands in for the absmax of a block of zeros where it divides
_TAIL = 0.9677083  # the outermost quantile of NF4: the mean of 1 - 1/30 and 1 - 1/32, rounded


@dataclass(frozen=True)
class NestedStatistics:
    """What double quantization keeps to restore absmax from 8 bits.

    levels: (256,) fp32.   absmax: (blocks / 256,) fp32.   offset: the mean that was taken off.
    """

    levels: torch.Tensor
    absmax: torch.Tensor
    offset: torch.Tensor


@dataclass(frozen=True)
class Quantized4bit:
    """A tensor in 4 bits.

    packed: (ceil(n / 2),) uint8.   absmax: (ceil(n / block_size),) fp32, or uint8 codes of
    nested's levels where that is there.
    """

    packed: torch.Tensor
    absmax: torch.Tensor
    nested: NestedStatistics | None
    shape: torch.Size
    dtype: torch.dtype
    quant_type: str
    block_size: int

    @property
    def nbytes(self) -> int:
        """Bytes held, the 256 shared levels of double quantization left out."""
        extra = 0 if self.nested is None else 4 * (self.nested.absmax.numel() + 1)
        return self.packed.nbytes + self.absmax.nbytes + extra


def quantize_absmax(x: torch.Tensor, bits: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a tensor to whole numbers, one scale for all of it: the simplest quantization.

    Args:
        x: any shape.
        bits: 2 to 8; the numbers run from -(2^(bits-1) - 1) to the same positive.

    Returns:
        (codes int8 of x's shape, scale): x is about codes * scale.

    Raises:
        KitError: bits out of range, or values that are not finite.

    Source: QLoRA (arXiv 2305.14314), equation 1.
    """
    if not 2 <= bits <= 8:
        raise KitError(f"bits must be from 2 to 8, not {bits}.")
    _require_finite(x)
    largest = 2 ** (bits - 1) - 1
    scale = x.abs().max().float().clamp(min=_TINY) / largest
    return torch.round(x.float() / scale).to(torch.int8), scale


def nf4_levels() -> torch.Tensor:
    """The 16 NormalFloat levels: quantiles of a normal distribution, scaled to [-1, 1].

    Eight levels from the upper half and seven from the lower, evenly spaced in probability,
    and an exact zero between them.

    Returns:
        (16,) fp32, rising.

    Source: QLoRA (arXiv 2305.14314), section 3 and appendix E; equal to
    `bitsandbytes.functional.get_4bit_type("nf4")`.
    """
    quantile = NormalDist().inv_cdf
    upper = [quantile(p) for p in torch.linspace(_TAIL, 0.5, 9)[:-1].tolist()]
    lower = [-quantile(p) for p in torch.linspace(_TAIL, 0.5, 8)[:-1].tolist()]
    levels = torch.tensor(sorted([*lower, 0.0, *upper]))
    return levels / levels.max()


def fp4_levels() -> torch.Tensor:
    """The levels of a 4-bit float, (16,) in the order of bitsandbytes' codes, scaled to [-1, 1].

    Source: equal to `bitsandbytes.functional.get_4bit_type("fp4")`, whose exponents are stored
    as 1 -> 2^2 (times 2), 2 -> 2^1 and 3 -> 2^0 of the unit 2, and whose smallest is 1/16.
    """
    magnitudes = [0.0, 0.0625]
    for power in (8.0, 4.0, 2.0):
        magnitudes += [power, 1.5 * power]
    levels = torch.tensor(magnitudes + [-value for value in magnitudes])
    return levels / levels.abs().max()


def int4_levels() -> torch.Tensor:
    """Fifteen evenly spaced levels, -7/7 to 7/7, (15,) fp32; one code stays unused."""
    return torch.arange(-7, 8) / 7


def levels_of(quant_type: str) -> torch.Tensor:
    """The levels of "nf4", "fp4" or "int4", indexed by code."""
    makers = {"nf4": nf4_levels, "fp4": fp4_levels, "int4": int4_levels}
    if quant_type not in makers:
        raise KitError(f"quant_type must be one of {', '.join(QUANT_TYPES)}, not {quant_type!r}.")
    return makers[quant_type]()


def dynamic_levels() -> torch.Tensor:
    """The 256 levels of the dynamic 8-bit type: a sign, a moving exponent, the rest fraction.

    Returns:
        (256,) fp32, rising from about -0.99 to 1.

    Source: Dettmers 2015 (arXiv 1511.04561); equal to
    `bitsandbytes.functional.create_dynamic_map()`.
    """
    levels: list[float] = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        magnitudes = (10 ** (exponent - 6)) * (edges[:-1] + edges[1:]) / 2
        levels += magnitudes.tolist() + (-magnitudes).tolist()
    return torch.tensor(sorted(levels))


def quantize_4bit(
    x: torch.Tensor, quant_type: str = "nf4", block_size: int = 64, double_quant: bool = False
) -> Quantized4bit:
    """Quantize a tensor block by block to 4 bits.

    Args:
        x: any shape, fp32, fp16 or bf16; the blocks run over it row by row.
        quant_type: "nf4", "fp4" or "int4".
        block_size: values that share one absmax.
        double_quant: also quantize the absmax values, to 8 bits.

    Returns:
        The packed codes with their statistics.

    Raises:
        KitError: an unknown type or block size, an empty tensor, values that are not finite.

    Source: QLoRA (arXiv 2305.14314), section 3; equal to
    `bitsandbytes.functional.quantize_4bit` for NF4 and FP4.
    """
    levels = levels_of(quant_type).to(x.device)
    if block_size not in BLOCK_SIZES:
        raise KitError(f"block_size must be one of {BLOCK_SIZES}, not {block_size}.")
    _require_finite(x)
    scaled, absmax = _scale_blocks(x.reshape(-1).float(), block_size)
    if scaled.numel() % 2:
        scaled = torch.nn.functional.pad(scaled, (0, 1))  # half a byte is left: it holds a zero
    packed = _pack(_nearest(scaled, levels))
    nested = None
    if double_quant:
        absmax, nested = _nest(absmax)
    return Quantized4bit(packed, absmax, nested, x.shape, x.dtype, quant_type, block_size)


def dequantize_4bit(quantized: Quantized4bit) -> torch.Tensor:
    """The tensor that 4-bit codes stand for.

    Args:
        quantized: from `quantize_4bit`.

    Returns:
        A tensor of the original shape and dtype.

    Source: equal to `bitsandbytes.functional.dequantize_4bit`.
    """
    count = math.prod(quantized.shape)
    levels = levels_of(quantized.quant_type).to(quantized.packed.device)
    values = levels[_unpack(quantized.packed, count).long()]
    scale = block_absmax(quantized).repeat_interleave(quantized.block_size)[:count]
    return (values * scale).reshape(quantized.shape).to(quantized.dtype)


def block_absmax(quantized: Quantized4bit) -> torch.Tensor:
    """Each block's scale in fp32, restored from 8 bits where it was quantized too."""
    nested = quantized.nested
    if nested is None:
        return quantized.absmax
    scale = nested.absmax.repeat_interleave(NESTED_BLOCK_SIZE)[: quantized.absmax.numel()]
    return nested.levels[quantized.absmax.long()] * scale + nested.offset


def _pack(codes: torch.Tensor) -> torch.Tensor:
    """Two 4-bit codes a byte, the first in the high half.

    Args:
        codes: (n,) integers from 0 to 15, n even.

    Returns:
        (n / 2,) uint8.
    """
    if codes.numel() % 2:
        raise KitError(f"{codes.numel()} codes do not fill whole bytes; add one.")
    codes = codes.to(torch.uint8)
    return (codes[::2] << 4) | codes[1::2]


def _unpack(packed: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` codes back from the bytes of `_pack`."""
    return torch.stack([packed >> 4, packed & 0xF], dim=1).reshape(-1)[:count]


def bits_per_parameter(block_size: int = 64, double_quant: bool = True) -> float:
    """What one weight costs: its 4 bits and its share of the statistics.

    Args:
        block_size: values that share one absmax.
        double_quant: whether absmax is kept in 8 bits.

    Source: QLoRA (arXiv 2305.14314), section 3: 32/64 = 0.5 bit without double quantization,
    8/64 + 32/(64 * 256) = 0.127 with it.
    """
    if not double_quant:
        return 4 + 32 / block_size
    return 4 + 8 / block_size + 32 / (block_size * NESTED_BLOCK_SIZE)


def from_bitsandbytes(weight: Any) -> Quantized4bit:
    """A bitsandbytes 4-bit weight in this module's form, sharing its memory.

    Args:
        weight: a `Params4bit` that is quantized, as a `Linear4bit` holds it.

    Raises:
        KitError: a weight that is not quantized to 4 bits.
    """
    state = getattr(weight, "quant_state", None)
    if state is None or state.quant_type not in QUANT_TYPES:
        raise KitError(
            "This weight is not in 4 bits. bitsandbytes quantizes on moving to a device."
        )
    nested = None
    if state.nested:
        nested = NestedStatistics(state.state2.code, state.state2.absmax, state.offset)
    return Quantized4bit(
        packed=weight.data.reshape(-1),
        absmax=state.absmax,
        nested=nested,
        shape=torch.Size(state.shape),
        dtype=state.dtype,
        quant_type=state.quant_type,
        block_size=state.blocksize,
    )


@contextmanager
def rounded(model: Any, quant_type: str, block_size: int = 64) -> Iterator[int]:
    """Inside, a model's linear layers hold the values that 4 bits leave of them.

    The head keeps its own, as in QLoRA. Products run in the model's dtype, so what differs is
    the rounding alone; int4, which bitsandbytes does not have, can be measured like the others.

    Args:
        model: with weights in 16 or 32 bits; they are put back on leaving.
        quant_type: "nf4", "fp4" or "int4".
        block_size: values that share one absmax.

    Yields:
        How many weights were rounded.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layers = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    originals = [layer.weight.data for layer in layers]
    try:
        for layer in layers:
            layer.weight.data = dequantize_4bit(
                quantize_4bit(layer.weight.data, quant_type, block_size)
            )
        yield sum(weight.numel() for weight in originals)
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.weight.data = original


def _scale_blocks(flat: torch.Tensor, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each block over its absmax.

    A whole block is multiplied by 1 / absmax, a last short one divided: the two round
    differently in the last bit, and bitsandbytes does just this.
    """
    whole = flat.numel() - flat.numel() % block_size
    blocks = flat[:whole].reshape(-1, block_size)
    absmax = blocks.abs().amax(dim=1) if whole else flat.new_empty(0)
    scaled = (blocks * (1.0 / absmax.clamp(min=_TINY))[:, None]).reshape(-1)
    if whole < flat.numel():
        last = flat[whole:].abs().max().clamp(min=_TINY)
        absmax = torch.cat([absmax, last[None]])
        scaled = torch.cat([scaled, flat[whole:] / last])
    return scaled.clamp(-1, 1), absmax


def _nearest(scaled: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The code of the level nearest to each value: how many midpoints lie below it."""
    order = torch.argsort(levels)
    rising = levels[order]
    return order[torch.bucketize(scaled, (rising[:-1] + rising[1:]) / 2)]


def _nest(absmax: torch.Tensor) -> tuple[torch.Tensor, NestedStatistics]:
    """Double quantization: absmax minus its mean, to 8 bits in blocks of 256.

    bitsandbytes finds these codes in a table of 65,536 places from -1 to 1 on a CPU, so a value
    very near a border may take the farther level; that is done alike here. A block without any
    spread gets code 0 throughout.
    """
    offset, levels = absmax.mean(), dynamic_levels().to(absmax.device)
    blocks = (absmax - offset).split(NESTED_BLOCK_SIZE)
    outer = torch.stack([block.abs().max() for block in blocks])
    scaled = torch.cat([b * (1 / m) for b, m in zip(blocks, outer, strict=True)]).clamp(-1, 1)
    place = ((scaled + 1) * 0.5 * (_PLACES - 1) + 0.5).floor()
    codes = _nearest(-1 + 2 * place / (_PLACES - 1), levels)
    flat = (outer == 0).repeat_interleave(NESTED_BLOCK_SIZE)[: len(absmax)]
    return codes.masked_fill(flat, 0).to(torch.uint8), NestedStatistics(levels, outer, offset)


def _require_finite(x: torch.Tensor) -> None:
    if not x.is_floating_point() or not x.numel():
        raise KitError(f"A tensor of floats is needed, not {x.dtype} of shape {tuple(x.shape)}.")
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise KitError(
            f"{bad} of {x.numel()} values are infinite or NaN. A block's scale is its largest "
            "value, so one of them would ruin its whole block: mend or drop them first."
        )
