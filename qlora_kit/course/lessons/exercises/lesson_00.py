"""Checks of lesson 00: what a model weighs, and what a chat is."""

from typing import Any

from ..checking import expect, require


def weight_gigabytes(answer: Any) -> str:
    """00.1: gigabytes (10^9 bytes) of 7 billion weights at 4.127 bits."""
    right = 7e9 * 4.127 / 8 / 1e9
    mistakes = {
        right * 8: "That is in gigabits: a byte has 8 bits.",
        7 * 4 / 8: "The codes take 4 bits, and the blocks' scales a little more: use 4.127.",
        7 * 2: "That is the size in 16 bits; the question is about 4.127 bits a weight.",
        right * 1e9 / 2**30: "That is in GiB (2^30 bytes); the course counts GB, 10^9 bytes.",
    }
    expect(
        answer,
        right,
        mistakes,
        "Multiply the weights by the bits of each, and divide by 8 for bytes.",
    )
    return "Fourteen gigabytes in 16 bits, under four in 4: that is why a consumer GPU will do."


def chat_messages(answer: Any) -> str:
    """00.2: a system message, then a user's."""
    require(
        isinstance(answer, list) and all(isinstance(turn, dict) for turn in answer),
        "A chat is a list of dicts, one for each turn.",
    )
    for turn in answer:
        require(
            set(turn) == {"role", "content"},
            "Each turn has exactly two keys, 'role' and 'content'.",
        )
        role = turn["role"]
        require(
            role in ("system", "user", "assistant"),
            f"The role {role!r} is none of system, user and assistant.",
        )
    roles = [turn["role"] for turn in answer]
    require(
        roles[-1:] != ["assistant"],
        "The assistant has spoken already; the last word must be the user's.",
    )
    require(
        roles == ["system", "user"],
        f"The turns should be system, then user; yours are {', '.join(roles)}.",
    )
    spoken = all(str(turn["content"]).strip() for turn in answer)
    require(spoken, "One of the turns says nothing.")
    return "The template turns this list into the form that the model was trained on."


CHECKS = {"00.1": weight_gigabytes, "00.2": chat_messages}
