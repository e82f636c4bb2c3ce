"""Batches of rows of like length, and the padding that they save."""

from collections.abc import Sequence


def length_groups(lengths: Sequence[int], batch_size: int, seed: int = 0) -> list[list[int]]:
    """Batches of examples of like length, in random order.

    Args:
        lengths: tokens of each example.
        batch_size: examples a batch.
        seed: of the order, and of who shares a batch among equals.

    Returns:
        The examples' indices, batch by batch; each index once.
    """
    import random

    chance = random.Random(seed)
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], chance.random()))
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    chance.shuffle(batches)
    return batches


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """The part of all computed tokens that is padding, from 0 to 1.

    Args:
        lengths: tokens of each example.
        batches: the examples' indices, batch by batch, each padded to its longest.
    """
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1 - sum(lengths[index] for batch in batches for index in batch) / padded
