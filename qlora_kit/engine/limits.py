"""How much the engine takes at once; the planner counts with the same numbers."""

WORKERS = 2  # each holds a micro-batch's activations, so that the budget is split among them
RESERVE_BYTES = 1_500_000_000  # left for activations when the dequantized weights are cached


def workers() -> int:
    """How many micro-batches run side by side here: one where torch has a single thread."""
    import torch

    return WORKERS if torch.get_num_threads() >= WORKERS else 1
