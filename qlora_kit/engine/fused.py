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

import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..models import Model
from .adapted_linear import AdaptedLinear, is_plain
from .loss import bare_head

LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")  # built as above


def product(
    h: torch.Tensor, W: torch.Tensor, A: torch.Tensor, B: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """y = h W^T + (h A^T) B^T + bias, summed in fp32 or better.

    Args:
        h: (rows, in) in W's dtype.
        W: (out, in), frozen.
        A: (rank, in).
        B: (out, rank), scaled.
        bias: (out), or None.

    Returns:
        (y, h A^T), both in A's dtype.
    """
    low = (h @ A.to(W.dtype).t()).to(A.dtype)
    y = (h @ W.t()).to(A.dtype).addmm_(low, B.t())
    return (y if bias is None else y.add_(bias)), low


def product_backward(
    dy: torch.Tensor, h: torch.Tensor, low: torch.Tensor, W: torch.Tensor, A: torch.Tensor,
    B: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """The gradients of `product`.

    Args:
        dy: (rows, out) in W's dtype.
        h, low, W, A, B: as there.

    Returns:
        (dh, dA, dB), in A's dtype.
    """
    d_low = dy @ B.to(W.dtype)
    dA = (d_low.t() @ h).to(A.dtype)
    dB = (dy.t() @ low.to(W.dtype)).to(A.dtype)
    return (dy @ W).to(A.dtype).addmm_(d_low.to(A.dtype), A), dA, dB


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """RMSNorm: x / sqrt(mean(x^2) + eps) * weight; and that 1 / sqrt(...), (rows, 1)."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    scale = scale.add_(eps).rsqrt_()
    return (x * scale).mul_(weight), scale


def norm_backward(
    dh: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """The gradient of `norm`'s x; dh is overwritten."""
    dh.mul_(weight)
    along = (dh * x).sum(-1, keepdim=True).mul_(scale.pow(3)).div_(x.shape[-1])
    return dh.mul_(scale).addcmul_(x, along, value=-1)


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
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, W: torch.Tensor,
        A: torch.Tensor, B: torch.Tensor, bias: torch.Tensor | None, cos: torch.Tensor,
        sin: torch.Tensor, heads: tuple[int, int],
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        """Args: x (batch, sequence, hidden); heads of queries, of keys. (b, s, h, head) each."""
        rows = x.reshape(-1, x.shape[-1])
        h, scale = norm(rows, weight, eps)
        h = h.to(W.dtype)
        y, low = product(h, W, A, B, bias)
        y = y.view(*x.shape[:2], heads[0] + 2 * heads[1], -1)
        turning = heads[0] + heads[1]
        turned = rotate(y[:, :, :turning], cos, sin)
        ctx.save_for_backward(rows, weight, scale, h, low, W, A, B, cos, sin)
        ctx.heads, ctx.shape = heads, x.shape
        return turned[:, :, : heads[0]], turned[:, :, heads[0] :], y[:, :, turning:]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, scale, h, low, W, A, B, cos, sin = ctx.saved_tensors
        dq, dk, dv = grads
        parts = rotate(dq, cos, -sin), rotate(dk, cos, -sin), dv
        dy = torch.cat([part.to(W.dtype) for part in parts], dim=2).view(len(rows), -1)
        dh, dA, dB = product_backward(dy, h, low, W, A, B)
        dx = norm_backward(dh, rows, weight, scale).view(ctx.shape)
        return dx, None, None, None, dA, dB, None, None, None, None


class GatedMLP(torch.autograd.Function):
    """x -> x + down(silu(gate(norm(x))) * up(norm(x)))."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, W: torch.Tensor,
        A: torch.Tensor, B: torch.Tensor, W2: torch.Tensor, A2: torch.Tensor, B2: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Args: x (batch, sequence, hidden); W, A, B of gate and up; W2, A2, B2 of down."""
        rows = x.reshape(-1, x.shape[-1])
        h, scale = norm(rows, weight, eps)
        h = h.to(W.dtype)
        y, low = product(h, W, A, B, None)
        gate, up = y.chunk(2, dim=-1)
        inner = (torch.nn.functional.silu(gate) * up).to(W.dtype)
        out, low2 = product(inner, W2, A2, B2, None)
        ctx.save_for_backward(rows, weight, scale, h, low, y.to(W.dtype), low2,
                              W, A, B, W2, A2, B2)  # fmt: skip
        return out.add_(rows).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, scale, h, low, y, low2, W, A, B, W2, A2, B2 = ctx.saved_tensors
        d_out = grads[0].reshape(rows.shape)
        gate, up = y.chunk(2, dim=-1)
        opened = torch.nn.functional.silu(gate)
        d_inner, dA2, dB2 = product_backward(d_out.to(W.dtype), opened * up, low2, W2, A2, B2)
        d_inner = d_inner.to(W.dtype)
        dy = torch.empty_like(y)
        d_gate, d_up = dy.chunk(2, dim=-1)
        torch.mul(d_inner, opened, out=d_up)
        d_gate.copy_(torch.ops.aten.silu_backward(d_inner.mul_(up), gate))
        dh, dA, dB = product_backward(dy, h, low, W, A, B)
        dx = norm_backward(dh, rows, weight, scale).add_(d_out).view(grads[0].shape)
        return dx, None, None, None, dA, dB, None, dA2, dB2


@contextmanager
def fused_layers(model: Model, dtype: torch.dtype) -> Iterator[bool]:
    """Inside a `dense_cache`, train a model of Llama's build by this module's functions.

    The head then returns what it was given, for `loss.HeadLoss`. Other builds, adapters on some of
    the linear layers only or with dropout, and models without a cache stay as they are.

    Args:
        model: a PEFT model.
        dtype: of the head's products; of the others decides the cache.

    Yields:
        Whether the model is fused; everything is put back on leaving.
    """
    layers = [module for module in model.modules() if type(module).__name__ in LAYERS]
    if not (layers and all(map(_can_fuse, layers))):
        yield False
        return
    with bare_head(model, dtype) as bare:
        if not bare:
            yield False
            return
        try:
            for layer in layers:
                attention, mlp = layer.self_attn, layer.mlp
                layer.dense_in = _joined([attention.q_proj, attention.k_proj, attention.v_proj])
                layer.dense_up = _joined([mlp.gate_proj, mlp.up_proj])
                layer.forward = types.MethodType(_forward, layer)
            yield True
        finally:
            for layer in layers:
                for name in ("dense_in", "dense_up", "forward"):
                    layer.__dict__.pop(name, None)


def linears_of(layer: Any) -> list[Any]:
    """A decoder layer's linear layers: q, k, v, o, gate, up, down."""
    attention, mlp = layer.self_attn, layer.mlp
    return [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
            mlp.gate_proj, mlp.up_proj, mlp.down_proj]  # fmt: skip


def _can_fuse(layer: Any) -> bool:
    config, mlp = layer.self_attn.config, layer.mlp
    return (
        config.hidden_act == "silu"
        and not config.attention_dropout
        and all(_is_ready(linear) for linear in linears_of(layer))
        and all(x.base_layer.bias is None for x in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    )


def _is_ready(linear: Any) -> bool:
    names = list(getattr(linear, "active_adapters", []))
    dense = getattr(getattr(linear, "base_layer", None), "dense", None)
    return dense is not None and len(names) == 1 and is_plain(linear, names[0])


def _joined(linears: Sequence[Any]) -> torch.Tensor:
    """Their cached weights in one; each keeps its part, so that memory holds them once."""
    bases = [linear.base_layer for linear in linears]
    whole = torch.cat([base.dense for base in bases])
    for base, part in zip(bases, whole.split([len(base.dense) for base in bases]), strict=True):
        base.dense = part
    return whole


def _adapters(*linears: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A and scaled B of linears with the same input, as those of one."""
    names = [linear.active_adapters[0] for linear in linears]
    both = list(zip(linears, names, strict=True))
    A = torch.cat([linear.lora_A[name].weight for linear, name in both])
    B = [linear.lora_B[name].weight * linear.scaling[name] for linear, name in both]
    return A, torch.block_diag(*B)


def _forward(
    layer: Any, x: torch.Tensor, attention_mask: torch.Tensor | None = None,
    position_embeddings: Any = None, **ignored: Any,
) -> torch.Tensor:  # fmt: skip
    attention, mlp, norm = layer.self_attn, layer.mlp, layer.input_layernorm
    q, k, v, o = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
    heads = (q.out_features // attention.head_dim, k.out_features // attention.head_dim)
    biases = [part.base_layer.bias for part in (q, k, v)]
    cos, sin = (each.unsqueeze(2) for each in position_embeddings)
    parts = AttentionInputs.apply(
        x, norm.weight, norm.variance_epsilon, layer.dense_in, *_adapters(q, k, v),
        None if biases[0] is None else torch.cat(biases), cos, sin, heads,
    )  # fmt: skip
    seen = torch.nn.functional.scaled_dot_product_attention(
        *(part.transpose(1, 2) for part in parts), attn_mask=attention_mask,
        is_causal=attention_mask is None, scale=attention.scaling, enable_gqa=True,
    ).transpose(1, 2).reshape(*x.shape[:2], -1)  # fmt: skip
    name = o.active_adapters[0]
    x = x + AdaptedLinear.apply(
        seen, o.base_layer.dense, o.lora_A[name].weight, o.lora_B[name].weight,
        o.base_layer.bias, o.scaling[name],
    )  # fmt: skip
    norm, down = layer.post_attention_layernorm, mlp.down_proj
    return GatedMLP.apply(
        x, norm.weight, norm.variance_epsilon, layer.dense_up,
        *_adapters(mlp.gate_proj, mlp.up_proj), down.base_layer.dense, *_adapters(down),
    )  # fmt: skip
