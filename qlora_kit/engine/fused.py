"""A decoder layer's forward and backward by hand: what lies between its products costs little.

    h = norm(x)        q, k, v = rotated(h W^T + s (h A^T) B^T)      x += o(attention(q, k, v))
    h = norm(x)        g, u    =         h W^T + s (h A^T) B^T       x += down(silu(g) * u)

On a CPU with fast 16-bit products the work between them takes as long as they do: each norm,
cast, rotation and sum walks over memory, forward and backward. Here weights with the same input
are one product, each input is cast and kept once, and silu(g) * u is computed again instead of
kept. The sums stay in fp32, and so does the residual stream; only products run in W's dtype.

With `loss.HeadLoss` and `parallel`, 2 cores of an AMD EPYC (AVX512-BF16) trained the bundled model
about 1.6 times as fast as without (medians of alternating runs), at 44 instead of 27 % of what its
bf16 products would allow. Tried and left out: `torch.compile` of whole layers, which compiles for
longer than a lesson trains; fp32 products in bf16 inside, at half of bf16's rate.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch

from ..models import Model
from .adapted_linear import AdaptedLinear, product, product_backward, runs_adapted
from .decoder import Replacement, decoder_layers, linears_of, patch_layers


class Frozen(NamedTuple):
    """What is not trained of a norm and the linear layers that read it, joined to one.

    W: (out, in).   bias: (out), or None.   norm: the norm's weight, (in).   eps: the norm's.
    """

    W: torch.Tensor
    bias: torch.Tensor | None
    norm: torch.Tensor
    eps: float


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """RMSNorm: x / sqrt(mean(x^2) + eps) * weight.

    Args:
        x: (rows, width), or (..., width).
        weight: (width).
        eps: added to the mean of the squares.

    Returns:
        (the norm, of x's shape; 1 / sqrt(...), one number a row).
    """
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    inverse = inverse.add_(eps).rsqrt_()
    return (x * inverse).mul_(weight), inverse


def norm_backward(
    dh: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor
) -> torch.Tensor:
    """The gradient of `norm`'s x.

    Args:
        dh: (rows, width), of what the norm returned; it is overwritten.
        x, weight: as there.
        inverse: (rows, 1), the second that it returned.

    Returns:
        (rows, width).
    """
    dh.mul_(weight)
    along = (dh * x).sum(-1, keepdim=True).mul_(inverse.pow(3)).div_(x.shape[-1])
    return dh.mul_(inverse).addcmul_(x, along, value=-1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: each pair of numbers (half a head apart) turned by its angle.

    Args:
        x: (batch, sequence, heads, head).
        cos, sin: (batch or 1, sequence, 1, head), both halves alike. -sin turns back.

    Source: equal to transformers' `apply_rotary_pos_emb`.
    """
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., half:], value=-1)
    turned[..., half:].addcmul_(x[..., :half], sin[..., :half])
    return turned


class AttentionInputs(torch.autograd.Function):
    """x -> queries, keys and values: norm, one product, rotation."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        A: torch.Tensor,
        B: torch.Tensor,
        frozen: Frozen,
        rotation: tuple[torch.Tensor, torch.Tensor],
        heads: tuple[int, int],
    ) -> tuple[torch.Tensor, ...]:
        """The heads' inputs.

        Args:
            x: (batch, sequence, hidden).
            A, B: of queries, keys and values, joined; B is scaled.
            frozen: of theirs.
            rotation: cos and sin, as `rotate` takes them.
            heads: how many of queries, how many of keys.

        Returns:
            Queries, keys, values: (batch, sequence, heads, head) each.
        """
        rows = x.reshape(-1, x.shape[-1])
        h, inverse = norm(rows, frozen.norm, frozen.eps)
        h = h.to(frozen.W.dtype)
        y, low = product(h, frozen.W, A, B, frozen.bias)
        y = y.view(*x.shape[:2], heads[0] + 2 * heads[1], -1)
        turning = heads[0] + heads[1]
        turned = rotate(y[:, :, :turning], *rotation)
        ctx.save_for_backward(rows, inverse, h, low, A, B)
        ctx.frozen, ctx.rotation, ctx.shape = frozen, rotation, x.shape
        return turned[:, :, : heads[0]], turned[:, :, heads[0] :], y[:, :, turning:]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, inverse, h, low, A, B = ctx.saved_tensors
        W, (cos, sin) = ctx.frozen.W, ctx.rotation
        dq, dk, dv = grads
        parts = rotate(dq, cos, -sin), rotate(dk, cos, -sin), dv
        dy = torch.cat([part.to(W.dtype) for part in parts], dim=2).view(len(rows), -1)
        dh, dA, dB = product_backward(dy, (h, low), W, A, B)
        dx = norm_backward(dh, rows, ctx.frozen.norm, inverse).view(ctx.shape)
        return dx, dA, dB, None, None, None


class GatedMLP(torch.autograd.Function):
    """x -> x + down(silu(gate(norm(x))) * up(norm(x)))."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        frozen: Frozen,
        W2: torch.Tensor,
        *adapters: torch.Tensor,
    ) -> torch.Tensor:
        """The residual stream after the block.

        Args:
            x: (batch, sequence, hidden).
            frozen: of gate and up.
            W2: of down, (hidden, inner).
            adapters: A and scaled B of gate and up, joined; A and scaled B of down.

        Returns:
            (batch, sequence, hidden).
        """
        A, B, A2, B2 = adapters
        rows = x.reshape(-1, x.shape[-1])
        h, inverse = norm(rows, frozen.norm, frozen.eps)
        h = h.to(W2.dtype)
        y, low = product(h, frozen.W, A, B, None)
        gate, up = y.chunk(2, dim=-1)
        inner = (torch.nn.functional.silu(gate) * up).to(W2.dtype)
        out, low2 = product(inner, W2, A2, B2, None)
        ctx.save_for_backward(rows, inverse, h, low, y.to(W2.dtype), low2, *adapters)
        ctx.frozen, ctx.W2 = frozen, W2
        return out.add_(rows).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, inverse, h, low, y, low2, A, B, A2, B2 = ctx.saved_tensors
        W, W2 = ctx.frozen.W, ctx.W2
        d_out = grads[0].reshape(rows.shape)
        gate, up = y.chunk(2, dim=-1)
        opened = torch.nn.functional.silu(gate)
        inputs = opened * up, low2
        d_inner, dA2, dB2 = product_backward(d_out.to(W.dtype), inputs, W2, A2, B2)
        d_inner = d_inner.to(W.dtype)
        dy = torch.empty_like(y)
        d_gate, d_up = dy.chunk(2, dim=-1)
        torch.mul(d_inner, opened, out=d_up)
        d_gate.copy_(torch.ops.aten.silu_backward(d_inner.mul_(up), gate))
        dh, dA, dB = product_backward(dy, (h, low), W, A, B)
        dx = norm_backward(dh, rows, ctx.frozen.norm, inverse).add_(d_out).view(grads[0].shape)
        return dx, None, None, dA, dB, dA2, dB2


@contextmanager
def fused_layers(model: Model) -> Iterator[bool]:
    """Inside a `dense_cache`, train a model of Llama's build by this module's functions.

    Other builds, adapters on some of the linear layers only or with dropout, models without a
    cache, and layers in which anything else is trained stay as they are.

    Args:
        model: a PEFT model.

    Yields:
        Whether the model is fused; everything is put back on leaving.
    """
    layers, way = decoder_layers(model), Replacement(_forward, _frozen_weights, trains=True)
    with ExitStack() as stack:
        able = bool(layers) and all(map(_can_fuse, layers))
        yield able and patch_layers(stack, layers, way)


def _can_fuse(layer: Any) -> bool:
    linears = linears_of(layer)
    trained = sum(parameter.requires_grad for parameter in layer.parameters())
    return (
        not layer.self_attn.config.attention_dropout
        and all(map(runs_adapted, linears))
        and all(linear.base_layer.bias is None for linear in linears[4:])
        and trained == 2 * len(linears)  # an A and a B each
    )


def _frozen_weights(layer: Any) -> dict[str, Any]:
    """What the layer's forward reads: the inputs of attention and of the gated block."""
    q, k, v, _, gate, up, _ = linears_of(layer)
    first, second = layer.input_layernorm, layer.post_attention_layernorm
    biases = [linear.base_layer.bias for linear in (q, k, v)]
    bias = None if biases[0] is None else torch.cat(biases)
    return {
        "attention_inputs": Frozen(_joined(q, k, v), bias, first.weight, first.variance_epsilon),
        "gated_inputs": Frozen(_joined(gate, up), None, second.weight, second.variance_epsilon),
    }


def _joined(*linears: Any) -> torch.Tensor:
    """Their cached weights in one; each keeps its part, so that memory holds them once."""
    bases = [linear.base_layer for linear in linears]
    whole = torch.cat([base.dense for base in bases])
    for base, part in zip(bases, whole.split([len(base.dense) for base in bases]), strict=True):
        base.dense = part
    return whole


def _adapters(*linears: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A and scaled B of linear layers with the same input, as those of one.

    Args:
        linears: n of them, with one adapter each.

    Returns:
        A (n rank, in), one below the other; B (sum of out, n rank), block-diagonal, so that each
        layer's output sees its own h A^T alone.
    """
    names = [linear.active_adapters[0] for linear in linears]
    pairs = list(zip(linears, names, strict=True))
    A = torch.cat([linear.lora_A[name].weight for linear, name in pairs])
    B = [linear.lora_B[name].weight * linear.scaling[name] for linear, name in pairs]
    return A, torch.block_diag(*B)


def _forward(
    layer: Any,
    x: torch.Tensor,
    attention_mask: Any = None,
    position_embeddings: Any = None,
    **others: Any,
) -> torch.Tensor:
    width = layer.self_attn.head_dim
    if others.get("past_key_values") is not None or position_embeddings[0].shape[-1] != width:
        others["position_embeddings"] = position_embeddings
        return type(layer).forward(layer, x, attention_mask, **others)
    q, k, v, o, gate, up, down = linears_of(layer)
    heads = (q.out_features // width, k.out_features // width)
    cos, sin = (each.unsqueeze(2) for each in position_embeddings)
    adapters = _adapters(q, k, v)
    parts = AttentionInputs.apply(x, *adapters, layer.attention_inputs, (cos, sin), heads)
    queries, keys, values = (part.transpose(1, 2) for part in parts)
    context = torch.nn.functional.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=attention_mask,
        is_causal=attention_mask is None,
        scale=layer.self_attn.scaling,
        enable_gqa=True,
    )
    context = context.transpose(1, 2).reshape(*x.shape[:2], -1)
    x = x + AdaptedLinear.apply(context, *_adapters(o), o.base_layer.dense, o.base_layer.bias)
    both = *_adapters(gate, up), *_adapters(down)
    return GatedMLP.apply(x, layer.gated_inputs, down.base_layer.dense, *both)
