"""What of a test stands in the training set: one detector, for `audit` and for `eval`."""

import random

from qlora_kit.audit import audit, leaked
from qlora_kit.audit.findings import read_rows
from qlora_kit.data import bundled_data, read
from tests.audit.planting import pair, reword, talk, write


def test_a_test_alone_is_told_what_the_audit_of_both_finds(tmp_path):
    dice = random.Random(5)
    rows = [pair(r.question, r.answer) for r in read(bundled_data("support/train.jsonl"))]
    held_out = [pair(r.question, r.answer) for r in read(bundled_data("support/test.jsonl"))]
    known = [
        row if place % 2 else pair(reword(row["prompt"], dice), row["completion"])
        for place, row in enumerate(dice.sample(rows, 60))
    ]
    data = write(tmp_path / "a.jsonl", rows)
    test = write(tmp_path / "t.jsonl", held_out + known)
    leaks = leaked(read_rows(test), read_rows(data))
    found = {each.rows for each in audit(data, test).of("test_leak")}
    assert {tuple(sorted(each)) for each in leaks.values()} == found
    assert len({number for number in leaks if number > len(held_out)}) >= 57
    assert not {number for number in leaks if number <= len(held_out)}


def test_turns_of_a_conversation_leak_too(tmp_path):
    ask, tell = "How long does the warranty of the cabinet last?", "It lasts for 2 years."
    data = write(
        tmp_path / "a.jsonl", [talk("Where do I begin?", "Unpack the lamp first.", ask, tell)]
    )
    test = write(tmp_path / "t.jsonl", [pair(ask, tell)])
    leaks = leaked(read_rows(test), read_rows(data))
    assert leaks == {1: {1: "question and answer, word for word"}}
