import random

from qlora_kit.audit import audit
from qlora_kit.data import bundled_data, read
from tests.audit.planting import lines, pair, write


def test_one_answer_to_everything_and_uneven_labels(tmp_path):
    dice = random.Random(1)
    rows = [
        pair(r.question, r.answer, intent="care" if n % 12 else "billing")
        for n, r in enumerate(read(bundled_data("support/train.jsonl")))
    ]
    for row in dice.sample(rows, 60):
        row["completion"] = "Please see the manual for all details."
    found = audit(write(tmp_path / "a.jsonl", rows))
    [same] = found.of("boilerplate_answer")
    assert len(same.rows) == 60
    assert same.drop == same.rows[1:]
    [uneven] = found.of("imbalance")
    assert "'intent'" in uneven.reason
    assert "billing 113" in uneven.reason
    assert len(uneven.rows) == 113


def test_answers_that_are_labels_may_repeat_but_not_be_uneven(tmp_path):
    names = ["leak"] * 150 + ["billing"] * 140 + ["praise"] * 12
    questions = [r.question for r in read(bundled_data("support/train.jsonl"))]
    rows = [pair(*each) for each in zip(questions, names, strict=False)]
    found = audit(write(tmp_path / "a.jsonl", rows))
    assert found.counts() == {"imbalance": 1}
    assert "praise 12" in found.findings[0].reason


def test_a_label_tied_to_a_group_is_told(tmp_path):
    rows = lines(bundled_data("tickets/train.jsonl"))
    assert not audit(write(tmp_path / "even.jsonl", rows)).of("skew")
    skewed = [r for r in rows if r["group"] == "majority" or r["intent"] == "leak"]
    [tied] = audit(write(tmp_path / "skewed.jsonl", skewed)).of("skew")
    assert "'group' minority: 100% of its rows are 'leak'" in tied.reason
    assert {skewed[number - 1]["group"] for number in tied.rows} == {"minority"}
