"""The checks behind the exercises: your turn, not yet with a hint, or right with the reason.

Each lesson has a module `lesson_NN` whose `CHECKS` map an exercise to a function. It takes the
answer, raises `Hint` naming the mistake, and returns why the right answer matters.
"""

import dis
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from ... import KitError

YOUR_TURN, NOT_YET, RIGHT = "your turn", "not yet", "right"


class Hint(Exception):  # noqa: N818 (it is no error)
    """An answer is wrong in a way that can be named."""


def check(exercise: str, answer: Any) -> str:
    """Check an answer and print what to make of it. An exercise never stops the notebook.

    Args:
        exercise: its number, such as "01.2".
        answer: a value or a function, as the exercise asks for; ... while there is none.

    Returns:
        "your turn", "not yet" or "right".

    Raises:
        KitError: there is no such exercise.
    """
    verdict, message = judge(exercise, answer)
    print(f"Exercise {exercise}: {verdict}. {message}".rstrip())
    return verdict


def judge(exercise: str, answer: Any) -> tuple[str, str]:
    """The verdict on an answer and what to say about it; see `check`.

    Args:
        exercise: its number, such as "01.2".
        answer: a value or a function.
    """
    checker = _checker(exercise)
    if answer is None or answer is ...:
        return YOUR_TURN, "Replace the ... above, then run this cell again."
    try:
        return RIGHT, checker(answer)
    except _UnattemptedError:
        return YOUR_TURN, "Write the function's body above, then run this cell again."
    except Hint as hint:
        return NOT_YET, str(hint)
    except Exception as problem:  # a learner's function may raise anything
        message = f"It stopped with {type(problem).__name__}: {problem}"
        if "cannot be multiplied" in message:
            message += ". Each row of x is one input: products look like x @ W.t()."
        return NOT_YET, message


class _UnattemptedError(Exception):
    pass


def call(function: Any, *arguments: Any) -> Any:
    """Call a learner's function; one that still returns nothing is not an attempt.

    Args:
        function: the answer.
        arguments: what to call it with.

    Raises:
        Hint: it is not a function.
    """
    if not callable(function):
        raise Hint(f"This exercise asks for a function, and got {type(function).__name__}.")
    result = function(*arguments)
    if result is None or result is ...:
        if len(list(dis.get_instructions(function))) > 3:  # more than a stub's
            raise Hint("Your function returns nothing: end it with 'return ...'.")
        raise _UnattemptedError
    return result


def number(answer: Any) -> float:
    """A learner's answer as a number.

    Args:
        answer: the learner's.

    Raises:
        Hint: it is not a number.
    """
    try:
        return float(answer)
    except (TypeError, ValueError):
        raise Hint(f"This exercise asks for a number, and got {answer!r}.") from None


def near(answer: Any, expected: float, tolerance: float = 0.01) -> bool:
    """Whether a number is right up to a relative tolerance.

    Args:
        answer: a number.
        expected: the right one.
        tolerance: relative.
    """
    return abs(number(answer) - expected) <= tolerance * abs(expected)


def require(right: bool, hint: str) -> None:
    """Go on only where this much of an answer is right.

    Args:
        right: whether it is.
        hint: what is wrong where it is not.

    Raises:
        Hint: it is not.
    """
    if not right:
        raise Hint(hint)


def refuse(answer: Any, mistakes: Mapping[Any, str], tolerance: float = 0.01) -> None:
    """Name the mistake that an answer comes from.

    Args:
        answer: a number, or what is compared as it is.
        mistakes: what each mistake leads to, with its hint; the first that fits is named.
        tolerance: of numbers, relative.

    Raises:
        Hint: the answer is one of them.
    """
    for mistake, hint in mistakes.items():
        is_number = isinstance(mistake, int | float)
        require(not (near(answer, mistake, tolerance) if is_number else answer == mistake), hint)


def expect(
    answer: Any, right: float, mistakes: Mapping[Any, str], otherwise: str, tolerance: float = 0.01
) -> None:
    """Go on only with the right number.

    Args:
        answer: a number.
        right: the right one.
        mistakes: see `refuse`.
        otherwise: the hint where no mistake fits.
        tolerance: of all numbers, relative.

    Raises:
        Hint: another number.
    """
    refuse(answer, mistakes, tolerance)
    require(near(answer, right, tolerance), otherwise)


def choice(right: str, wrong: Mapping[str, str], words: str, reason: str) -> Callable[[Any], str]:
    """The check of an exercise whose answer is one of a few words, in capitals or not.

    Args:
        right: the word that is right.
        wrong: each wrong word's hint.
        words: those that there are, as people read them.
        reason: why the right one matters.
    """

    def checker(answer: Any) -> str:
        word = str(answer).strip().lower().rstrip(".")
        refuse(word, wrong)
        require(word == right, f"Answer with {words}.")
        return reason

    return checker


def _checker(exercise: str) -> Callable[[Any], str]:
    if not re.fullmatch(r"\d\d\.\d", exercise):
        raise KitError(f"{exercise!r} is no exercise; they are numbered like '01.2'.")
    try:
        lesson = importlib.import_module(f".exercises.lesson_{exercise[:2]}", __package__)
    except ModuleNotFoundError as problem:
        raise KitError(f"Lesson {exercise[:2]} has no exercises.") from problem
    if exercise not in lesson.CHECKS:
        known = ", ".join(lesson.CHECKS)
        raise KitError(f"There is no exercise {exercise}; lesson {exercise[:2]} has {known}.")
    return lesson.CHECKS[exercise]
