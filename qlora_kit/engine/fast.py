"""Dequantized weights while a model trains or answers, where the memory is there for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..machine import Machine, detect, main_memory
from ..models import Model
from .adapted_linear import dense_cache

RESERVE_BYTES = 1_500_000_000  # left for activations when the dequantized weights are cached


@contextmanager
def cached_when_it_fits(model: Model, machine: Machine, dtype: str | None = None) -> Iterator[None]:
    """`dense_cache` on a CPU that has the memory for it; elsewhere nothing changes.

    Args:
        model: a model, quantized or not.
        machine: decides, with the memory that is free now.
        dtype: of the cached weights; None means the machine's compute dtype.
    """
    wanted = getattr(torch, dtype or machine.compute_dtype)
    packed = sum(p.numel() for p in model.parameters() if p.dtype == torch.uint8)
    needed = 2 * packed * wanted.itemsize + RESERVE_BYTES
    if machine.device != "cpu" or needed > main_memory()[0]:
        yield
        return
    with dense_cache(model, wanted):
        yield


@contextmanager
def ready(model: Model) -> Iterator[Any]:
    """Inside, a 4-bit model on a CPU answers from dequantized weights, several times faster.

    In fp32 on every CPU, so that the answers do not depend on which one it is.

    Args:
        model: from `load_run` or `models.load`.
    """
    with cached_when_it_fits(model, detect(), "float32"):
        yield model
