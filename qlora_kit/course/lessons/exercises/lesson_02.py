"""Checks of lesson 02: counting, computing and starting an adapter."""

from typing import Any

import torch

from ..checking import call, choice, expect, number, require


def adapter_parameters(answer: Any) -> str:
    """02.1: a function from (out_features, in_features, rank) to trained parameters."""
    count = number(call(answer, 1536, 576, 8))
    differ = "The two matrices differ: one has out x rank entries, the other rank x in."
    product = "Add the two matrices' entries, do not multiply them."
    mistakes = {
        1536
        * 576: "That is the whole matrix; the adapter has only B (out, rank) and A (rank, in).",
        2 * 8 * 576: differ,
        2 * 8 * 1536: differ,
        8 * 1536 * 8 * 576: product,
        8 * 1536 * 576: product,
    }
    expect(
        count,
        8 * (1536 + 576),
        mistakes,
        f"For (1536, 576) at rank 8 it should be 16,896; yours gives {count:,.0f}.",
        tolerance=0,
    )
    return "It grows with out + in, the full matrix with out x in: that is the whole trick."


def lora_forward(answer: Any) -> str:
    """02.2: a function (x, W, A, B, alpha) -> y with the scale alpha / rank."""
    generator = torch.Generator().manual_seed(0)
    x, W, A, B = (torch.randn(s, generator=generator) for s in ((3, 6), (5, 6), (2, 6), (5, 2)))
    y = call(answer, x, W, A, B, 8.0)
    base, low = x @ W.t(), x @ A.t() @ B.t()
    require(
        isinstance(y, torch.Tensor) and y.shape == base.shape,
        "The result should have shape (3, 5): x is (3, 6) and W is (5, 6).",
    )
    for mistake, hint in (
        (base + low, "The adapter's part is not scaled: multiply it by alpha / rank."),
        (base + 8.0 * low, "You scale by alpha; divide it by the rank, which is A.shape[0]."),
        (base + 0.25 * low, "Your scale is upside down: it is alpha / rank."),
        (base + 8 / 6 * low, "You divide alpha by the inputs; the rank is A.shape[0]."),
        (base + 8 / 2**0.5 * low, "That is rsLoRA's scale; here it is alpha / rank."),
        (4.0 * low, "The frozen layer's own output is missing: the adapter comes on top."),
        (4.0 * (base + low), "Only the adapter's part is scaled, not the frozen layer's."),
    ):
        require(not torch.allclose(y, mistake, atol=1e-4), hint)
    require(
        torch.allclose(y, base + 4.0 * low, atol=1e-4),
        "The value differs from x W^T + (alpha / rank) x A^T B^T.",
    )
    return "Two thin products instead of one thick one: that is how training does it, too."


_BOTH = "If both had none, nothing could ever be learned. Follow dy back to each."
_NEITHER = "One of them is reached only through the other, which is zero at the start."
# 02.3: with A at zero and B not, which has a gradient of exactly zero at the first step.
first_gradient = choice(
    right="b",
    wrong={
        "a": "A is zero, but its gradient is B^T dy x^T, and B is not zero here.",
        **dict.fromkeys(("ab", "both", "a and b", "a, b"), _BOTH),
        **dict.fromkeys(("none", "neither"), _NEITHER),
    },
    words='"A" or "B"',
    reason="B's gradient is dy (A x)^T: whichever is zero lets the other wait. PEFT lets A wait.",
)

CHECKS = {"02.1": adapter_parameters, "02.2": lora_forward, "02.3": first_gradient}
