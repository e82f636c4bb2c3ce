"""Checks of lesson 03: gradients by hand, and a plan that fits."""

from typing import Any

import torch

from ..checking import Hint, call, number


def adapter_gradients(answer: Any) -> str:
    """03.1: a function (x, dy, A, B, s) -> (dA, dB)."""
    generator = torch.Generator().manual_seed(0)
    x, dy, A, B = (torch.randn(s, generator=generator) for s in ((7, 6), (7, 5), (2, 6), (5, 2)))
    s = 3.0
    result = call(answer, x, dy, A, B, s)
    if not isinstance(result, tuple) or len(result) != 2:
        raise Hint("Return two things: dA and dB.")
    dA, dB = s * (dy @ B).t() @ x, s * dy.t() @ (x @ A.t())
    given_A, given_B = result
    if given_A.shape == dB.shape and given_B.shape == dA.shape:
        raise Hint("These look swapped: dA has A's shape (2, 6), dB has B's shape (5, 2).")
    if given_A.shape == dA.t().shape or given_B.shape == dB.t().shape:
        raise Hint("A gradient has the shape of its weight; one of yours is transposed.")
    if given_A.shape != dA.shape or given_B.shape != dB.shape:
        raise Hint(f"The shapes should be (2, 6) and (5, 2), not {tuple(given_A.shape)} and "
                   f"{tuple(given_B.shape)}.")  # fmt: skip
    if torch.allclose(given_A * s, dA, atol=1e-4) or torch.allclose(given_B * s, dB, atol=1e-4):
        raise Hint("The scale s is missing: it multiplies the whole adapter, so both gradients.")
    if not torch.allclose(given_A, dA, atol=1e-4):
        raise Hint("dB may be right, dA is not: follow dy back through B, then meet x.")
    if not torch.allclose(given_B, dB, atol=1e-4):
        raise Hint("dA is right, dB is not: it is dy against what A made of x.")
    return "Neither needs W: backward touches the frozen weight only for the gradient of x."


def longest_sequence(answer: Any) -> str:
    """03.2: the longest listed sequence with which Llama-3.1-8B trains on a T4."""
    from ....memory import Workload, find_shape, plan

    lengths = (512, 1024, 2048, 4096, 8192)
    given = number(answer)
    if given not in lengths:
        raise Hint(f"Choose one of {', '.join(map(str, lengths))}.")
    shape = find_shape("Llama-3.1-8B")
    fitting = [n for n in lengths if plan(shape, Workload(sequence_length=n), gpu="T4").fits]
    if given > fitting[-1]:
        found = plan(shape, Workload(sequence_length=int(given)), gpu="T4")
        raise Hint(
            f"With {given:.0f} tokens the plan is {found.total / 1e9:.1f} GB of "
            f"{found.capacity / 1e9:.1f}, and a tenth must stay free: that does not fit."
        )
    if given < fitting[-1]:
        raise Hint(f"{given:.0f} fits, and so does a longer one.")
    return "An 8B model on a free GPU: the tokens at once decide, not the weights alone."


CHECKS = {"03.1": adapter_gradients, "03.2": longest_sequence}
