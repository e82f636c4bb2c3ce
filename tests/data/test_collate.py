"""Micro-batches: every token once, within the budget."""

from qlora_kit.data import IGNORED, Example, MicroBatchCollator


def row(length, answer):
    ids = list(range(3, 3 + length))
    return Example(ids, [IGNORED] * (length - answer) + ids[-answer:], length)


def test_micro_batches_hold_every_token_once_within_the_budget():
    rows = [row(length, 3) for length in (5, 40, 12, 9, 60, 7, 33, 12)]
    batch = MicroBatchCollator(pad_id=0, token_budget=64)(rows)
    seen = [ids for micro in batch["micro_batches"] for ids in micro["input_ids"].tolist()]
    assert sorted([token for token in ids if token] for ids in seen) == sorted(
        row.input_ids for row in rows
    )
    assert all(micro["input_ids"].numel() <= 64 for micro in batch["micro_batches"])
    assert batch["tokens"] == sum(len(row.input_ids) for row in rows)
    assert batch["learned"] == 3 * len(rows)


def test_a_row_longer_than_the_budget_goes_alone():
    batch = MicroBatchCollator(pad_id=0, token_budget=16)([row(100, 4), row(8, 4), row(8, 4)])
    assert [tuple(micro["input_ids"].shape) for micro in batch["micro_batches"]] == [
        (1, 100),
        (2, 8),
    ]
