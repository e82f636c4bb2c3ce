"""Checks of lesson 07: McNemar's p-value, a paired standard error, and a conclusion."""

import math
from statistics import pstdev, stdev, variance
from typing import Any

from ..checking import call, choice, expect, near, number, require


def p_value(answer: Any) -> str:
    """07.1: a function (b, c) -> McNemar's exact two-sided p-value."""
    p = number(call(answer, 9, 2))
    falls = [math.comb(11, k) / 2**11 for k in range(3)]
    tail = sum(falls)
    mistakes = {
        tail: "That is one side. Equal models could as well fall to the other: double it.",
        2 * falls[2]: "That is exactly 2 of 11; add the more uneven falls, 1, 0.",
        2 * sum(falls[:2]): "The fall that was seen counts, too: sum up to and with the smaller "
        "of the two.",
        falls[2]: "That is the chance of exactly this fall, on one side.",
        1 - 2 * tail: "That is the chance to be more even; the p-value is the rest.",
    }
    expect(
        p,
        2 * tail,
        mistakes,
        f"For 9 and 2 it should be {2 * tail:.4f}; yours gives {p:.4f}.",
        tolerance=1e-6,
    )
    require(
        near(call(answer, 2, 9), 2 * tail, 1e-6),
        "It must not matter which model is named first: use the smaller of b and c.",
    )
    require(
        number(call(answer, 3, 3)) <= 1,
        "For an even split doubling counts the middle twice: a p-value ends at 1.",
    )
    require(
        all(near(call(answer, even, even), 1) for even in (0, 3)),
        "Every other split is as uneven as half and half or more: there it is 1.",
    )
    return "Tickets that both or neither got right do not enter: they say nothing about a gap."


def standard_error(answer: Any) -> str:
    """07.2: a function of two lists of scores -> the standard error of their paired difference."""
    first, second = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    error = number(call(answer, first, second))
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    right = stdev(gaps) / math.sqrt(6)
    unpaired = math.sqrt((variance(first) + variance(second)) / 6)
    mistakes = {
        stdev(gaps): "That is the spread of one difference; divide by the root of n.",
        pstdev(gaps) / math.sqrt(6): "For a sample divide the squares by n - 1, not by n.",
        unpaired: "That treats the two as strangers. Take the differences first: they are paired.",
        stdev(gaps) / 6: "The spread shrinks with the root of n, not with n.",
        variance(gaps) / 6: "That is the variance of the mean; take its root.",
    }
    expect(
        error,
        right,
        mistakes,
        f"For the check's six questions it is {right:.4f}; yours gives {error:.4f}.",
        tolerance=1e-6,
    )
    return "Twice this on either side is nearly the bootstrap's interval, when questions are many."


_ABOVE = "For that the whole interval must lie above -2 points; where does it begin?"
_BELOW = "For that the whole interval must lie below -2 points; where does it end?"
# 07.3: what -0.5 points [-3.1, +2.1] say where a loss of two points would matter.
conclusion = choice(
    right="cannot tell",
    wrong={"no loss that matters": _ABOVE, "a loss that matters": _BELOW},
    words='"no loss that matters", "a loss that matters" or "cannot tell"',
    reason="More questions would make it narrower. 'Not seen' and 'not there' are two things.",
)

CHECKS = {"07.1": p_value, "07.2": standard_error, "07.3": conclusion}
