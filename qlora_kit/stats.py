"""Two models on the same questions: intervals, tests, and how many questions it takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from . import KitError

_DRAWS_AT_ONCE = 2**20  # of a bootstrap: 16 MB at a time
_FEW = 10  # below so many questions a bootstrap's interval is far too narrow


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def clear_of_zero(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True)
class McNemar:
    """Two models' right and wrong answers to the same questions.

    only_first, only_second: questions that one of them alone got right.
    p_value: how often so uneven a split, or a more uneven one, would come from equal models.
    """

    only_first: int
    only_second: int
    p_value: float


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return float(np.mean(np.asarray(values, dtype=float)))


def paired_bootstrap(
    base: Sequence[float],
    tuned: Sequence[float],
    resamples: int = 10_000,
    seed: int = 0,
    graded: bool = False,
) -> Interval:
    """The mean difference tuned - base with its 95 % interval, from a bootstrap as a rule.

    Questions are resampled in pairs: an easy question is easy for both models, and only what
    is left after that counts. Where a bootstrap is too narrow, another interval takes its place:
    for right and wrong (all scores 0 or 1) Bonett and Price's, which keeps its width where the
    models never disagree; for fewer than 10 questions Student's t; and a single one, which tells
    nothing of the others, gets an endless interval.

    Args:
        base, tuned: one score a question, in the same order.
        resamples: bootstrap samples to draw.
        seed: of the resampling.
        graded: the scores are grades, as token F1 is, also where all happen to be 0 or 1.

    Returns:
        The interval of the mean difference.

    Raises:
        KitError: no scores, lists of different length, or scores that are no finite numbers.

    Source: Efron & Tibshirani 1993, chapter 13; equal to `scipy.stats.bootstrap` with
    method="percentile" up to resampling noise. Bonett & Price 2012, adjusted Wald interval.
    """
    if len(base) != len(tuned) or not len(base):
        raise KitError(f"Paired scores are needed: got {len(base)} and {len(tuned)}.")
    before, after = _finite(base), _finite(tuned)
    difference = after - before
    if not graded and len(difference) > 1 and _right_or_wrong(before, after):
        total = len(difference) + 2  # one question more on which each alone is right
        worse, better = ((difference == sign).sum() + 1 for sign in (-1, 1))
        shift = (better - worse) / total
        variance = ((better + worse) / total - shift**2) / total
        return _around(difference.mean(), shift, variance)
    if len(difference) < _FEW:
        return _student(difference)
    means = _resampled_means(difference, resamples, np.random.default_rng(seed))
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(difference.mean()), float(low), float(high))


def unpaired_bootstrap(
    first: Sequence[float], second: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The difference of means second - first of two independent groups, with its 95 % interval.

    For groups that share no questions; where they do, `paired_bootstrap` sees more. As there,
    right and wrong get an interval that keeps its width (Agresti and Caffo's), a group of fewer
    than 10 gets Student's t (Welch's), and a group of one an endless interval.

    Args:
        first, second: one score each of its group's questions.
        resamples: bootstrap samples to draw of each group.
        seed: of the resampling.

    Returns:
        The interval of the difference of means.

    Raises:
        KitError: a group without scores, or with scores that are no finite numbers.

    Source: Efron & Tibshirani 1993, chapter 8; equal to `scipy.stats.bootstrap` of two samples
    with method="percentile" up to resampling noise. Agresti & Caffo 2000; Welch 1947, equal to
    `scipy.stats.ttest_ind(equal_var=False)`.
    """
    if not len(first) or not len(second):
        raise KitError(f"Both groups need scores: got {len(first)} and {len(second)}.")
    one, other = (_finite(group) for group in (first, second))
    if min(len(one), len(other)) > 1 and _right_or_wrong(one, other):
        shares = [(group.sum() + 1) / (len(group) + 2) for group in (one, other)]
        variance = sum(
            share * (1 - share) / (len(group) + 2)
            for share, group in zip(shares, (one, other), strict=True)
        )
        return _around(other.mean() - one.mean(), shares[1] - shares[0], variance)
    if min(len(one), len(other)) < _FEW:
        return _welch(one, other)
    rng = np.random.default_rng(seed)
    means = _resampled_means(other, resamples, rng) - _resampled_means(one, resamples, rng)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(other.mean() - one.mean()), float(low), float(high))


def _student(values: np.ndarray) -> Interval:
    if len(values) == 1:
        return Interval(float(values[0]), -math.inf, math.inf)
    from scipy.stats import t  # here, because loading it takes a second

    middle = float(values.mean())
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Interval(middle, middle - half, middle + half)


def _welch(first: np.ndarray, second: np.ndarray) -> Interval:
    middle = float(second.mean() - first.mean())
    if min(len(first), len(second)) == 1:
        return Interval(middle, -math.inf, math.inf)
    if first.std() == second.std() == 0:
        return Interval(middle, middle, middle)
    from scipy.stats import ttest_ind

    found = ttest_ind(second, first, equal_var=False).confidence_interval()
    return Interval(middle, float(found.low), float(found.high))


def _right_or_wrong(*groups: np.ndarray) -> bool:
    return all(np.isin(group, (0, 1)).all() for group in groups)


def _around(mean: float, middle: float, variance: float) -> Interval:
    """The interval of a difference of shares, which cannot leave -1 to 1."""
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance)
    return Interval(float(mean), float(max(-1, middle - half)), float(min(1, middle + half)))


def _finite(scores: Sequence[float]) -> np.ndarray:
    found = np.asarray(scores, dtype=float)
    if not np.isfinite(found).all():
        raise KitError(f"Score {int(np.isfinite(found).argmin()) + 1} is not a finite number.")
    return found


def _resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The means of so many samples drawn with replacement, in pieces that memory can hold."""
    piece = max(1, _DRAWS_AT_ONCE // len(values))
    means = []
    for done in range(0, resamples, piece):
        shape = (min(piece, resamples - done), len(values))
        means.append(values[rng.integers(0, len(values), shape)].mean(axis=1))
    return np.concatenate(means)


def mcnemar(first: Sequence[float], second: Sequence[float]) -> McNemar:
    """McNemar's exact test: do two models get the same share of the same questions right?

    Questions that both or neither got right tell nothing about the difference; the others are
    tossed coins if the models are equally good.

    Args:
        first, second: 1 for right and 0 for wrong, one a question, in the same order.

    Returns:
        The two counts and the two-sided p-value.

    Raises:
        KitError: no scores, lists of different length, or scores other than 0 and 1.

    Source: McNemar 1947; equal to `scipy.stats.binomtest(only_first, only_first + only_second)`.
    """
    if len(first) != len(second) or not len(first):
        raise KitError(f"Paired scores are needed: got {len(first)} and {len(second)}.")
    if not {*first, *second} <= {0, 1}:
        raise KitError("McNemar's test needs scores of 0 and 1; use paired_bootstrap for others.")
    only_first = sum(a > b for a, b in zip(first, second, strict=True))
    only_second = sum(a < b for a, b in zip(first, second, strict=True))
    tosses, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(tosses, k) for k in range(fewer + 1)) / 2**tosses
    return McNemar(only_first, only_second, min(1.0, 2 * tail))


def wilson(right: int, questions: int) -> Interval:
    """One model's share of right answers with its 95 % interval.

    Args:
        right: answers that were right.
        questions: answers in all.

    Source: Wilson 1927; equal to `scipy.stats.binomtest(...).proportion_ci(method="wilson")`.
    """
    if not 0 <= right <= questions or not questions:
        raise KitError(f"{right} right of {questions} is not a share.")
    z = NormalDist().inv_cdf(0.975)
    share, shrink = right / questions, 1 + z * z / questions
    middle = (share + z * z / (2 * questions)) / shrink
    spread = math.sqrt(share * (1 - share) / questions + (z / (2 * questions)) ** 2) * z / shrink
    return Interval(share, middle - spread, middle + spread)


def questions_needed(difference: float, disagreement: float, power: float = 0.8) -> int:
    """How many questions two models must answer for a difference to be seen.

    Args:
        difference: of the shares of right answers, for example 0.05 for 5 points.
        disagreement: share of questions on which one of them alone is right; the more two
            models disagree, the more noise there is. At least the difference.
        power: chance to see the difference (p below 0.05) when it is there.

    Returns:
        The number of paired questions.

    Raises:
        KitError: shares that cannot be.

    Source: Connor 1987, equation 2, for McNemar's test.
    """
    if not 0 < abs(difference) <= disagreement <= 1 or not 0 < power < 1:
        raise KitError("Needed: 0 < |difference| <= disagreement <= 1 and 0 < power < 1.")
    normal = NormalDist()
    surprise = normal.inv_cdf(0.975) * math.sqrt(disagreement)
    chance = normal.inv_cdf(power) * math.sqrt(disagreement - difference**2)
    return math.ceil(((surprise + chance) / difference) ** 2)


def power_of(questions: int, difference: float, disagreement: float) -> float:
    """The chance to see a difference with so many questions; `questions_needed` turned round.

    Args:
        questions: paired questions.
        difference, disagreement: see `questions_needed`.

    Raises:
        KitError: shares that cannot be.
    """
    if questions < 1 or not 0 < abs(difference) <= disagreement <= 1:
        raise KitError("Needed: questions >= 1 and 0 < |difference| <= disagreement <= 1.")
    normal = NormalDist()
    edge = abs(difference) * math.sqrt(questions) - normal.inv_cdf(0.975) * math.sqrt(disagreement)
    spread = math.sqrt(disagreement - difference**2)
    return normal.cdf(edge / spread) if spread else float(edge > 0)
