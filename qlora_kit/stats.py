"""Two models on the same questions: intervals, tests, and how many questions it takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from . import KitError

_DRAWS_AT_ONCE = 2**20  # of a bootstrap: 16 MB at a time; chosen by hand
# Below so many questions a bootstrap is too narrow: of 1,000 samples of normal differences its
# interval covered the truth in 94 % of 60 questions, 91 % of 10, 90 % of 9, 83 % of 5, 76 % of 3.
_FEW = 10


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval, and the method that the interval is by."""

    mean: float
    low: float
    high: float
    method: str = ""

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


def paired_interval(
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
    _require_pairs(base, tuned)
    before = _finite(base)
    after = _finite(tuned)
    difference = after - before
    count = len(difference)
    if count == 1:
        return _endless(difference.mean())
    if not graded and _right_or_wrong(before, after):
        total = count + 2  # one question more on which each alone is right
        worse, better = ((difference == sign).sum() + 1 for sign in (-1, 1))
        shift = (better - worse) / total
        variance = ((better + worse) / total - shift**2) / total
        return _of_shares(difference.mean(), shift, variance, "Bonett-Price")
    if count < _FEW:
        from scipy.stats import t  # here, because loading it takes a second

        mean = float(difference.mean())
        half = float(t.ppf(0.975, count - 1) * difference.std(ddof=1) / math.sqrt(count))
        return Interval(mean, mean - half, mean + half, "Student's t")
    means = _resampled_means(difference, resamples, np.random.default_rng(seed))
    return _percentiles(difference.mean(), means, "paired bootstrap")


def independent_interval(
    first: Sequence[float],
    second: Sequence[float],
    resamples: int = 10_000,
    seed: int = 0,
    graded: bool = False,
) -> Interval:
    """The difference of means second - first of two independent groups, with its 95 % interval.

    For groups that share no questions; where they do, `paired_interval` sees more. As there,
    right and wrong get an interval that keeps its width (Agresti and Caffo's), a group of fewer
    than 10 gets Student's t (Welch's), and a group of one an endless interval.

    Args:
        first, second: one score each of its group's questions.
        resamples: bootstrap samples to draw of each group.
        seed: of the resampling.
        graded: the scores are grades, as token F1 is, also where all happen to be 0 or 1.

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
    groups = [_finite(first), _finite(second)]
    one, other = groups
    mean = float(other.mean() - one.mean())
    fewest = min(len(one), len(other))
    if fewest == 1:
        return _endless(mean)
    if not graded and _right_or_wrong(one, other):
        shares = [(group.sum() + 1) / (len(group) + 2) for group in groups]
        variance = sum(
            share * (1 - share) / (len(group) + 2)
            for share, group in zip(shares, groups, strict=True)
        )
        return _of_shares(mean, shares[1] - shares[0], variance, "Agresti-Caffo")
    if fewest < _FEW:
        if one.std() == other.std() == 0:
            return Interval(mean, mean, mean, "Welch's t")
        from scipy.stats import ttest_ind

        interval = ttest_ind(other, one, equal_var=False).confidence_interval()
        return Interval(mean, float(interval.low), float(interval.high), "Welch's t")
    rng = np.random.default_rng(seed)
    means = _resampled_means(other, resamples, rng) - _resampled_means(one, resamples, rng)
    return _percentiles(mean, means, "bootstrap")


def _endless(mean: float) -> Interval:
    """Of a single question, which tells nothing of the others."""
    return Interval(float(mean), -math.inf, math.inf, "endless, from one question")


def _percentiles(mean: float, means: np.ndarray, method: str) -> Interval:
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(mean), float(low), float(high), method)


def _of_shares(mean: float, middle: float, variance: float, method: str) -> Interval:
    """The interval of a difference of shares, which cannot leave -1 to 1."""
    half = NormalDist().inv_cdf(0.975) * math.sqrt(variance)
    return Interval(
        float(mean), float(max(-1, middle - half)), float(min(1, middle + half)), method
    )


def _right_or_wrong(*groups: np.ndarray) -> bool:
    return all(np.isin(group, (0, 1)).all() for group in groups)


def _require_pairs(first: Sequence[float], second: Sequence[float]) -> None:
    if len(first) != len(second) or not len(first):
        raise KitError(f"Paired scores are needed: got {len(first)} and {len(second)}.")


def _finite(scores: Sequence[float]) -> np.ndarray:
    numbers = np.asarray(scores, dtype=float)
    finite = np.isfinite(numbers)
    if not finite.all():
        raise KitError(f"Score {int(finite.argmin()) + 1} is not a finite number.")
    return numbers


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

    Source: McNemar 1947, exact: SciPy's binomial test of the questions that one alone got right.
    """
    from scipy.stats import binomtest

    _require_pairs(first, second)
    if not {*first, *second} <= {0, 1}:
        raise KitError("McNemar's test needs scores of 0 and 1; use paired_interval for others.")
    only_first = sum(a > b for a, b in zip(first, second, strict=True))
    only_second = sum(a < b for a, b in zip(first, second, strict=True))
    tosses = only_first + only_second
    p_value = float(binomtest(only_first, tosses).pvalue) if tosses else 1.0
    return McNemar(only_first, only_second, p_value)


def wilson(right: int, questions: int) -> Interval:
    """One model's share of right answers with its 95 % interval.

    Args:
        right: answers that were right.
        questions: answers in all.

    Source: Wilson 1927, as in SciPy's `proportion_ci`.
    """
    from scipy.stats import binomtest

    if not 0 <= right <= questions or not questions:
        raise KitError(f"{right} right of {questions} is not a share.")
    interval = binomtest(right, questions).proportion_ci(method="wilson")
    return Interval(right / questions, float(interval.low), float(interval.high), "Wilson")


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
