"""Checks of lesson 02: counting, computing and starting an adapter."""

from typing import Any

import torch

from ..checking import Hint, call, number


def adapter_parameters(answer: Any) -> str:
    """02.1: a function from (out_features, in_features, rank) to trained parameters."""
    given = number(call(answer, 1536, 576, 8))
    if given == 1536 * 576:
        raise Hint("That is the whole matrix; the adapter has only B (out, rank) and A (rank, in).")
    if given == 2 * 8 * 576 or given == 2 * 8 * 1536:
        raise Hint("The two matrices differ: one has out x rank entries, the other rank x in.")
    if given == 8 * 1536 * 8 * 576 or given == 8 * 1536 * 576:
        raise Hint("Add the two matrices' entries, do not multiply them.")
    if given != 8 * (1536 + 576):
        raise Hint(f"For (1536, 576) at rank 8 it should be 16,896; yours gives {given:,.0f}.")
    return "It grows with out + in, the full matrix with out x in: that is the whole trick."


def lora_forward(answer: Any) -> str:
    """02.2: a function (x, W, A, B, alpha) -> y with the scale alpha / rank."""
    generator = torch.Generator().manual_seed(0)
    x, W, A, B = (torch.randn(s, generator=generator) for s in ((3, 6), (5, 6), (2, 6), (5, 2)))
    y = call(answer, x, W, A, B, 8.0)
    base, low = x @ W.t(), x @ A.t() @ B.t()
    if not isinstance(y, torch.Tensor) or y.shape != base.shape:
        raise Hint("The result should have shape (3, 5): x is (3, 6) and W is (5, 6).")
    for scale, hint in (
        (1.0, "The adapter's part is not scaled: multiply it by alpha / rank."),
        (8.0, "You scale by alpha; divide it by the rank, which is A.shape[0]."),
        (0.25, "Your scale is upside down: it is alpha / rank."),
        (8 / 6, "You divide alpha by the inputs; the rank is A.shape[0]."),
        (8 / 2**0.5, "That is rsLoRA's scale; here it is alpha / rank."),
    ):
        if torch.allclose(y, base + scale * low, atol=1e-4):
            raise Hint(hint)
    if torch.allclose(y, 4.0 * low, atol=1e-4):
        raise Hint("The frozen layer's own output is missing: the adapter comes on top.")
    if torch.allclose(y, 4.0 * (base + low), atol=1e-4):
        raise Hint("Only the adapter's part is scaled, not the frozen layer's.")
    if not torch.allclose(y, base + 4.0 * low, atol=1e-4):
        raise Hint("The value differs from x W^T + (alpha / rank) x A^T B^T.")
    return "Two thin products instead of one thick one: that is how training does it, too."


def first_gradient(answer: Any) -> str:
    """02.3: with A at zero and B not, which has a gradient of exactly zero at the first step."""
    given = str(answer).strip().upper()
    if given == "A":
        raise Hint("A is zero, but its gradient is B^T dy x^T, and B is not zero here.")
    if given in ("AB", "BOTH", "A AND B", "A, B"):
        raise Hint("If both had none, nothing could ever be learned. Follow dy back to each.")
    if given in ("NONE", "NEITHER"):
        raise Hint("One of them is reached only through the other, which is zero at the start.")
    if given != "B":
        raise Hint('Answer with "A" or "B".')
    return "B's gradient is dy (A x)^T: whichever is zero lets the other wait. PEFT lets A wait."


CHECKS = {"02.1": adapter_parameters, "02.2": lora_forward, "02.3": first_gradient}
