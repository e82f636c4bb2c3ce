"""Solutions of lesson 01; copy a function into the notebook's stub."""

import torch


# Exercise 01.1: the largest magnitude becomes 127
def absmax_int8(x):
    scale = x.abs().max() / 127
    return torch.round(x / scale).to(torch.int8), scale


# Exercise 01.2: count the midpoints below each value
def nearest_code(x, levels):
    midpoints = (levels[:-1] + levels[1:]) / 2
    return torch.bucketize(x, midpoints)


# Exercise 01.3: the code, its share of an 8-bit scale, and of the scale's own scale
bits = 4 + 8 / 128 + 32 / (128 * 256)

ANSWERS = {"01.1": absmax_int8, "01.2": nearest_code, "01.3": bits}
