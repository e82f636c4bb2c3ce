"""The frozen 4-bit linear with its adapter, forward and backward by hand.

    y = x W^T + s (x A^T) B^T        W frozen in NF4, A and B trained   (QLoRA, equation 5)

What PEFT and bitsandbytes do for this layer is right everywhere. On a CPU it is slow for two
reasons that this module removes without changing the result: W is dequantized again in every
forward and every backward, and the adapter's part walks over the output four times.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

import torch

from .patching import is_untouched, patch
from .selfcheck import is_proven, largest_difference, settings_of


def product(
    h: torch.Tensor, W: torch.Tensor, A: torch.Tensor, B: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """y = h W^T + (h A^T) B^T + bias, summed in A's dtype: fp32 or better.

    The sum matters. Rounded to bf16, an output swallows the adapter's contribution as long as
    it is smaller than half a step of the output's own rounding, which it is when B starts at 0.

    Args:
        h: (rows, in) in W's dtype.
        W: (out, in), frozen.
        A: (rank, in).
        B: (out, rank), scaled.
        bias: (out), or None.

    Returns:
        (y (rows, out), h A^T (rows, rank)), both in A's dtype.
    """
    low = (h @ A.to(W.dtype).t()).to(A.dtype)
    y = (h @ W.t()).to(A.dtype).addmm_(low, B.t())
    return (y if bias is None else y.add_(bias)), low


def product_backward(
    dy: torch.Tensor,
    inputs: tuple[torch.Tensor, torch.Tensor],
    W: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of `product`.

    Args:
        dy: (rows, out) in W's dtype.
        inputs: h and h A^T, as there.
        W, A, B: as there.

    Returns:
        (dh, dA, dB), each of the shape of what it belongs to and in A's dtype.
    """
    h, low = inputs
    d_low = dy @ B.to(W.dtype)
    dA = (d_low.t() @ h).to(A.dtype)
    dB = (dy.t() @ low.to(W.dtype)).to(A.dtype)
    return (dy @ W).to(A.dtype).addmm_(d_low.to(A.dtype), A), dA, dB


class AdaptedLinear(torch.autograd.Function):
    """y = x W^T + (x A^T) B^T + bias with W frozen: `product`, saving x once and no output."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        A: torch.Tensor,
        B: torch.Tensor,
        W: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """Args: x (..., in), A (rank, in), scaled B (out, rank), W (out, in). y (..., out)."""
        rows = x.reshape(-1, x.shape[-1]).to(W.dtype)
        y, low = product(rows, W, A, B, bias)
        ctx.save_for_backward(rows, low, A, B)
        ctx.W, ctx.shape, ctx.dtype = W, x.shape, x.dtype
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, low, A, B = ctx.saved_tensors
        dy = grads[0].reshape(len(rows), -1).to(rows.dtype)
        dx, dA, dB = product_backward(dy, (rows, low), ctx.W, A, B)
        return dx.to(ctx.dtype).view(ctx.shape), dA, dB, None, None


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
    memory. Layers with one plain LoRA adapter also run as `AdaptedLinear`, if that computes what
    PEFT does. Layers that are not 4-bit, that somebody else has patched, and adapters that do
    more (DoRA, dropout, a bias, several at once, merged), keep their own forward.

    Args:
        model: a bitsandbytes 4-bit model, with or without PEFT adapters.
        dtype: of the cached weights and the products.

    Yields:
        The bytes that the cache takes; everything is put back on leaving.
    """
    from bitsandbytes.nn import Linear4bit
    from peft.tuners.lora import LoraLayer

    untouched = [module for module in model.modules() if is_untouched(module)]
    cached_bytes = 0
    with ExitStack() as stack:
        for module in untouched:
            if isinstance(module, Linear4bit):
                dense = dense_weight(module, dtype)
                patch(stack, module, dense=dense, forward=MethodType(_dense_forward, module))
                cached_bytes += dense.nbytes
        for module in untouched:
            cached = isinstance(module, LoraLayer) and hasattr(module.get_base_layer(), "dense")
            if cached and _is_proven(module):
                patch(stack, module, forward=MethodType(_adapted_forward, module))
        yield cached_bytes


def _dense_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.nn.functional.linear(x.to(layer.dense.dtype), layer.dense).to(x.dtype)
    return y if layer.bias is None else y + layer.bias


def _adapted_forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    name = plain_adapter(layer)
    if name is None or args or kwargs:
        return type(layer).forward(layer, x, *args, **kwargs)
    base, B = layer.get_base_layer(), layer.lora_B[name].weight * layer.scaling[name]
    return AdaptedLinear.apply(x, layer.lora_A[name].weight, B, base.dense, base.bias)


def _is_proven(layer: Any) -> bool:
    """Whether PEFT's own forward of a LoRA layer is `_adapted_forward`'s result, in fp32."""
    name = plain_adapter(layer)
    if name is None:
        return True  # it may be plain later; `_adapted_forward` looks each time
    base, weights = layer.get_base_layer(), (layer.lora_A[name].weight, layer.lora_B[name].weight)

    def difference() -> float:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, base.in_features, generator=generator, device="cpu").requires_grad_()
        with ExitStack() as stack:
            patch(stack, base, dense=base.dense.float().clone())  # no tensor of inference mode
            ways = [lambda: _adapted_forward(layer, x), lambda: type(layer).forward(layer, x)]
            return largest_difference(ways, [x, *(w for w in weights if w.requires_grad)])

    return is_proven(settings_of(layer), type(layer).__name__, difference)


def plain_adapter(layer: Any) -> str | None:
    """The one adapter by which a LoRA layer computes x W^T + scale (x A^T) B^T and nothing else.

    Args:
        layer: PEFT's.

    Returns:
        The adapter's name; None where the layer does more, less or another thing.
    """
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1 or layer.disable_adapters or layer.merged:
        return None
    name = names[0]
    drops = layer.training and not isinstance(layer.lora_dropout[name], torch.nn.Identity)
    return None if drops or name in layer.lora_variant or layer.lora_bias[name] else name


def runs_adapted(layer: Any) -> bool:
    """Whether a linear layer computes as `AdaptedLinear` now, inside a `dense_cache`."""
    own = getattr(layer.forward, "__func__", None) is _adapted_forward
    return own and plain_adapter(layer) is not None
