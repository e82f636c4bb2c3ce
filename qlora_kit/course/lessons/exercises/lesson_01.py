"""Checks of lesson 01: absmax, nearest levels, bits."""

from typing import Any

import torch

from ....from_scratch import bits_per_parameter, nf4_levels
from ..checking import call, near, number, refuse, require


def absmax_int8(answer: Any) -> str:
    """01.1: a function from a tensor to (codes, scale), 8 bits, 127 at the largest."""
    x = torch.tensor([0.30, -1.27, 0.0, 0.999, -0.006])
    result = call(answer, x.clone())
    require(
        isinstance(result, tuple) and len(result) == 2,
        "Return two things: the codes and the scale.",
    )
    sizes = [torch.as_tensor(part).numel() for part in result]
    require(not sizes[0] == 1 < sizes[1], "The codes come first, then the scale.")
    codes, scale = torch.as_tensor(result[0]).float(), number(result[1])
    upside_down = "Your scale is upside down: x is about codes * scale."
    refuse(scale, {127 / 1.27: upside_down, 128 / 1.27: upside_down})
    refuse(
        scale,
        {0.999 / 127: "The largest value counts without its sign: take abs() before max()."},
    )
    refuse(
        scale,
        {1.27 / 128: "128 does not fit into int8 (-128 to 127): let the largest become 127."},
        tolerance=1e-4,
    )
    refuse(scale, {1.27: "Your scale is the largest magnitude itself: divide it by 127."})
    require(
        near(scale, 1.27 / 127, 1e-4),
        f"The scale of the test values should be 0.01, yours is {scale:.4g}.",
    )
    rounded = torch.equal(codes, torch.round(x / 0.01))
    require(
        rounded or not torch.equal(codes, torch.trunc(x / 0.01)),
        "Your codes are cut off, not rounded: use torch.round before the cast.",
    )
    require(rounded, f"The codes should be 30, -127, 0, 100, -1; yours are {codes.tolist()}.")
    return "The largest value sets the scale for all: blocks keep an outlier from ruining the rest."


def nearest_code(answer: Any) -> str:
    """01.2: a function from values in [-1, 1] and rising levels to codes."""
    levels = nf4_levels()
    x = torch.tensor([-1.0, -0.87, -0.83, 0.03, 0.05, 0.99, 0.5])
    codes = torch.as_tensor(call(answer, x.clone(), levels.clone())).float()
    right = (x[:, None] - levels).abs().argmin(dim=1).float()
    require(
        codes.shape == right.shape,
        f"One code for each value: expected shape (7,), got {tuple(codes.shape)}.",
    )
    require(
        not torch.allclose(codes, levels[right.long()]),
        "Those are the levels' values; what is stored is their index, 0 to 15.",
    )
    require(
        not torch.equal(codes, torch.bucketize(x, levels).float()),
        "bucketize with the levels rounds up; the borders are the midpoints between.",
    )
    require(
        not torch.equal(codes, torch.round((x + 1) * 7.5)),
        "That spaces the levels evenly; NF4's are closer together near zero.",
    )
    wrong = int((codes != right).sum())
    require(not wrong, f"{wrong} of 7 codes are not the nearest level's.")
    return "Between the two scalings NF4 is a lookup table: the code is the nearest level's index."


def double_quant_bits(answer: Any) -> str:
    """01.3: bits a weight with blocks of 128 and double quantization."""
    right = bits_per_parameter(128, True)
    without = "That is without double quantization: each block's scale is 8 bits now."
    almost = "Almost: 256 of the 8-bit scales share one scale of 32 bits."
    refuse(answer, {4 + 32 / 128: without, 4 + 8 / 128: almost}, tolerance=1e-5)
    refuse(answer, {right - 4: "That is the overhead alone; the codes take 4 bits more."}, 1e-3)
    smaller = bits_per_parameter(64, True)
    refuse(answer, {smaller: "That is for blocks of 64; the question has blocks of 128."}, 1e-4)
    require(
        near(answer, right, 1.5e-4),
        "Add 4 bits, 8 bits for each block of 128, 32 bits for each 256 blocks.",
    )
    return "Doubling the block halves the overhead; the error grows a little, as you measured."


CHECKS = {"01.1": absmax_int8, "01.2": nearest_code, "01.3": double_quant_bits}
