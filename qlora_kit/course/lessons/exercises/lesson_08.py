"""Checks of lesson 08: a dose, a contradiction, and what the audit shows of lone wrong labels."""

from typing import Any

from ..checking import Hint, call, near


def dose(answer: Any) -> str:
    """08.1: one of five labelers, equally busy, gets 30 % wrong: the share of wrong rows."""
    for value, hint in (
        (0.3, "That is the share of her own rows; the others' rows are in the set, too."),
        (0.2, "That is the share of rows that she filed; not all of them are wrong."),
        (6, "That is in percent; the share lies from 0 to 1."),
        (1.5, "Four labelers make no mistakes: multiply her share by a fifth, not by five."),
    ):
        if near(answer, value):
            raise Hint(hint)
    if not near(answer, 0.06):
        raise Hint("Her rows are a fifth of the set, and 30 % of those are wrong.")
    return "One careless hand in five: the curve above says what about such a dose does."


def contradicting(answer: Any) -> str:
    """08.2: a function of (question, answer) rows -> numbers of rows that contradict earlier."""
    rows = [("a", "x"), ("b", "y"), ("a", "x"), ("a", "z"), ("c", "x"), ("b", "w"), ("b", "w")]
    given = call(answer, rows)
    try:
        found = sorted(given)
    except TypeError:
        raise Hint("The answer is a list of row numbers.") from None
    if found == [3, 5, 6]:
        raise Hint("Those are the right rows counted from 0; people count rows from 1.")
    if found == [3, 4, 6, 7]:
        raise Hint("Row 3 repeats row 1 with the same answer: a copy, no contradiction.")
    if found == [1, 2, 3, 4, 6, 7]:
        raise Hint("Name the rows that come after another answer; the first of each was alone.")
    if found == [4, 6]:
        raise Hint("Row 7 is a copy of row 6, but row 2 said something else before both.")
    if found != [4, 6, 7]:
        raise Hint(f"For the check's seven rows it should be [4, 6, 7]; yours gives {found}.")
    if sorted(call(answer, [("a", "x"), ("a", "z"), ("a", "x")])) != [2, 3]:
        raise Hint("The last of x, z, x repeats the first, and contradicts the one between.")
    return "The kit's audit does this for questions that are only nearly the same, too."


def shown(answer: Any) -> str:
    """08.3: what the audit shows of wrong labels that stand alone and are spread evenly."""
    given = str(answer).strip().lower().rstrip(".")
    if given == "contradiction":
        raise Hint("That takes the same ticket twice; each of these stands in the file once.")
    if given == "skew":
        raise Hint("That takes a group that has one label too often; these are spread over both.")
    if given != "none":
        raise Hint('Answer with "contradiction", "skew" or "none".')
    return "Let two people label the same rows: where they disagree, the audit can see it."


CHECKS = {"08.1": dose, "08.2": contradicting, "08.3": shown}
