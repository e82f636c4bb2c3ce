"""Checks of lesson 07: McNemar's p-value, a paired standard error, and a conclusion."""

import math
from typing import Any

from ..checking import Hint, call, near, number


def p_value(answer: Any) -> str:
    """07.1: a function (b, c) -> McNemar's exact two-sided p-value."""
    given = number(call(answer, 9, 2))
    tail = sum(math.comb(11, k) for k in range(3)) / 2**11
    for value, hint in (
        (tail, "That is one side. Equal models could as well fall to the other: double it."),
        (2 * math.comb(11, 2) / 2**11, "That is exactly 2 of 11; add the more uneven falls, 1, 0."),
        (2 * sum(math.comb(11, k) for k in range(2)) / 2**11,
         "The fall that was seen counts, too: sum up to and with the smaller of the two."),
        (math.comb(11, 2) / 2**11, "That is the chance of exactly this fall, on one side."),
        (1 - 2 * tail, "That is the chance to be more even; the p-value is the rest."),
    ):  # fmt: skip
        if near(given, value, 1e-6):
            raise Hint(hint)
    if not near(given, 2 * tail, 1e-6):
        raise Hint(f"For 9 and 2 it should be {2 * tail:.4f}; yours gives {given:.4f}.")
    if not near(call(answer, 2, 9), 2 * tail, 1e-6):
        raise Hint("It must not matter which model is named first: use the smaller of b and c.")
    if number(call(answer, 3, 3)) > 1:
        raise Hint("For an even split doubling counts the middle twice: a p-value ends at 1.")
    if not all(near(call(answer, even, even), 1) for even in (0, 3)):
        raise Hint("Every other split is as uneven as half and half or more: there it is 1.")
    return "Tickets that both or neither got right do not enter: they say nothing about a gap."


def standard_error(answer: Any) -> str:
    """07.2: a function of two lists of scores -> the standard error of their paired difference."""
    first, second = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    given = number(call(answer, first, second))
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    wanted = _spread(gaps, 1) / math.sqrt(6)
    unpaired = math.sqrt((_spread(first, 1) ** 2 + _spread(second, 1) ** 2) / 6)
    for value, hint in (
        (_spread(gaps, 1), "That is the spread of one difference; divide by the root of n."),
        (_spread(gaps, 0) / math.sqrt(6), "For a sample divide the squares by n - 1, not by n."),
        (
            unpaired,
            "That treats the two as strangers. Take the differences first: they are paired.",
        ),
        (_spread(gaps, 1) / 6, "The spread shrinks with the root of n, not with n."),
        (_spread(gaps, 1) ** 2 / 6, "That is the variance of the mean; take its root."),
    ):
        if near(given, value, 1e-6):
            raise Hint(hint)
    if not near(given, wanted, 1e-6):
        raise Hint(f"For the check's six questions it is {wanted:.4f}; yours gives {given:.4f}.")
    return "Twice this on either side is nearly the bootstrap's interval, when questions are many."


def _spread(values: list[float], lost: int) -> float:
    middle = sum(values) / len(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - lost))


def conclusion(answer: Any) -> str:
    """07.3: what -0.5 points [-3.1, +2.1] say where a loss of two points would matter."""
    given = str(answer).strip().lower().rstrip(".")
    if given == "no loss that matters":
        raise Hint("For that the whole interval must lie above -2 points; where does it begin?")
    if given == "a loss that matters":
        raise Hint("For that the whole interval must lie below -2 points; where does it end?")
    if given != "cannot tell":
        raise Hint('Answer with "no loss that matters", "a loss that matters" or "cannot tell".')
    return "More questions would make it narrower. 'Not seen' and 'not there' are two things."


CHECKS = {"07.1": p_value, "07.2": standard_error, "07.3": conclusion}
