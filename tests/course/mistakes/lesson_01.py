"""Typical mistakes of lesson 01: quantizing by hand."""

import torch


def int8(scale_of, finish=torch.round):
    def quantize(x):
        scale = scale_of(x)
        return finish(x / scale).to(torch.int8), scale

    return quantize


MISTAKES = {
    "01.1": [
        (int8(lambda x: x.abs().max() / 128), "128"),
        (int8(lambda x: x.max() / 127), "abs"),
        (int8(lambda x: x.abs().max() / 127, torch.trunc), "cut off"),
        (lambda x: torch.round(x), "two things"),
        (lambda x: print(end=""), "returns nothing"),
        (lambda x: (x.abs().max() / 127, torch.round(x)), "codes come first"),
        (lambda x: (torch.round(x), x.abs().max()), "divide it by 127"),
        (lambda x: (torch.round(x * 100), 127 / x.abs().max()), "upside down"),
    ],
    "01.2": [
        (lambda x, levels: torch.bucketize(x, levels), "midpoints"),
        (lambda x, levels: levels[(x[:, None] - levels).abs().argmin(1)], "index"),
        (lambda x, levels: torch.round((x + 1) * 7.5), "evenly"),
    ],
    "01.3": [
        (4.25, "without double"),
        (4.0625, "256"),
        (4.127, "blocks of 64"),
        (0.0635, "codes take"),
        (8.0, "Add 4 bits"),
    ],
}
