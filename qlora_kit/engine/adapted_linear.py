"""The frozen 4-bit linear with its adapter, forward and backward by hand.

    y = x W^T + s (x A^T) B^T        W frozen in NF4, A and B trained   (QLoRA, equation 5)

What PEFT and bitsandbytes do for this layer is right everywhere. On a CPU it is slow for two
reasons that this module removes without changing the result: W is dequantized again in every
forward and every backward, and the adapter's part walks over the output four times.
"""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class AdaptedLinear(torch.autograd.Function):
    """y = x W^T + scale (x A^T) B^T with W frozen, saving x once and no output.

    W may be in 16 bits while x is in fp32: products run in W's dtype and are summed in x's.
    The sum matters. Rounded to bf16, an output swallows the adapter's contribution as long as
    it is smaller than half a step of the output's own rounding, which it is when B starts at 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        W: torch.Tensor,
        A: torch.Tensor,
        B: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        """Args: x (..., in), W (out, in), A (rank, in), B (out, rank), bias (out). y (..., out)."""
        rows = x.reshape(-1, x.shape[-1]).to(W.dtype)
        A, scaled_B = A.to(W.dtype), (B * scale).to(W.dtype)
        low = rows @ A.t()
        y = (rows @ W.t()).to(x.dtype)
        if y.dtype == W.dtype:
            y.addmm_(low, scaled_B.t())
        else:
            y += low @ scaled_B.t()
        if bias is not None:
            y += bias
        ctx.save_for_backward(rows, W, A, scaled_B, low)
        ctx.scale, ctx.shape, ctx.dtype, ctx.adapter_dtype = scale, x.shape, x.dtype, B.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, W, A, scaled_B, low = ctx.saved_tensors
        dy = grads[0].reshape(-1, grads[0].shape[-1]).to(W.dtype)
        d_low = dy @ scaled_B
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ W).to(ctx.dtype)
            if dx.dtype == W.dtype:
                dx.addmm_(d_low, A)
            else:
                dx += d_low @ A
            dx = dx.view(ctx.shape)
        dA = (d_low.t() @ rows).to(ctx.adapter_dtype)
        dB = (dy.t() @ low).to(ctx.adapter_dtype) * ctx.scale
        return dx, None, dA, dB, None, None


def dense_weight(layer: torch.nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """The frozen weight of a 4-bit linear, dequantized.

    Args:
        layer: a bitsandbytes `Linear4bit`.
        dtype: the dtype wanted.

    Returns:
        (out, in). Equal to `bitsandbytes.functional.dequantize_4bit`, cast to dtype.
    """
    from bitsandbytes.functional import dequantize_4bit

    weight: Any = layer.weight
    return dequantize_4bit(weight.data, weight.quant_state).to(dtype)


@contextmanager
def dense_cache(model: torch.nn.Module, dtype: torch.dtype) -> Iterator[int]:
    """Inside, 4-bit layers multiply with weights that were dequantized once, in `dtype`.

    The frozen weights never change, so the cache is exact; it costs their dense size in
    memory. Layers with one plain LoRA adapter also run as `AdaptedLinear`. Everything is put
    back on leaving. Layers that are not 4-bit, and adapters that do more (DoRA, dropout, a
    bias, several at once, merged), keep their own forward.

    Args:
        model: a bitsandbytes 4-bit model, with or without PEFT adapters.
        dtype: of the cached weights and the products.

    Yields:
        The bytes that the cache takes.
    """
    from bitsandbytes.nn import Linear4bit
    from peft.tuners.lora import LoraLayer

    patched: list[torch.nn.Module] = []
    cached_bytes = 0
    try:
        for module in list(model.modules()):
            if isinstance(module, Linear4bit):
                module.dense = dense_weight(module, dtype)
                cached_bytes += module.dense.numel() * module.dense.element_size()
                module.forward = types.MethodType(_dense_forward, module)
                patched.append(module)
        for module in list(model.modules()):
            if isinstance(module, LoraLayer) and hasattr(module.get_base_layer(), "dense"):
                module.forward = types.MethodType(_adapted_forward, module)
                patched.append(module)
        yield cached_bytes
    finally:
        for module in patched:
            del module.forward  # uncovers the class's own
            module.__dict__.pop("dense", None)


def _dense_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.nn.functional.linear(x.to(layer.dense.dtype), layer.dense).to(x.dtype)
    return y if layer.bias is None else y + layer.bias


def _adapted_forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    name = names[0] if len(names) == 1 else None
    if name is None or args or kwargs or not is_plain(layer, name):
        return type(layer).forward(layer, x, *args, **kwargs)
    base = layer.get_base_layer()
    A, B = layer.lora_A[name].weight, layer.lora_B[name].weight
    return AdaptedLinear.apply(x, base.dense, A, B, base.bias, layer.scaling[name])


def is_plain(layer: Any, name: str) -> bool:
    """Whether a LoRA layer's output is x W^T + scale (x A^T) B^T and nothing else.

    Args:
        layer: PEFT's.
        name: of its active adapter.
    """
    dropout = layer.lora_dropout[name]
    return not (
        layer.disable_adapters
        or layer.merged
        or name in layer.lora_variant
        or layer.lora_bias[name]
        or (layer.training and not isinstance(dropout, torch.nn.Identity))
    )
