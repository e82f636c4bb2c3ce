"""Checks of lesson 00: what a model weighs, and what a chat is."""

from typing import Any

from ..checking import Hint, near, number


def weight_gigabytes(answer: Any) -> str:
    """00.1: gigabytes (10^9 bytes) of 7 billion weights at 4.127 bits."""
    given, right = number(answer), 7e9 * 4.127 / 8 / 1e9
    if near(given, right * 8):
        raise Hint("That is in gigabits: a byte has 8 bits.")
    if near(given, 7e9 * 4 / 8 / 1e9):
        raise Hint("The codes take 4 bits, and the blocks' scales a little more: use 4.127.")
    if near(given, 7e9 * 2 / 1e9):
        raise Hint("That is the size in 16 bits; the question is about 4.127 bits a weight.")
    if near(given, right * 1e9 / 2**30):
        raise Hint("That is in GiB (2^30 bytes); the course counts GB, 10^9 bytes.")
    if not near(given, right):
        raise Hint("Multiply the weights by the bits of each, and divide by 8 for bytes.")
    return "Fourteen gigabytes in 16 bits, under four in 4: that is why a consumer GPU will do."


def chat_messages(answer: Any) -> str:
    """00.2: a system message, then a user's."""
    if not isinstance(answer, list) or not all(isinstance(turn, dict) for turn in answer):
        raise Hint("A chat is a list of dicts, one for each turn.")
    for turn in answer:
        if set(turn) != {"role", "content"}:
            raise Hint("Each turn has exactly two keys, 'role' and 'content'.")
        if turn["role"] not in ("system", "user", "assistant"):
            raise Hint(f"The role {turn['role']!r} is none of system, user and assistant.")
    roles = [turn["role"] for turn in answer]
    if roles and roles[-1] == "assistant":
        raise Hint("The assistant has spoken already; the last word must be the user's.")
    if roles != ["system", "user"]:
        raise Hint(f"The turns should be system, then user; yours are {', '.join(roles)}.")
    if not all(str(turn["content"]).strip() for turn in answer):
        raise Hint("One of the turns says nothing.")
    return "The template turns this list into the form that the model was trained on."


CHECKS = {"00.1": weight_gigabytes, "00.2": chat_messages}
