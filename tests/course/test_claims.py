"""Claims and metrics: what is stored, what is shown, what is refused."""

import math

import numpy as np
import pytest
import torch
from nbformat import v4

from qlora_kit import KitError
from qlora_kit.course import claim, record
from qlora_kit.course.lessons.claims import (
    CLAIM_MIME,
    METRIC_MIME,
    Claim,
    ClaimError,
    Metric,
    read_claims,
    read_metrics,
    short,
)


def notebook(*outputs):
    """An executed notebook with one cell for each (mime, data)."""
    cells = [
        v4.new_code_cell("", outputs=[v4.new_output("display_data", {mime: data})])
        for mime, data in outputs
    ]
    return v4.new_notebook(cells=[v4.new_markdown_cell("# Title"), *cells])


def test_outside_a_notebook_the_line_is_printed(capsys):
    claim("nf4_beats_fp4", True, nf4=28.41, fp4=31.5)
    record("perplexity", 28.41, "nats a token")
    claim("bare", True)
    assert capsys.readouterr().out.splitlines() == [
        "✓ nf4_beats_fp4  (nf4 28.41, fp4 31.5)",
        "perplexity = 28.41 nats a token",
        "✓ bare",
    ]


def test_a_false_claim_is_shown_and_then_raised(capsys):
    with pytest.raises(ClaimError, match=r"does not hold: nf4_wins  \(nf4 31, fp4 28\)"):
        claim("nf4_wins", 31 < 28, nf4=31, fp4=28)
    assert capsys.readouterr().out.startswith("✗ nf4_wins")
    assert issubclass(ClaimError, AssertionError)


@pytest.mark.parametrize("one", [1, 1.0, np.float32(1), np.int64(1), torch.tensor(1.0), True])
def test_scalars_of_numpy_and_torch_are_numbers(one, capsys):
    claim("same", one == 1, one=one)
    record("same", one, "")
    assert capsys.readouterr().out == "✓ same  (one 1)\nsame = 1\n"


@pytest.mark.parametrize("wrong", [math.nan, math.inf, np.nan, torch.tensor(-math.inf)])
def test_numbers_that_are_none_are_refused_by_name(wrong, capsys):
    with pytest.raises(KitError, match=r"claim\('c', ...\): loss is (nan|-?inf)"):
        claim("c", True, loss=wrong)
    with pytest.raises(KitError, match="value is"):
        record("c", wrong, "s")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("wrong", ["3", None, [1, 2], torch.ones(2), np.ones(2)])
def test_what_is_not_one_number_is_refused(wrong):
    with pytest.raises(KitError, match="is not one number"):
        record("m", wrong, "s")


@pytest.mark.parametrize("name", ["", "Nf4", "a b", "a-b", "ü", 3, "a\n"])
def test_names_are_plain(name):
    with pytest.raises(KitError, match="lower-case"):
        claim(name, True)
    with pytest.raises(KitError, match="lower-case"):
        record(name, 1, "s")


def test_a_condition_is_one_truth_value():
    with pytest.raises(KitError, match="not one truth value"):
        claim("c", torch.ones(2) > 0)
    claim("c", np.bool_(True))


def test_they_are_read_back_in_order():
    book = notebook(
        (CLAIM_MIME, {"name": "b", "held": True, "numbers": {"x": 1.5}}),
        (METRIC_MIME, {"name": "m", "value": 2.0, "unit": "GB"}),
        (CLAIM_MIME, {"name": "a", "held": False, "numbers": {}}),
    )
    assert read_claims(book) == [Claim("b", True, {"x": 1.5}), Claim("a", False)]
    assert read_metrics(book) == [Metric("m", 2.0, "GB")]


def test_a_name_that_stands_twice_is_found():
    data = {"name": "a", "held": True, "numbers": {}}
    with pytest.raises(KitError, match=r"claim 'a' stands twice, in cells 2 and 3"):
        read_claims(notebook((CLAIM_MIME, data), (CLAIM_MIME, data)))
    data = {"name": "m", "value": 1.0, "unit": ""}
    with pytest.raises(KitError, match="metric 'm' stands twice"):
        read_metrics(notebook((METRIC_MIME, data), (METRIC_MIME, data)))


def test_numbers_are_shown_short():
    assert [short(x) for x in (0.123456, 28.4, 138196, -2500.4, 1e15, 0)] == [
        "0.1235",
        "28.4",
        "138,196",
        "-2,500",
        "1e+15",
        "0",
    ]
