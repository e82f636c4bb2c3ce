"""Checks of lesson 08: a dose, a contradiction, and what the audit shows of lone wrong labels."""

from typing import Any

from ..checking import Hint, call, choice, expect, refuse, require


def dose(answer: Any) -> str:
    """08.1: one of five labelers, equally busy, gets 30 % wrong: the share of wrong rows."""
    mistakes = {
        0.3: "That is the share of her own rows; the others' rows are in the set, too.",
        0.2: "That is the share of rows that she filed; not all of them are wrong.",
        6: "That is in percent; the share lies from 0 to 1.",
        1.5: "Four labelers make no mistakes: multiply her share by a fifth, not by five.",
    }
    expect(
        answer,
        0.06,
        mistakes,
        "Her rows are a fifth of the set, and 30 % of those are wrong.",
    )
    return "One careless hand in five: the curve above says what about such a dose does."


def contradicting(answer: Any) -> str:
    """08.2: a function of (question, answer) rows -> numbers of rows that contradict earlier."""
    rows = [("a", "x"), ("b", "y"), ("a", "x"), ("a", "z"), ("c", "x"), ("b", "w"), ("b", "w")]
    result = call(answer, rows)
    try:
        numbers = sorted(result)
    except TypeError:
        raise Hint("The answer is a list of row numbers.") from None
    mistakes = {
        (3, 5, 6): "Those are the right rows counted from 0; people count rows from 1.",
        (3, 4, 6, 7): "Row 3 repeats row 1 with the same answer: a copy, no contradiction.",
        (1, 2, 3, 4, 6, 7): "Name the rows that come after another answer; the first of each was "
        "alone.",
        (4, 6): "Row 7 is a copy of row 6, but row 2 said something else before both.",
    }
    refuse(tuple(numbers), mistakes)
    require(
        numbers == [4, 6, 7],
        f"For the check's seven rows it should be [4, 6, 7]; yours gives {numbers}.",
    )
    between = call(answer, [("a", "x"), ("a", "z"), ("a", "x")])
    require(
        sorted(between) == [2, 3],
        "The last of x, z, x repeats the first, and contradicts the one between.",
    )
    return "The kit's audit does this for questions that are only nearly the same, too."


# 08.3: what the audit shows of wrong labels that stand alone and are spread evenly.
shown = choice(
    right="none",
    wrong={
        "contradiction": "That takes the same ticket twice; each of these stands in the file once.",
        "skew": "That takes a group that has one label too often; these are spread over both.",
    },
    words='"contradiction", "skew" or "none"',
    reason="Let two people label the same rows: where they disagree, the audit can see it.",
)

CHECKS = {"08.1": dose, "08.2": contradicting, "08.3": shown}
