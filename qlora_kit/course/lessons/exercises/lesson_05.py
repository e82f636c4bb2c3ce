"""Checks of lesson 05: steps of a run, token F1, and reading two losses."""

import math
from collections import Counter
from typing import Any

from ..checking import Hint, call, number


def steps_of(answer: Any) -> str:
    """05.1: a function (rows, batch_size, epochs) -> optimizer steps."""
    given = number(call(answer, 1348, 8, 1.6))
    if given == 1.6 * 169:
        raise Hint("A run has whole steps: the last epoch is cut in the middle, so round up.")
    if given == math.ceil(1.6 * 168) or given == int(1.6 * 168):
        raise Hint("1348 rows in batches of 8 leave four over; they make a smaller batch, too.")
    if given in (169, 168):
        raise Hint("That is one epoch. Each further epoch goes through the rows again.")
    if given == 270 and number(call(answer, 12, 8, 2)) != 4:
        raise Hint("Batches do not reach from one epoch into the next: round up the batches first.")
    if given != 271:
        raise Hint(f"1348 rows, batch 8, 1.6 epochs make 271 steps; yours gives {given:g}.")
    if number(call(answer, 12, 8, 2)) != 4:
        raise Hint("12 rows in batches of 8 are two batches an epoch, so four steps in two epochs.")
    return "Warmup, schedule and the estimated time all follow from this number."


def f1_of(answer: Any) -> str:
    """05.2: a function of two lists of words -> their F1."""
    said = ["the", "red", "lamp", "the", "lamp", "is", "on"]
    wanted = ["the", "lamp", "is", "red"]
    given = number(call(answer, said, wanted))
    common = sum((Counter(said) & Counter(wanted)).values())
    precision, recall = common / len(said), common / len(wanted)
    for value, hint in (
        (precision, "That is precision, the share of the said words that are wanted."),
        (recall, "That is recall, the share of the wanted words that were said."),
        ((precision + recall) / 2, "F1 is the harmonic mean, 2 P R / (P + R), not the plain one."),
        (2 * 4 / (5 + 4), "Sets forget repeated words, so saying 'lamp' twice would cost nothing."),
        (2 * 6 / (7 + 4), "Count a repeated word only as often as both have it: Counter(a) & "
                          "Counter(b)."),
    ):  # fmt: skip
        if math.isclose(given, value):
            raise Hint(hint)
    if not math.isclose(given, 2 * common / (len(said) + len(wanted))):
        raise Hint("F1 is twice the common words over the words of both together.")
    if not math.isclose(number(call(answer, ["on", "and", "on"], ["on", "on"])), 4 / 5):
        raise Hint("A word that both have twice counts twice, here 'on'.")
    if number(call(answer, ["no"], ["yes"])) != 0:
        raise Hint("Without a common word F1 is 0.")
    return "It forgives order and wording a little, and punishes rambling: long answers lose."


def what_happened(answer: Any) -> str:
    """05.3: which word fits falling training loss with rising held-out loss."""
    given = str(answer).strip().lower().rstrip(".")
    if given == "learned":
        raise Hint("Learning would help on questions it has not seen; those got worse.")
    if given == "diverged":
        raise Hint("In a divergence the training loss explodes; here it is near zero.")
    if given != "memorized":
        raise Hint('Answer with "learned", "memorized" or "diverged".')
    return "Only held-out questions can tell learning from memorizing. Watch them, not the loss."


CHECKS = {"05.1": steps_of, "05.2": f1_of, "05.3": what_happened}
