"""The two ways into the fast path: `fast_training` and `fast_generation`.

Every patch of a model begins and ends here, in one order:

    training on a CPU      dense_cache, then fused_layers (reads the cache), then bare_head
    training elsewhere     bare_head
    generation on a CPU    dense_cache; merged_layers (reads the cache) around each batch of answers

Each of them looks for what it knows by structure, is compared with the library's own forward
(`selfcheck`), leaves alone what somebody else has patched, and is undone on leaving. Inside
another of its kind it changes nothing that counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..machine import Machine, detect, main_memory
from ..models import Model
from .adapted_linear import dense_cache
from .fused import fused_layers
from .loss import bare_head
from .merged import merged_layers
from .parallel import workers

# Left for activations when weights are copied; chosen by hand.
_RESERVE_BYTES = 1_500_000_000


@contextmanager
def fast_training(model: Model, machine: Machine, low_memory: bool = False) -> Iterator[int]:
    """Inside, a model trains fast: on a CPU from cached weights, by fused layers and a bare head.

    On a GPU, and in low memory, with head and loss in one, which never holds all logits.

    Args:
        model: with what is trained; `completion_loss` is its loss.
        machine: decides, with the memory that is free now, and says in which dtype products run.
        low_memory: hold no dequantized weights.

    Yields:
        How many micro-batches may run side by side (`accumulate`); everything is put back on
        leaving.
    """
    if low_memory or machine.device != "cpu":
        with bare_head(model):
            yield 1
        return
    dtype = getattr(torch, machine.compute_dtype)
    with _cached_when_it_fits(model, machine, dtype), fused_layers(model) as fused:
        if not fused:
            yield 1
            return
        with bare_head(model, dtype) as bare:
            yield workers() if bare else 1  # without it, a hook chooses the positions


@contextmanager
def fast_generation(model: Model, merged: bool = False) -> Iterator[Any]:
    """Inside, a 4-bit model on a CPU answers from dequantized weights, several times faster.

    In fp32 on every CPU, so that the answers do not depend on which one it is.

    Args:
        model: from `load_run` or `models.load`.
        merged: go one step further, for a batch of answers: the adapter that is active now is
            added into copies of the weights (those of an outer `fast_generation`, if they are in
            4 bits), and must not be switched inside.

    Yields:
        The model; everything is put back on leaving.
    """
    if merged:
        with merged_layers(model, _RESERVE_BYTES):
            yield model
        return
    with _cached_when_it_fits(model, detect(), torch.float32):
        yield model


@contextmanager
def _cached_when_it_fits(model: Model, machine: Machine, dtype: torch.dtype) -> Iterator[None]:
    """`dense_cache` on a CPU that has the memory for it; elsewhere nothing changes."""
    packed = sum(p.numel() for p in model.parameters() if p.dtype == torch.uint8)
    needed = 2 * packed * dtype.itemsize + _RESERVE_BYTES
    if machine.device != "cpu" or needed > main_memory()[0]:
        yield
        return
    with dense_cache(model, dtype):
        yield
