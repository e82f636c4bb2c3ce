"""Intervals for differences between two models on the same questions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import KitError


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


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return float(np.mean(np.asarray(values, dtype=float)))


def paired_bootstrap(
    base: Sequence[float], tuned: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean difference tuned - base with its 95 % bootstrap percentile interval.

    Questions are resampled in pairs: an easy question is easy for both models, and only what
    is left after that counts.

    Args:
        base, tuned: one score a question, in the same order.
        resamples: bootstrap samples to draw.
        seed: of the resampling.

    Returns:
        The interval of the mean difference.

    Raises:
        KitError: no scores, or lists of different length.

    Source: Efron & Tibshirani 1993, chapter 13; equal to `scipy.stats.bootstrap` with
    method="percentile" up to resampling noise.
    """
    if len(base) != len(tuned) or not len(base):
        raise KitError(f"Paired scores are needed: got {len(base)} and {len(tuned)}.")
    difference = np.asarray(tuned, dtype=float) - np.asarray(base, dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(difference), (resamples, len(difference)))
    low, high = np.percentile(difference[draws].mean(axis=1), [2.5, 97.5])
    return Interval(float(difference.mean()), float(low), float(high))
