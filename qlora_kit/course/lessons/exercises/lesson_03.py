"""Checks of lesson 03: gradients by hand, and a plan that fits."""

from typing import Any

import torch

from ..checking import call, number, require


def adapter_gradients(answer: Any) -> str:
    """03.1: a function (x, dy, A, B, s) -> (dA, dB)."""
    generator = torch.Generator().manual_seed(0)
    x, dy, A, B = (torch.randn(s, generator=generator) for s in ((7, 6), (7, 5), (2, 6), (5, 2)))
    s = 3.0
    result = call(answer, x, dy, A, B, s)
    require(isinstance(result, tuple) and len(result) == 2, "Return two things: dA and dB.")
    right_A, right_B = s * (dy @ B).t() @ x, s * dy.t() @ (x @ A.t())
    dA, dB = result
    shapes = [tuple(dA.shape), tuple(dB.shape)]
    require(
        shapes != [(5, 2), (2, 6)],
        "These look swapped: dA has A's shape (2, 6), dB has B's shape (5, 2).",
    )
    require(
        shapes[0] != (6, 2) and shapes[1] != (2, 5),
        "A gradient has the shape of its weight; one of yours is transposed.",
    )
    require(
        shapes == [(2, 6), (5, 2)],
        f"The shapes should be (2, 6) and (5, 2), not {shapes[0]} and {shapes[1]}.",
    )
    unscaled_A = torch.allclose(dA * s, right_A, atol=1e-4)
    unscaled_B = torch.allclose(dB * s, right_B, atol=1e-4)
    require(
        not unscaled_A and not unscaled_B,
        "The scale s is missing: it multiplies the whole adapter, so both gradients.",
    )
    require(
        torch.allclose(dA, right_A, atol=1e-4),
        "dB may be right, dA is not: follow dy back through B, then meet x.",
    )
    require(
        torch.allclose(dB, right_B, atol=1e-4),
        "dA is right, dB is not: it is dy against what A made of x.",
    )
    return "Neither needs W: backward touches the frozen weight only for the gradient of x."


def longest_sequence(answer: Any) -> str:
    """03.2: the longest listed sequence with which Llama-3.1-8B trains on a T4."""
    from ....memory import Workload, find_shape, plan

    lengths = (512, 1024, 2048, 4096, 8192)
    length = number(answer)
    require(length in lengths, f"Choose one of {', '.join(map(str, lengths))}.")
    shape = find_shape("Llama-3.1-8B")
    plans = {n: plan(shape, Workload(sequence_length=n), gpu="T4") for n in lengths}
    chosen = plans[int(length)]
    require(
        chosen.fits,
        f"With {length:.0f} tokens the plan is {chosen.total / 1e9:.1f} GB of "
        f"{chosen.capacity / 1e9:.1f}, and a tenth must stay free: that does not fit.",
    )
    longest = max(n for n in lengths if plans[n].fits)
    require(length == longest, f"{length:.0f} fits, and so does a longer one.")
    return "An 8B model on a free GPU: the tokens at once decide, not the weights alone."


CHECKS = {"03.1": adapter_gradients, "03.2": longest_sequence}
