"""Whether two answers to one question contradict each other, or only say it differently.

Two wordings of one answer share their numbers and most of what they name. Two answers are
called clearly different when one of these holds:

1. each gives a number that the other does not have;
2. one says yes and the other no, or both say nearly the same and one of them with a "not";
3. both say nearly the same, and each names another of things that exclude each other (on and
   off, two colors, two weekdays);
4. they differ in one name and in nothing else;
5. they have next to no words in common, and no number.

The thresholds are such that of 400 pairs of wordings in the bundled support data fewer than one
in a hundred are called a contradiction (`tests/audit/test_contradictions.py`). CLOSE with 0.6, 0.7
and 0.8 calls 5, 1 and none of them so; APART with 0.1, 0.2 and 0.3 tells 131, 147 and 155 of 159
pairs of answers to different questions apart. NEARLY, TIGHT and ALIKE are chosen by hand.
"""

import re
from functools import lru_cache

from .similarity import (
    Idf,
    Words,
    likeness,
    overlap,
    reordered,
    same_numbers,
    split_words,
    word_set,
    words_of,
)

APART = 0.2  # weighted overlap below which two answers are about different things
CLOSE = 0.7  # likeness from which one "not", or one opposite, turns the meaning around
NEARLY = 0.7  # share of the same words that they need before spelling is looked at
TIGHT = 0.85  # likeness from which two system prompts are one, but for the spelling
ALIKE = 0.5  # the same for one of many that exclude each other, such as colors: no doubt there

_COUNTS = (  # from two on: "one" is more often a pronoun
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_COUNTED = {word: str(number) for number, word in enumerate(_COUNTS.split(), 2)}
_COUNTED |= {"thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "ninety": "90"}
_COUNTED |= {"hundred": "100", "twice": "2", "dozen": "12"}
_NEGATIONS = word_set(
    "not no never none nothing nobody neither nor without cannot cant dont doesnt didnt wont isnt "
    "arent wasnt shouldnt mustnt couldnt wouldnt unable impossible prohibited forbidden"
)
# Left out with them: "can" beside "cannot", "does" beside "doesn't".
_HELPERS = word_set("can do does did will is are was should must could would be any a the")
_YES = {"yes", "yeah", "yep", "true", "correct", "certainly", "absolutely"}
_NO = {"no", "nope", "false", "incorrect", "never"}
_OPPOSITES = (  # of each group only one can be so
    "on off, before after, left right, up down, above below, open close, opens closes, "
    "open closed, increase decrease, increases decreases, hot cold, warm cold, "
    "always never, more less, minimum maximum, first last, start stop, enable disable, "
    "enabled disabled, allowed forbidden, free paid, inside outside, include exclude, "
    "included excluded, included extra, safe unsafe, push pull, possible impossible, "
    "clockwise counterclockwise, top bottom, front back, day night, wet dry, lock unlock, "
    "locked unlocked, faster slower, heat cool, "
    "minutes hours days weeks months years seconds, "
    "monday tuesday wednesday thursday friday saturday sunday, "
    "january february march april may june july august september october november "
    "december, "
    "red green blue yellow white black orange purple violet pink amber teal copper brown "
    "gray grey silver gold, north south east west, spring summer autumn winter, am pm, "
    "daily weekly monthly yearly hourly"
)
_EXCLUSIVE = [word_set(group) for group in _OPPOSITES.split(",")]
_TURNS = ("un", "in", "im", "dis", "non")  # before a word, its opposite
_EMOJI = "\u2190"  # from here on, signs say a mood as often as a matter
_SPELLED = re.compile(r"\b([ap])\.m\.", re.I)


def names_of(text: str) -> set[str]:
    """The words that are capitalized though no sentence begins with them.

    Args:
        text: of any kind.
    """
    parts = re.findall(r"(?<![.!?:\n])\s+([A-Z][\w'\u2019-]+)", f"x {text[1:]}")
    return {word for part in parts for word in split_words(part)}


def differ(one: Words, two: Words) -> bool:
    """Whether two texts of nearly the same words say, or ask, different things.

    So they do when only one has a "not" or a sign, when each has another of things that exclude
    each other, another count, or another single letter, and when two parts are exchanged.

    Args:
        one, two: the texts.
    """
    if one.order == two.order:
        return False
    sides = one.all - two.all, two.all - one.all
    return (
        bool(one.all & _NEGATIONS) != bool(two.all & _NEGATIONS)
        or _other_sign(*sides)
        or _other_letter(*sides)
        or all(any(_is_count(word) for word in side) for side in sides)
        or any(group & sides[0] and group & sides[1] for group in _EXCLUSIVE)
        or _has_opposite(*sides)
        or _has_opposite(*reversed(sides))
        or reordered(one, two) == "exchanged"
    )


def _other_sign(left: frozenset[str], right: frozenset[str]) -> bool:
    """Whether one side has a sign that calculates, or each another emoji."""
    signs = [{word for word in side if not word[0].isalnum()} for side in (left, right)]
    return all(signs) or any(word < _EMOJI for word in signs[0] | signs[1])


def _other_letter(left: frozenset[str], right: frozenset[str]) -> bool:
    """Whether a single letter, as a model's, stands on one side; "a" and "I" are words."""
    letters = [{w for w in side if len(w) == 1 and "a" <= w < "\u2000"} for side in (left, right)]
    return all(letters) or bool((letters[0] | letters[1]) - {"a", "i"})


def _is_count(word: str) -> bool:
    return word in _COUNTED or word[0].isdigit()


def _has_opposite(words: frozenset[str], others: frozenset[str]) -> bool:
    return any(f"{turn}{word}" in others for word in words for turn in _TURNS)


def same_matter(one: Words, two: Words, text: str, other: str) -> bool:
    """Whether nothing in two questions of nearly the same words makes them different ones.

    Args:
        one, two: the questions as words.
        text, other: as they were asked.
    """
    if one.order == two.order or differ(one, two):
        return False  # the same words, laid out differently: code
    return not (_capitals(text) - two.all and _capitals(other) - one.all)


def _capitals(text: str) -> set[str]:
    """The names in a question; in a title, where all words have capitals, none can be told."""
    return set() if all(word[:1].isupper() for word in text.split()[1:]) else names_of(text)


_context = lru_cache(maxsize=4096)(words_of)


def same_system(one: str, two: str) -> bool:
    """Whether two system prompts are the same, or nearly: what is asked may stand there.

    Args:
        one, two: the system prompts, or "".
    """
    if one == two:
        return True
    left, right = _context(one), _context(two)
    if len(left.all & right.all) < NEARLY * max(len(left.all), len(right.all)):
        return False  # long contexts are compared word by word only when they may agree
    alike = left.order == right.order or likeness(left, right, Idf(())) >= TIGHT
    return alike and same_numbers(left, right) and not differ(left, right)


class ParsedAnswer:
    """An answer, taken apart once for any number of comparisons.

    Args:
        text: as it was given.
    """

    def __init__(self, text: str) -> None:
        text = _SPELLED.sub(r"\1m", text)
        self.order = tuple(_COUNTED.get(word, word) for word in split_words(text))
        self.words = Words(frozenset(self.order), words_of(text).numbers, self.order)
        self.numbers = {word for word in self.words.all if word[0].isdigit()}
        self.negative = bool(self.words.all & _NEGATIONS)
        core = tuple(word for word in self.order if word not in _NEGATIONS | _HELPERS)
        self.core = Words(frozenset(core), self.words.numbers, core)
        self.names = names_of(text)

    def verdict(self) -> str:
        """What it begins with: "yes", "no" or ""."""
        first = self.order[0] if self.order else ""
        return "yes" if first in _YES else "no" if first in _NO else ""


def conflict(one: ParsedAnswer, two: ParsedAnswer, idf: Idf) -> str:
    """Why two answers to one question are clearly different; "" when they may well agree.

    Args:
        one, two: the answers.
        idf: of all the set's answers.
    """
    if one.order == two.order:
        return ""
    only_one, only_two = one.numbers - two.numbers, two.numbers - one.numbers
    if only_one and only_two:
        return f"{_some(only_one)} in one answer, {_some(only_two)} in the other"
    if one.verdict() and two.verdict() and one.verdict() != two.verdict():
        return "yes in one answer, no in the other"
    alike = likeness(one.core, two.core, idf)
    if alike >= CLOSE and one.negative != two.negative:
        return "nearly the same words, in one answer with a 'not'"
    left, right = one.words.all - two.words.all, two.words.all - one.words.all
    for group in _EXCLUSIVE:
        here, there = group & left, group & right
        close = alike >= (CLOSE if len(group) == 2 else ALIKE)
        if here and there and close and not group & one.words.all & two.words.all:
            return f"{_some(here)!r} in one answer, {_some(there)!r} in the other"
    swapped = _swapped(one, two)
    if swapped:
        return f"the same but for {swapped[0]!r} and {swapped[1]!r}"
    shared = overlap(one.words, two.words, idf)
    if shared < APART and not one.numbers & two.numbers:
        return "the answers have next to nothing in common"
    return ""


def _some(words: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(words)[:3])


def _swapped(one: ParsedAnswer, two: ParsedAnswer) -> tuple[str, str] | None:
    """The one name in which two otherwise equal answers differ."""
    if len(one.order) != len(two.order):
        return None
    pairs = [(a, b) for a, b in zip(one.order, two.order, strict=True) if a != b]
    if len(pairs) != 1 or len(one.order) < 3:
        return None
    [(left, right)] = pairs
    return (left, right) if left in one.names and right in two.names else None
