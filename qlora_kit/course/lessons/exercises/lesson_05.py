"""Checks of lesson 05: steps of a run, token F1, and reading two losses."""

from collections import Counter
from typing import Any

from ..checking import call, choice, expect, near, number, refuse, require

_EXACT = 1e-9  # relative, as math.isclose has it


def steps_of(answer: Any) -> str:
    """05.1: a function (rows, batch_size, epochs) -> optimizer steps."""
    steps = number(call(answer, 1348, 8, 1.6))
    smaller = "1348 rows in batches of 8 leave four over; they make a smaller batch, too."
    one_epoch = "That is one epoch. Each further epoch goes through the rows again."
    mistakes = {
        1.6 * 169: "A run has whole steps: the last epoch is cut in the middle, so round up.",
        269: smaller,
        268: smaller,
        169: one_epoch,
        168: one_epoch,
    }
    refuse(steps, mistakes, tolerance=0)
    require(
        steps != 270 or number(call(answer, 12, 8, 2)) == 4,
        "Batches do not reach from one epoch into the next: round up the batches first.",
    )
    require(steps == 271, f"1348 rows, batch 8, 1.6 epochs make 271 steps; yours gives {steps:g}.")
    require(
        number(call(answer, 12, 8, 2)) == 4,
        "12 rows in batches of 8 are two batches an epoch, so four steps in two epochs.",
    )
    return "Warmup, schedule and the estimated time all follow from this number."


def f1_of(answer: Any) -> str:
    """05.2: a function of two lists of words -> their F1."""
    answered = ["the", "red", "lamp", "the", "lamp", "is", "on"]
    expected = ["the", "lamp", "is", "red"]
    f1 = number(call(answer, answered, expected))
    common = sum((Counter(answered) & Counter(expected)).values())
    precision, recall = common / len(answered), common / len(expected)
    mistakes = {
        precision: "That is precision, the share of the said words that are wanted.",
        recall: "That is recall, the share of the wanted words that were said.",
        (precision + recall) / 2: "F1 is the harmonic mean, 2 P R / (P + R), not the plain one.",
        2 * 4 / (5 + 4): "Sets forget repeated words, so saying 'lamp' twice would cost nothing.",
        2 * 6 / (7 + 4): "Count a repeated word only as often as both have it: "
        "Counter(a) & Counter(b).",
    }
    right = 2 * common / (len(answered) + len(expected))
    expect(
        f1,
        right,
        mistakes,
        "F1 is twice the common words over the words of both together.",
        _EXACT,
    )
    require(
        near(call(answer, ["on", "and", "on"], ["on", "on"]), 4 / 5, _EXACT),
        "A word that both have twice counts twice, here 'on'.",
    )
    require(number(call(answer, ["no"], ["yes"])) == 0, "Without a common word F1 is 0.")
    return "It forgives order and wording a little, and punishes rambling: long answers lose."


# 05.3: which word fits falling training loss with rising held-out loss.
what_happened = choice(
    right="memorized",
    wrong={
        "learned": "Learning would help on questions it has not seen; those got worse.",
        "diverged": "In a divergence the training loss explodes; here it is near zero.",
    },
    words='"learned", "memorized" or "diverged"',
    reason="Only held-out questions can tell learning from memorizing. Watch them, not the loss.",
)

CHECKS = {"05.1": steps_of, "05.2": f1_of, "05.3": what_happened}
