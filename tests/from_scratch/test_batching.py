from qlora_kit.from_scratch import length_groups, padding_share


def test_like_lengths_together_pad_less():
    lengths = [one % 97 + 3 for one in range(0, 5000, 37)]
    anyhow = [list(range(at, min(at + 8, len(lengths)))) for at in range(0, len(lengths), 8)]
    grouped = length_groups(lengths, 8, seed=1)
    assert sorted(index for batch in grouped for index in batch) == list(range(len(lengths)))
    assert padding_share(lengths, grouped) < padding_share(lengths, anyhow) / 4
    assert length_groups(lengths, 8, seed=2) != grouped
    assert padding_share([4, 4], [[0, 1]]) == 0
    assert padding_share([2, 4], [[0, 1]]) == 0.25
