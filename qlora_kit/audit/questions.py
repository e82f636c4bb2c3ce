"""The questions of a set: which rows ask the same one, and which questions are nearly one."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Literal

from .contradictions import differ, same_matter
from .findings import Row
from .minhash import neighbors
from .similarity import (
    Idf,
    Words,
    exchange,
    layout,
    likeness,
    reordered,
    same_numbers,
    words_of,
)

# Measured on the planted flaws of tests/audit/conftest.py: recall / precision of near duplicates,
# 0.965 / 0.975 with all of these values.
# NEAR: 0.985 / 0.947 with 0.5, 0.895 / 1.000 with 0.8. CROWD: precision 0.990 with 2, 0.919 with 4.
# EXCHANGED: the same from 0.02 to 0.10, precision 0.927 with 0.15. FAMILY: 0.995 with 0.4.
# TIGHT: chosen by hand, the same from 0.75 to 0.95.
NEAR = 0.65  # likeness from which two questions, or two answers, are the same but for the spelling
TIGHT = 0.85  # the same in a template, where another word makes another question ...
CROWD = 3  # ... which so many questions show that differ in words that stand for each other ...
FAMILY = 0.5  # ... and are at least so alike otherwise
EXCHANGED = 0.06  # weighted share of such words; less is spelling
# Rows of one question that are compared pair by pair; beyond, with the nearest. Chosen by hand.
_GROUP = 40


# One question, nearly one, or nearly one with words in another order.
Relation = Literal["same", "near", "moved"]


@dataclass(frozen=True)
class Question:
    """A question, and where it stands among the rows of training set and test.

    Args:
        words: without case, punctuation and courtesies.
        text: as it was asked first.
        train, test: indices of the rows that ask it.
    """

    words: Words
    text: str
    train: list[int] = field(default_factory=list)
    test: list[int] = field(default_factory=list)


class QuestionSet:
    """Training set and test, by what they ask.

    Args:
        train: the training set.
        test: the held-out set, or nothing.
        leaks_only: look only for what of the test stands in the training set: 200 test rows take
            1 s against 1,000 questions of GSM8K, 4 s against 10,000, 20 s against 50,000.
    """

    def __init__(
        self, train: Sequence[Row], test: Sequence[Row] = (), leaks_only: bool = False
    ) -> None:
        self.train = train
        self.rows = [*train, *test]
        self.questions = self._gather()
        self.near = self._nearly_one(leaks_only)
        self.answers = [words_of(row.answer) for row in self.rows]
        self.idf = Idf(self.answers)

    def _gather(self) -> list[Question]:
        by_text: dict[str, Question] = {}
        by_words: dict[tuple[Words, tuple[int, ...]], Question] = {}
        for index, row in enumerate(self.rows):
            text = row.question.strip()
            if text not in by_text:
                words = words_of(text)
                new = Question(words, row.question)
                by_text[text] = by_words.setdefault((words, layout(text)), new)
            question = by_text[text]
            (question.train if index < len(self.train) else question.test).append(index)
        return list(by_words.values())

    def _nearly_one(self, leaks_only: bool) -> dict[tuple[int, int], float]:
        """Pairs of questions that are nearly one, without those that share only a template."""
        words = [question.words for question in self.questions]
        idf = Idf(words)
        near: dict[tuple[int, int], float] = {}
        family: set[tuple[int, int]] = set()
        for pair in self._candidates(neighbors(words, idf), leaks_only):
            one, two = words[pair[0]], words[pair[1]]
            if not same_numbers(one, two):
                continue
            alike = likeness(one, two, idf)
            if FAMILY <= alike < TIGHT and exchange(one, two, idf) >= EXCHANGED:
                family.add(pair)
            if alike >= NEAR:
                near[pair] = alike
        relatives = Counter(index for pair in family for index in pair)
        crowded = {pair for pair in family if max(relatives[each] for each in pair) >= CROWD}
        return {
            pair: alike
            for pair, alike in near.items()
            if pair not in crowded and self._same_matter(*pair)
        }

    def _candidates(
        self, pairs: Iterator[tuple[int, int]], leaks_only: bool
    ) -> Sequence[tuple[int, int]]:
        """The pairs that decide: for leaks those of test and training set, and their relatives."""
        every = list(pairs)
        if not leaks_only:
            return every
        asked = {number for number, question in enumerate(self.questions) if question.test}
        beside = {each for pair in every if not asked.isdisjoint(pair) for each in pair}
        return [pair for pair in every if not beside.isdisjoint(pair)]

    def _same_matter(self, one: int, two: int) -> bool:
        left, right = self.questions[one], self.questions[two]
        return same_matter(left.words, right.words, left.text, right.text)

    def pairs(self, least: float) -> Iterator[tuple[int, int, Relation]]:
        """Pairs of training rows, by their indices in order, that ask the same.

        Args:
            least: likeness that two questions need to be nearly one.
        """
        for question in self.questions:
            for one, two in _within(question.train):
                yield one, two, "same"
        for (left, right), alike in self.near.items():
            first, second = self.questions[left], self.questions[right]
            if alike >= least:
                relation: Relation = "moved" if reordered(first.words, second.words) else "near"
                for one, two in product(first.train[:_GROUP], second.train[:_GROUP]):
                    yield min(one, two), max(one, two), relation

    def same_answer(self, one: int, two: int) -> bool:
        """Whether two rows give the same answer, but for the spelling.

        Args:
            one, two: indices of rows.
        """
        left, right = self.answers[one], self.answers[two]
        texts = self.rows[one].answer.strip(), self.rows[two].answer.strip()
        if layout(texts[0]) != layout(texts[1]):
            return False
        if left.order == right.order:
            return True
        alike = same_numbers(left, right) and likeness(left, right, self.idf) >= NEAR
        return alike and not differ(left, right)


def _within(group: Sequence[int]) -> Iterator[tuple[int, int]]:
    if len(group) <= _GROUP:
        return combinations(group, 2)
    ahead = _GROUP // 2
    return (
        (one, two)
        for place, one in enumerate(group)
        for two in group[place + 1 : place + 1 + ahead]
    )
