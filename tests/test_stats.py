import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, ttest_ind, ttest_rel

from qlora_kit import KitError
from qlora_kit.stats import (
    independent_interval,
    mcnemar,
    paired_interval,
    power_of,
    questions_needed,
    wilson,
)


def test_a_constant_difference_has_no_width():
    interval = paired_interval([0.1, 0.5, 0.9], [0.3, 0.7, 1.1])
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.2, 0.2, 0.2))
    assert interval.clear_of_zero


def test_pairing_removes_what_questions_share():
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(size=200)
    interval = paired_interval(difficulty, difficulty + rng.normal(0.02, 0.01, 200))
    assert interval.clear_of_zero
    shuffled = paired_interval(difficulty, rng.permutation(difficulty))
    assert not shuffled.clear_of_zero


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        base = rng.normal(size=60)
        interval = paired_interval(base, base + rng.normal(0.3, 1, 60), 1000, seed)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.89 <= hits / 200 <= 0.99


def test_it_agrees_with_the_normal_approximation_on_many_questions():
    rng = np.random.default_rng(2)
    difference = rng.normal(0.1, 0.5, 2000)
    interval = paired_interval(np.zeros(2000), difference)
    half = 1.96 * difference.std() / np.sqrt(2000)
    assert interval.high - interval.mean == pytest.approx(half, rel=0.1)
    assert difference.mean() == pytest.approx(interval.mean)


@pytest.mark.parametrize(("base", "tuned"), [([], []), ([1.0], [1.0, 2.0])])
def test_unpaired_scores_are_refused(base, tuned):
    with pytest.raises(KitError, match="Paired scores"):
        paired_interval(base, tuned)


def test_two_independent_groups_give_scipys_interval():
    rng = np.random.default_rng(3)
    first, second = rng.normal(0, 1, 40), rng.normal(0.5, 2, 25)
    found = independent_interval(first, second)
    expected = bootstrap(
        (first, second),
        lambda a, b, axis: b.mean(axis) - a.mean(axis),
        n_resamples=10_000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert found.mean == pytest.approx(second.mean() - first.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [([], [1.0], "0 and 1"), ([1.0], [], "1 and 0"), ([1.0], [0.5, np.nan], "Score 2")],
)
def test_groups_without_numbers_are_refused(first, second, reason):
    with pytest.raises(KitError, match=reason):
        independent_interval(first, second)


@pytest.mark.parametrize("questions", [2, 5, 9])
def test_a_handful_of_questions_get_students_interval(questions):
    base, tuned = np.random.default_rng(questions).normal(size=(2, questions))
    found, expected = paired_interval(base, tuned), ttest_rel(tuned, base).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_question_shows_nothing():
    found = paired_interval([0.0], [1.0])
    assert (found.mean, found.low, found.high) == (1.0, -np.inf, np.inf)
    assert not found.clear_of_zero


@pytest.mark.parametrize(
    ("only_first", "only_second", "clear"),
    [(0, 0, False), (0, 4, False), (0, 6, True), (2, 14, True), (9, 12, False)],
)
def test_right_and_wrong_agree_with_mcnemars_test(only_first, only_second, clear):
    """Of 120 questions. A bootstrap called 4 : 0 clear of zero, and 0 : 0 had no width."""
    first = [1.0] * only_first + [0.0] * (120 - only_first)
    second = [0.0] * only_first + [1.0] * only_second + [0.0] * (120 - only_first - only_second)
    found = paired_interval(first, second)
    assert found.low < found.mean < found.high
    assert found.clear_of_zero == clear == (mcnemar(first, second).p_value < 0.05)


@pytest.mark.parametrize("questions", [12, 40, 120])
def test_intervals_of_right_and_wrong_cover_the_truth(questions):
    rng = np.random.default_rng(questions)
    paired, apart = 0, 0
    for _ in range(400):
        base = rng.uniform(size=questions) < 0.1
        tuned = np.where(rng.uniform(size=questions) < 0.2, rng.uniform(size=questions) < 0.9, base)
        found = paired_interval(base, tuned)
        paired += found.low <= 0.2 * 0.9 + 0.8 * 0.1 - 0.1 <= found.high
        found = independent_interval(base, rng.uniform(size=questions) < 0.3)
        apart += found.low <= 0.3 - 0.1 <= found.high
    assert paired / 400 >= 0.925
    assert apart / 400 >= 0.925


def test_grades_that_happen_to_be_0_or_1_are_bootstrapped():
    found = paired_interval([0.0] * 120, [1.0] * 4 + [0.0] * 116, graded=True)
    assert found.clear_of_zero  # as right and wrong it would not be
    same = paired_interval([1.0] * 120, [1.0] * 120, graded=True)
    assert (same.low, same.high) == (0, 0)


def test_grades_of_two_groups_that_happen_to_be_0_or_1_are_bootstrapped():
    grades = [1.0] * 20
    found = independent_interval(grades, grades, graded=True)
    assert (found.low, found.high) == (0, 0)


@pytest.mark.parametrize(
    ("interval", "method"),
    [
        (paired_interval([0.5] * 12, [0.7] * 12), "paired bootstrap"),
        (paired_interval([0.0] * 12, [1.0] * 12), "Bonett-Price"),
        (paired_interval([0.0] * 12, [1.0] * 12, graded=True), "paired bootstrap"),
        (paired_interval([0.5] * 9, [0.7] * 9), "Student's t"),
        (paired_interval([0.5], [0.7]), "endless, from one question"),
        (independent_interval([0.5] * 12, [0.7] * 10), "bootstrap"),
        (independent_interval([0.0] * 12, [1.0] * 10), "Agresti-Caffo"),
        (independent_interval([0.5] * 12, [0.7] * 9), "Welch's t"),
        (independent_interval([0.5, 0.6], [0.7]), "endless, from one question"),
        (wilson(1, 2), "Wilson"),
    ],
)
def test_an_interval_says_what_it_is_by(interval, method):
    assert interval.method == method


def test_two_groups_without_an_error_are_not_proved_equal():
    found = independent_interval([1.0] * 20, [1.0] * 20)
    assert found.low < -0.1 < 0.1 < found.high


def test_small_groups_get_welchs_interval():
    rng = np.random.default_rng(6)
    first, second = rng.normal(0, 1, 40), rng.normal(0.5, 2, 7)
    found = independent_interval(first, second)
    expected = ttest_ind(second, first, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert independent_interval([0.1], first).high == np.inf


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_has_no_interval(wrong):
    with pytest.raises(KitError, match="Score 2 is not a finite number"):
        paired_interval([0.1, 0.2], [0.1, wrong])


def test_drawing_in_pieces_changes_no_interval(monkeypatch):
    rng = np.random.default_rng(4)
    base, tuned = rng.normal(size=(2, 37))
    whole = paired_interval(base, tuned, 1000)
    monkeypatch.setattr("qlora_kit.stats._DRAWS_AT_ONCE", 400)
    assert paired_interval(base, tuned, 1000) == whole


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (3, 3), (1, 9), (12, 2), (30, 44)])
def test_mcnemar_equals_the_exact_binomial_test(only_first, only_second):
    first = [1] * only_first + [0] * only_second + [1, 0] * 20
    second = [0] * only_first + [1] * only_second + [1, 0] * 20
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    tosses = only_first + only_second
    expected = binomtest(only_first, tosses).pvalue if tosses else 1.0
    assert found.p_value == pytest.approx(expected)


def test_mcnemar_takes_right_and_wrong_only():
    with pytest.raises(KitError, match="paired_interval"):
        mcnemar([0.5, 1], [1, 1])
    with pytest.raises(KitError, match="got 1 and 2"):
        mcnemar([1], [1, 0])


@pytest.mark.parametrize(("right", "questions"), [(0, 12), (12, 12), (54, 120), (1, 3)])
def test_wilson_equals_scipys(right, questions):
    found = wilson(right, questions)
    expected = binomtest(right, questions).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    with pytest.raises(KitError, match="not a share"):
        wilson(questions + 1, questions)


@pytest.mark.parametrize(("difference", "disagreement"), [(0.05, 0.2), (0.03, 0.15), (0.2, 0.4)])
def test_with_the_questions_needed_the_difference_is_seen_as_often_as_promised(
    difference, disagreement
):
    questions = questions_needed(difference, disagreement, power=0.8)
    assert power_of(questions, difference, disagreement) == pytest.approx(0.8, abs=0.01)
    rng = np.random.default_rng(0)
    split = [(disagreement - difference) / 2, (disagreement + difference) / 2]
    counts = rng.multinomial(questions, [*split, 1 - disagreement], size=2000)
    seen = np.mean([binomtest(int(a), int(a + b)).pvalue < 0.05 for a, b, _ in counts])
    assert 0.72 <= seen <= 0.84  # the exact test is a little shy


def test_more_noise_takes_more_questions():
    assert questions_needed(0.05, 0.3) > questions_needed(0.05, 0.1)
    assert questions_needed(0.03, 0.2) > questions_needed(0.05, 0.2)
    assert power_of(120, 0.03, 0.2) < 0.2
    with pytest.raises(KitError, match="disagreement"):
        questions_needed(0.3, 0.2)
    with pytest.raises(KitError, match="questions >= 1"):
        power_of(0, 0.1, 0.2)
