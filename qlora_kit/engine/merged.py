"""A decoder layer that only answers: adapters added into the weights, few products, no gradients.

    h = norm(x)        q, k, v = rotated(h W^T)        x += o(attention(q, k, v))
    h = norm(x)        g, u    =         h W^T         x += down(silu(g) * u)

While nothing is trained, W + s B A is one matrix (QLoRA, equation 5), and weights with the same
input are one product. On a CPU each product of an answer's next token waits for its weights to
come out of memory, and each small one beside it costs a call: 4 a layer are left of 21.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

import torch

from ..machine import main_memory
from ..models import Model
from .adapted_linear import plain_adapter
from .decoder import Replacement, decoder_layers, linears_of, patch_layers
from .fused import norm, rotate
from .patching import is_untouched, patch

_FEW_ROWS = 64  # up to here MKL takes up to twice as long for x W^T as for W x^T


@contextmanager
def merged_layers(model: Model, reserve: int) -> Iterator[bool]:
    """Inside, a model of Llama's build on a CPU answers from merged and joined weights.

    The weights are a copy, made anew at each entry from the adapter that is active then: the
    model's own stay as they are, to the bit. A 4-bit model takes part inside a `dense_cache`. Other
    builds, other dtypes than fp32, adapters that do more than add s B A, and machines without
    the memory for the copy stay as they are.

    Args:
        model: in eval mode, with or without PEFT adapters.
        reserve: bytes of the free memory to leave for other things.

    Yields:
        Whether its layers are merged; everything is put back on leaving.
    """
    layers, way = decoder_layers(model), Replacement(_forward, _merged_weights, trains=False)
    able = bool(layers) and all(map(_can_merge, layers)) and _has_room(layers, reserve)
    with ExitStack() as stack:
        merged = able and patch_layers(stack, layers, way)
        head = model.get_output_embeddings()
        plain = type(head) is torch.nn.Linear and head.weight.dtype == torch.float32
        if merged and plain and is_untouched(head):
            patch(stack, head, forward=MethodType(_head_forward, head))
        yield merged


def quick_linear(
    x: torch.Tensor, W: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x W^T + bias, in the order of factors that is the quicker one.

    Args:
        x: (..., in).
        W: (out, in).
        bias: (out), or None.

    Returns:
        (..., out). Equal to `torch.nn.functional.linear`.
    """
    rows = x.numel() // x.shape[-1]
    if not 1 < rows <= _FEW_ROWS:
        return torch.nn.functional.linear(x, W, bias)
    y = (W @ x.reshape(rows, -1).t()).t().contiguous().view(*x.shape[:-1], -1)
    return y if bias is None else y.add_(bias)


def _can_merge(layer: Any) -> bool:
    return not layer.training and all(map(_is_mergeable, linears_of(layer)))


def _is_mergeable(linear: Any) -> bool:
    weight = _frozen(linear)
    if weight is None or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return False
    alone = not _adapters(linear) and not getattr(linear, "merged", False)
    return alone or plain_adapter(linear) is not None


def _frozen(linear: Any) -> Any:
    """A linear layer's weight without its adapter; None where it is not there undivided."""
    base = getattr(linear, "base_layer", linear)
    plain = type(base) is torch.nn.Linear
    return getattr(base, "dense", base.weight.detach() if plain else None)


def _adapters(linear: Any) -> list[str]:
    """The names of the adapters that take part in a linear layer's output."""
    if getattr(linear, "disable_adapters", True):
        return []
    return [name for name in linear.active_adapters if name in linear.lora_A]


def _has_room(layers: Sequence[Any], reserve: int) -> bool:
    size = sum(_frozen(linear).nbytes for layer in layers for linear in linears_of(layer))
    return size + reserve < main_memory()[0]


@torch.no_grad()
def _merged_weights(layer: Any) -> dict[str, Any]:
    """(weight, bias) of each product: attention's inputs, its output, gate and up, down."""
    q, k, v, o, gate, up, down = linears_of(layer)
    return {"products": [_joined(part) for part in ((q, k, v), (o,), (gate, up), (down,))]}


def _joined(linears: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of linear layers with the same input, as those of one."""
    whole = torch.cat([_frozen(linear) for linear in linears])
    parts = whole.split([linear.out_features for linear in linears])
    for linear, part in zip(linears, parts, strict=True):
        for name in _adapters(linear):
            A, B = linear.lora_A[name].weight, linear.lora_B[name].weight
            part.addmm_(B.float(), A.float(), alpha=linear.scaling[name])
    biases = [getattr(linear, "base_layer", linear).bias for linear in linears]
    return whole, None if biases[0] is None else torch.cat(biases)


def _forward(
    layer: Any,
    x: torch.Tensor,
    attention_mask: Any = None,
    position_embeddings: Any = None,
    **others: Any,
) -> torch.Tensor:
    attention = layer.self_attn
    opening, closing = layer.input_layernorm, layer.post_attention_layernorm
    inputs, output, gated, last = layer.products
    h, _ = norm(x, opening.weight, opening.variance_epsilon)
    y = quick_linear(h, *inputs).view(*x.shape[:2], -1, attention.head_dim)
    keys = attention.k_proj.out_features // attention.head_dim
    cos, sin = (each.unsqueeze(2) for each in position_embeddings)
    turned, v = rotate(y[:, :, :-keys], cos, sin), y[:, :, -keys:].transpose(1, 2)
    q, k = turned[:, :, :-keys].transpose(1, 2), turned[:, :, -keys:].transpose(1, 2)
    cache = others.get("past_key_values")
    if cache is not None:
        k, v = cache.update(k, v, attention.layer_idx)
    context = torch.nn.functional.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=attention_mask,
        scale=attention.scaling,
        enable_gqa=True,
        is_causal=attention_mask is None and x.shape[1] > 1,
    )
    context = context.transpose(1, 2).reshape(*x.shape[:2], -1)
    x = x + quick_linear(context, *output)
    h, _ = norm(x, closing.weight, closing.variance_epsilon)
    gate, up = quick_linear(h, *gated).chunk(2, dim=-1)
    return x.add_(quick_linear(torch.nn.functional.silu(gate).mul_(up), *last))


def _head_forward(head: Any, h: torch.Tensor) -> torch.Tensor:
    return quick_linear(h, head.weight, head.bias)
