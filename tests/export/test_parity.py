from dataclasses import replace

import numpy as np
import pytest

from qlora_kit import KitError
from qlora_kit.evaluate import Answer
from qlora_kit.export import Bound, Parity, compare_outputs, require_parity
from qlora_kit.export.parity import divergence
from tests.export.comparisons import ADAPTER, BASE, CLOSE, PROMPTS, outputs, step


def test_divergence_equals_scipy():
    from scipy.stats import entropy

    expected = entropy(np.exp(ADAPTER.log_probs), np.exp(BASE.log_probs), axis=1)
    assert divergence(ADAPTER, BASE) == pytest.approx(expected, rel=1e-4)
    assert divergence(ADAPTER, ADAPTER) == pytest.approx(0, abs=1e-6)


def test_an_equal_model_passes():
    found = step(CLOSE)
    assert found.problems == ()
    assert found.top1 == 1
    assert found.score == 1
    assert (found.score_change.low, found.score_change.high) == (0, 0)
    require_parity(Parity(8, 1.0, (found,)))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (BASE, "no nearer to the adapter"),
        (outputs(ADAPTER.log_probs * 1.5), "mean KL"),
        (replace(CLOSE, log_probs=np.roll(CLOSE.log_probs, 1, axis=1)), "top-1 agreement 0.000"),
        (replace(CLOSE, answers=(Answer("blue", True, 1),) * 8), "its answers are worse"),
        (replace(CLOSE, rendered=("<q>",) * 8), "0% of the prompts are rendered alike"),
        (replace(CLOSE, tokens=((1,), (3,))), "50% of the texts give the same token ids"),
        (replace(CLOSE, log_probs=CLOSE.log_probs * np.nan), "mean KL nan"),
    ],
    ids=["base", "distribution", "top-1", "answers", "template", "tokens", "nan"],
)
def test_the_gate_names_what_is_wrong(other, said):
    report = Parity(8, 1.0, (step(CLOSE), step(other)))
    assert not report.passed
    with pytest.raises(KitError, match=said):
        require_parity(report)


def test_worse_is_allowed_up_to_the_bound():
    other = outputs(ADAPTER.log_probs * 1.05)
    assert step(other).problems
    assert not compare_outputs("step", PROMPTS, BASE, ADAPTER, other, Bound(0.5, 0.5)).problems


def test_the_report_is_json_and_a_table():
    report = Parity(8, 1.0, (step(CLOSE), step(BASE)))
    told = report.as_json()
    assert told["passed"] is False
    assert told["steps"][0]["problems"] == []
    assert told["steps"][1]["kl_base"] == pytest.approx(0, abs=1e-6)
    assert report.rows()[0][-1] == "ok"


def test_outputs_of_other_vocabularies_are_refused():
    with pytest.raises(KitError, match="one vocabulary"):
        divergence(ADAPTER, outputs(np.zeros((8, 51))))
