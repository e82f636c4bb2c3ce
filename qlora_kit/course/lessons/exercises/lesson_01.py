"""Checks of lesson 01: absmax, nearest levels, bits."""

from typing import Any

import torch

from ....from_scratch import bits_per_parameter, nf4_levels
from ..checking import Hint, call, near, number


def absmax_int8(answer: Any) -> str:
    """01.1: a function from a tensor to (codes, scale), 8 bits, 127 at the largest."""
    x = torch.tensor([0.30, -1.27, 0.0, 0.999, -0.006])
    result = call(answer, x.clone())
    if not isinstance(result, tuple) or len(result) != 2:
        raise Hint("Return two things: the codes and the scale.")
    if torch.as_tensor(result[0]).numel() == 1 < torch.as_tensor(result[1]).numel():
        raise Hint("The codes come first, then the scale.")
    codes, scale = torch.as_tensor(result[0]).float(), number(result[1])
    if near(scale, 127 / 1.27) or near(scale, 128 / 1.27):
        raise Hint("Your scale is upside down: x is about codes * scale.")
    if near(scale, 0.999 / 127):
        raise Hint("The largest value counts without its sign: take abs() before max().")
    if near(scale, 1.27 / 128, 1e-4):
        raise Hint("128 does not fit into int8 (-128 to 127): let the largest become 127.")
    if near(scale, 1.27):
        raise Hint("Your scale is the largest magnitude itself: divide it by 127.")
    if not near(scale, 1.27 / 127, 1e-4):
        raise Hint(f"The scale of the test values should be 0.01, yours is {scale:.4g}.")
    if torch.equal(codes, torch.trunc(x / 0.01)) and not torch.equal(codes, torch.round(x / 0.01)):
        raise Hint("Your codes are cut off, not rounded: use torch.round before the cast.")
    if not torch.equal(codes, torch.round(x / 0.01)):
        raise Hint(f"The codes should be 30, -127, 0, 100, -1; yours are {codes.tolist()}.")
    return "The largest value sets the scale for all: blocks keep an outlier from ruining the rest."


def nearest_code(answer: Any) -> str:
    """01.2: a function from values in [-1, 1] and rising levels to codes."""
    levels = nf4_levels()
    x = torch.tensor([-1.0, -0.87, -0.83, 0.03, 0.05, 0.99, 0.5])
    codes = torch.as_tensor(call(answer, x.clone(), levels.clone())).float()
    right = (x[:, None] - levels).abs().argmin(dim=1).float()
    if codes.shape != right.shape:
        raise Hint(f"One code for each value: expected shape (7,), got {tuple(codes.shape)}.")
    if torch.allclose(codes, levels[right.long()]):
        raise Hint("Those are the levels' values; what is stored is their index, 0 to 15.")
    if torch.equal(codes, torch.bucketize(x, levels).float()):
        raise Hint("bucketize with the levels rounds up; the borders are the midpoints between.")
    if torch.equal(codes, torch.round((x + 1) * 7.5)):
        raise Hint("That spaces the levels evenly; NF4's are closer together near zero.")
    if not torch.equal(codes, right):
        wrong = int((codes != right).sum())
        raise Hint(f"{wrong} of 7 codes are not the nearest level's.")
    return "Between the two scalings NF4 is a lookup table: the code is the nearest level's index."


def double_quant_bits(answer: Any) -> str:
    """01.3: bits a weight with blocks of 128 and double quantization."""
    given, right = number(answer), bits_per_parameter(128, True)
    if near(given, 4 + 32 / 128, 1e-5):
        raise Hint("That is without double quantization: each block's scale is 8 bits now.")
    if near(given, 4 + 8 / 128, 1e-5):
        raise Hint("Almost: 256 of the 8-bit scales share one scale of 32 bits.")
    if near(given, right - 4, 1e-3):
        raise Hint("That is the overhead alone; the codes take 4 bits more.")
    if near(given, bits_per_parameter(64, True), 1e-4):
        raise Hint("That is for blocks of 64; the question has blocks of 128.")
    if not near(given, right, 1.5e-4):
        raise Hint("Add 4 bits, 8 bits for each block of 128, 32 bits for each 256 blocks.")
    return "Doubling the block halves the overhead; the error grows a little, as you measured."


CHECKS = {"01.1": absmax_int8, "01.2": nearest_code, "01.3": double_quant_bits}
