import numpy as np
import pytest

from qlora_kit import KitError
from qlora_kit.stats import mean, paired_bootstrap


def test_a_constant_difference_has_no_width():
    interval = paired_bootstrap([0.1, 0.5, 0.9], [0.3, 0.7, 1.1])
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.2, 0.2, 0.2))
    assert interval.clear_of_zero


def test_pairing_removes_what_questions_share():
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(size=200)
    interval = paired_bootstrap(difficulty, difficulty + rng.normal(0.02, 0.01, 200))
    assert interval.clear_of_zero
    shuffled = paired_bootstrap(difficulty, rng.permutation(difficulty))
    assert not shuffled.clear_of_zero


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        base = rng.normal(size=60)
        interval = paired_bootstrap(base, base + rng.normal(0.3, 1, 60), 1000, seed)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.89 <= hits / 200 <= 0.99


def test_it_agrees_with_the_normal_approximation_on_many_questions():
    rng = np.random.default_rng(2)
    difference = rng.normal(0.1, 0.5, 2000)
    interval = paired_bootstrap(np.zeros(2000), difference)
    half = 1.96 * difference.std() / np.sqrt(2000)
    assert interval.high - interval.mean == pytest.approx(half, rel=0.1)
    assert mean(difference) == pytest.approx(interval.mean)


@pytest.mark.parametrize(("base", "tuned"), [([], []), ([1.0], [1.0, 2.0])])
def test_unpaired_scores_are_refused(base, tuned):
    with pytest.raises(KitError, match="Paired scores"):
        paired_bootstrap(base, tuned)
