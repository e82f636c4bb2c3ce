"""Checks of lesson 04: the loss mask, the share of padding, and a split that tears no document."""

from typing import Any

from ..checking import Hint, call, near, number, refuse, require


def labels_of(answer: Any) -> str:
    """04.1: a function (input_ids, is_answer) -> labels, -100 where the loss must not look."""
    tokens, inside = [11, 12, 13, 14, 15, 16], [False, False, True, True, True, False]
    result = call(answer, list(tokens), list(inside))
    try:
        labels = tuple(int(label) for label in result)
    except (TypeError, ValueError):
        raise Hint(f"Return a list of whole numbers, not {result!r}.") from None
    mistakes = {
        (13, 14, 15): "You drop tokens; what the loss skips stays in its place, as -100.",
        (0, 0, 13, 14, 15, 0): "0 is a token like any other, and would be learned; use -100.",
        (11, 12, -100, -100, -100, 16): "It is inverted: now only the question is learned.",
        (-100, 13, 14, 15, -100, -100): "You shift by one; the loss does that itself, later.",
        (-100, -100, -100, 13, 14, 15): "You shift to the right; label and token lie together.",
        tuple(tokens): "Nothing is skipped: the customer's words would be learned too.",
        (-100, -100, 1, 1, 1, -100): "A label is the token itself, not a yes or no.",
    }
    refuse(labels, mistakes)
    require(
        len(labels) == len(tokens),
        f"For {len(tokens)} tokens there are {len(tokens)} labels, not {len(labels)}.",
    )
    require(
        labels == (-100, -100, 13, 14, 15, -100),
        "Where is_answer is true the label is the token itself, elsewhere -100.",
    )
    several = call(answer, [5, 6, 7, 8, 9], [True, False, False, True, True])
    require(
        list(several) == [5, -100, -100, 8, 9],
        "A talk has several answers: what lies between two of them is not learned.",
    )
    return "Tokens and labels lie side by side, and one number tells the loss to look away."


def share_of_padding(answer: Any) -> str:
    """04.2: a function from the lengths of one batch's rows to the share that is padding."""
    share = number(call(answer, [40, 60, 80, 100]))
    mistakes = {
        0.7: "That is the share of real tokens; padding is the rest.",
        120.0: "That is how many tokens are padding; divide by all that are computed.",
        120 / 280: "Divide by all computed tokens, the padding too, not by the real ones.",
        30.0: "That is in percent; the share lies between 0 and 1.",
        -0.75: "Rows are padded to the longest of the batch, not cut to the shortest.",
        -1.8: "The longest row sets the width, but each of the rows is that wide.",
    }
    refuse(share, mistakes)
    require(
        not abs(share) < 1e-9,
        "Rows are padded to the longest of the batch; with the mean, nothing is left.",
    )
    require(
        near(share, 0.3),
        f"For lengths of 40, 60, 80 and 100 it should be 0.3; yours gives {share:.3g}.",
    )
    require(
        near(call(answer, [60, 100, 30, 90, 50]), 0.34),
        "It is right for sorted lengths only: a batch comes in any order and number.",
    )
    alone = number(call(answer, [7, 7]))
    require(
        abs(alone) <= 1e-9,
        f"Rows of equal length need no padding; yours gives {alone:.3g} for them.",
    )
    return "One long row makes all others long: that is why like lengths belong together."


def split(answer: Any) -> str:
    """04.3: a function (rows, held) -> (training rows, test rows), whole documents each."""
    names = ("ants", "bees", "ants", "crows", "bees", "ants")
    rows = [{"document": name, "text": f"section {n}"} for n, name in enumerate(names)]
    result = call(answer, [dict(row) for row in rows], {"bees", "crows"})
    try:
        training, test = (list(part) for part in result)
    except (TypeError, ValueError):
        raise Hint("Return two lists: the training rows, then the test rows.") from None
    right_training = [row for row in rows if row["document"] == "ants"]
    right_test = [row for row in rows if row["document"] != "ants"]
    require(
        (training, test) != (right_test, right_training),
        "The two are swapped: training comes first, and 'held' names the test's.",
    )
    require(bool(test), "Nothing was held out: 'held' is a set, so ask whether a name is in it.")
    require(
        bool(training), "Nothing is left to train on: only the documents in 'held' go to the test."
    )
    require(
        all(row in rows for row in [*training, *test]),
        "Return the rows themselves, whole dicts, not a part of them.",
    )
    torn = {row["document"] for row in training} & {row["document"] for row in test}
    if torn:
        raise Hint(f"{sorted(torn)[0]!r} is on both sides: ask for each row's own document.")
    require(
        len(training) + len(test) >= len(rows),
        "Rows got lost: a document has several, and every one must be on one side.",
    )
    require(
        (training, test) == (right_training, right_test),
        "Each side should have its rows in the order given, and each row once.",
    )
    return "Whatever repeats itself, a page, a customer, a thread, stays on one side."


CHECKS = {"04.1": labels_of, "04.2": share_of_padding, "04.3": split}
