"""Checks of lesson 09: the bytes of q4_0, a percentile, and what to bring to a laptop."""

from typing import Any

from ..checking import call, choice, expect, near, number, refuse, require


def gigabytes(answer: Any) -> str:
    """09.1: GB of 7 billion weights in q4_0, whose blocks of 32 share a scale of 16 bits."""
    mistakes = {
        3.5: "That is 4 bits for each weight; each block has a scale, too.",
        31.5: "Those are gigabits; a byte has eight of them.",
        17.5: "A block has one scale, not each weight its own.",
        4.375: "The scale has 16 bits, not 32: half a bit for each weight of the block.",
        14: "That is 16 bits for each weight, as in f16.",
        3.9375e9: "Those are bytes; a gigabyte is a billion of them.",
    }
    refuse(answer, mistakes, tolerance=0.002)
    require(
        near(answer, 3.9375),
        "A block of 32 takes 32 x 4 + 16 bits; how many is that for one weight?",
    )
    return "Files come out a little larger: embeddings and norms keep more bits."


def percentile(answer: Any) -> str:
    """09.2: a function (values, share) -> the smallest value that the share does not exceed."""
    values = [9.0, 1.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0, 5.0, 40.0]
    median = number(call(answer, values, 0.5))
    unsorted = "The values come in any order: sort them first."
    mistakes = {
        3.0: unsorted,
        7.0: unsorted,
        6.0: "One too far: five of ten values do not exceed 5.0. Python counts from 0.",
        8.5: "That is the mean of all; it is what a percentile is there to replace.",
        5.5: "That lies between two values; the percentile here is always one of them.",
    }
    expect(
        median,
        5.0,
        mistakes,
        f"Half of the check's ten values do not exceed 5.0; yours gives {median:g}.",
        tolerance=1e-6,
    )
    p95 = number(call(answer, values, 0.95))
    rank = "Nine of ten are only 90 %; for 95 % the rank must be rounded up."
    expect(
        p95,
        40.0,
        {9.0: rank},
        f"Of ten values the 95th percentile is the largest, 40; yours gives {p95:g}.",
        tolerance=1e-6,
    )
    require(
        near(call(answer, values, 1.0), 40.0, 1e-6),
        "A share of 1 means all of them: the largest value.",
    )
    return "With few requests p95 is simply the worst one: ask often before you trust it."


_MERGED = "Each is a whole model in 16 bits, for GPU servers and Python. Think smaller."
_FILES = "Each holds the whole model again: five do not fit in memory side by side."
# 09.3: five voices by request on a laptop that holds two models at most.
artifact = choice(
    right="a gguf base and five adapters",
    wrong={"merged safetensors": _MERGED, "five gguf files": _FILES},
    words='"merged safetensors", "five GGUF files" or "a GGUF base and five adapters"',
    reason="The base is in memory once, and a sixth voice costs only its adapter.",
)

CHECKS = {"09.1": gigabytes, "09.2": percentile, "09.3": artifact}
