"""Checks of lesson 06: figures kept, the bytes of several voices, and what two scores say."""

from typing import Any

from ..checking import Hint, call, choice, expect, near, number, require


def kept_figures(answer: Any) -> str:
    """06.1: a function (plain, voiced) -> share of the plain text's figures that are kept."""
    plain = "Order 4471 ships on May 3 and costs $20."
    share = number(call(answer, plain, "Haul 4471 rows out May 3. 5 lamps, 7 ropes, 9 bells."))
    mistakes = {
        2: "That is how many are kept; divide it by how many there were to keep.",
        5 / 3: "Figures that were not in the plain text are counted as kept.",
        2 / 5: "You divide by the voiced text's figures; what matters is the plain text's.",
    }
    expect(
        share,
        2 / 3,
        mistakes,
        f"Two of three are kept when the voice loses $20; yours gives {share:.3g}.",
    )
    try:
        share = number(call(answer, "The shop is closed today.", "Lamp down today."))
    except ZeroDivisionError:
        raise Hint("A text without figures makes it divide by zero: what should it be?") from None
    require(
        share == 1, f"Where there is nothing to lose, nothing is lost; yours gives {share:.3g}."
    )
    for original, voiced, hint in (
        (
            "We open at 8, until 15.",
            "Lamp lit at 18, down at 15.",
            "8 counts as kept when the voice says 18: compare whole figures, not letters.",
        ),
        (
            "It holds 1.5 liters for $20.",
            "It holds 5 liters. $20.",
            "1.5 is one figure, not a 1 and a 5: figures(text) finds them.",
        ),
        (
            "2 ropes and 2 lamps.",
            "2 lamps.",
            "A figure that stands there twice is kept twice or lost once: use a Counter.",
        ),
    ):
        require(near(call(answer, original, voiced), 1 / 2), hint)
    return "One number a text: now paired_interval can tell whether a model loses figures."


def share_of_bytes(answer: Any) -> str:
    """06.2: a function (base, adapter, n) -> bytes of base and n adapters / bytes of n models."""
    share = number(call(answer, 170.0, 20.0, 3))
    mistakes = {
        3 * 20 / (3 * 170): "The adapters need the model under them: add it, once.",
        3 * (170 + 20) / (3 * 170): "The frozen model is there once for all voices.",
        (170 + 20) / (3 * 170): "Each voice has an adapter of its own: that makes n of them.",
        (170 + 3 * 20) / 170: "You compare with one model; the other way takes n.",
        3 * 170 / (170 + 3 * 20): "That is upside down: the adapters' way over the n models.",
        170 + 3 * 20: "Those are the bytes; divide them by those of n models.",
    }
    expect(
        share,
        (170 + 3 * 20) / (3 * 170),
        mistakes,
        f"For (170, 20, 3) it should be 230 / 510 = 0.451; yours gives {share:.3g}.",
    )
    require(
        near(call(answer, 170.0, 20.0, 100), (170 + 100 * 20) / (100 * 170)),
        "It is right for 3 voices, but not for 100: use n.",
    )
    return "With many voices it nears adapter / base: the model itself hardly counts any more."


# 06.3: the voice is there, and the answer is no closer than another text's.
two_scores = choice(
    right="lost the content",
    wrong={
        "lost the voice": "The first score is the voice's, and it is nearly 1. Look at the second.",
        "kept both": "Only the style scores high; as close as any other text means different news.",
    },
    words='"lost the voice", "lost the content" or "kept both"',
    reason="A beautiful answer to another text: that is why style and content are scored apart.",
)

CHECKS = {"06.1": kept_figures, "06.2": share_of_bytes, "06.3": two_scores}
