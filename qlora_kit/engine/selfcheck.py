"""A fast path is compared with the library's own before it is used.

A library's next version may put a multiplier, a norm or a cap where this room's functions have
none, and a model with it would train wrongly in silence. So the first layer of each kind in a
process computes both ways on random numbers; where they differ, the library's way is kept.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..machine import ran_out_of_memory

# Chosen by hand: fp32 sums in another order differ by about 1e-6 here, and a multiplier that
# somebody chose is further from 1.
_TOLERANCE = 1e-4
_TINY = 1e-30  # of two gradients that are 0 throughout
_SIZES = {"layer_idx", "training", "in_features", "out_features", "hidden_size"}
_VERDICTS: dict[Any, bool] = {}


def is_proven(kind: Any, name: str, difference: Callable[[], float]) -> bool:
    """Whether a fast path computes what the library does: looked at once a process.

    Args:
        kind: what the answer holds for.
        name: for the one line of warning where it does not.
        difference: of the two, relative; called without inference mode.
    """
    if kind not in _VERDICTS:
        try:
            with torch.inference_mode(False), torch.enable_grad():
                size = difference()
            reason = f"it differs by {size:.1g} from the library's"
        except Exception as problem:  # the library's forward may ask for what is not there
            if ran_out_of_memory(problem):
                return False  # for now; it says nothing of the two
            size, reason = float("inf"), f"{type(problem).__name__}: {problem}"
        _VERDICTS[kind] = size < _TOLERANCE
        if not _VERDICTS[kind]:
            warnings.warn(f"{name} keeps its own forward, not the fast one: {reason}", stacklevel=2)
    return _VERDICTS[kind]


def largest_difference(
    ways: Sequence[Callable[[], torch.Tensor]], leaves: Sequence[torch.Tensor]
) -> float:
    """How far two ways of one computation are apart, outputs and gradients, relative.

    Args:
        ways: the fast one and the library's.
        leaves: whose gradients are compared; none compares outputs alone.
    """
    results = []
    for way in ways:
        y = way()
        gradients = torch.autograd.grad(y.square().sum(), leaves) if leaves else ()
        results.append([y, *gradients])
    pairs = zip(*results, strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=_TINY)).item() for a, b in pairs)


def settings_of(module: torch.nn.Module) -> tuple[Any, ...]:
    """What decides how a module computes beside its weights: forward and plain attributes."""
    plain = (bool, int, float, str, type(None))
    attributes = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, plain) and name not in _SIZES
    }
    return type(module), type(module).forward, tuple(sorted(attributes.items()))
