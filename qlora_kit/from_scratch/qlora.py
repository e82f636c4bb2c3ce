"""A 4-bit linear layer with an adapter, forward and backward written out."""

from collections.abc import Callable
from typing import Any

import torch

from .quantize import Quantized4bit, dequantize_4bit


class QLoraLinear(torch.autograd.Function):
    """y = x W^T + scale (x A^T) B^T with W in 4 bits, dequantized whenever it is needed.

    The dense W lives for one product, in forward and again in backward: time is paid for
    memory. Nothing dense of W's size is saved, and no gradient of W is ever made.

    Source: QLoRA (arXiv 2305.14314), equations 5 and 6; equal to bitsandbytes' `matmul_4bit`
    with PEFT's `lora.Linear4bit`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        W: Quantized4bit,
        A: torch.Tensor,
        B: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Args: x (..., in), W (out, in) in 4 bits, A (rank, in), B (out, rank). y (..., out)."""
        ctx.W, ctx.scale = W, scale
        ctx.save_for_backward(x, A, B)
        dense = dequantize_4bit(W).to(x.dtype)
        return x @ dense.t() + scale * ((x @ A.t()) @ B.t())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, A, B = ctx.saved_tensors
        dy = grads[0] * ctx.scale
        rows, d_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        dB = d_rows.t() @ (rows @ A.t())
        dA = (d_rows @ B).t() @ rows
        dx = None
        if ctx.needs_input_grad[0]:
            dx = grads[0] @ dequantize_4bit(ctx.W).to(x.dtype) + (dy @ B) @ A
        return dx, None, dA, dB, None


def saved_for_backward(run: Callable[[], Any], model: torch.nn.Module | None = None) -> int:
    """The bytes that autograd keeps between forward and backward.

    Args:
        run: makes a forward pass; what it returns is dropped.
        model: its weights are there anyway and are not counted.

    Returns:
        Bytes, each piece of memory counted once.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()} if model else set()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    del result
    return sum(kept.values())
