"""Decoder layers of Llama's build: found by their parts, compared with the library's, patched.

    h = norm(x)        q, k, v = rotated(h W^T + bias)        x += o(attention(q, k, v))
    h = norm(x)        g, u    =         h W^T                x += down(silu(g) * u)

Llama, Mistral and Qwen2 are built so. A layer with any part more or less keeps its own forward.
"""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any, NamedTuple

import torch

from ..models import Model
from .patching import is_untouched, patch
from .selfcheck import is_proven, largest_difference, settings_of

_NORM: tuple[set[str], set[str]] = (set(), {"weight"})
_PARTS = {  # of a layer: the modules and the parameters in each
    "self_attn": ({"q_proj", "k_proj", "v_proj", "o_proj"}, set()),
    "mlp": ({"gate_proj", "up_proj", "down_proj", "act_fn"}, set()),
    "input_layernorm": _NORM,
    "post_attention_layernorm": _NORM,
}
_HIDDEN, _INNER = 16, 24  # of the layers that are compared
_SEQUENCE = 5


def decoder_layers(model: Model) -> list[Any]:
    """A model's decoder layers if all of them are of the build above; else none.

    Args:
        model: with or without adapters.
    """
    layers = [each for each in model.modules() if hasattr(each, "self_attn")]
    return layers if all(map(_is_of_this_build, layers)) else []


def linears_of(layer: Any) -> list[Any]:
    """A decoder layer's linear layers: q, k, v, o, gate, up, down."""
    attention, mlp = layer.self_attn, layer.mlp
    inputs = [attention.q_proj, attention.k_proj, attention.v_proj]
    return [*inputs, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


class Replacement(NamedTuple):
    """Another way to compute a decoder layer.

    forward: of a layer; takes what the library's takes.   weights_of: makes the attributes of a
    layer that it reads.   trains: whether gradients flow through it.
    """

    forward: Callable[..., torch.Tensor]
    weights_of: Callable[[Any], dict[str, Any]]
    trains: bool


def patch_layers(stack: ExitStack, layers: Sequence[Any], way: Replacement) -> bool:
    """Let layers compute another way until the stack closes, if it gives what theirs gives.

    Args:
        stack: undoes.
        layers: from `decoder_layers`.
        way: the other one.

    Returns:
        Whether it does; where one layer differs, all stay as they are.
    """
    if not all(_is_equal(layer, way) for layer in layers):
        return False
    for layer in layers:
        patch(stack, layer, forward=MethodType(way.forward, layer), **way.weights_of(layer))
    return True


def _is_of_this_build(layer: Any) -> bool:
    parts = dict(layer.named_children())
    if parts.keys() != _PARTS.keys() or list(layer.parameters(recurse=False)):
        return False
    for name, (modules, parameters) in _PARTS.items():
        if {child for child, _ in parts[name].named_children()} != modules:
            return False
        if {weight for weight, _ in parts[name].named_parameters(recurse=False)} != parameters:
            return False
        if parameters and not hasattr(parts[name], "variance_epsilon"):
            return False
    attention = layer.self_attn
    if not all(hasattr(attention, name) for name in ("config", "head_dim", "layer_idx", "scaling")):
        return False
    config = attention.config
    return (
        getattr(config, "hidden_act", "") == "silu"
        and config._attn_implementation == "sdpa"
        and all(map(is_untouched, layer.modules()))
    )


def _is_equal(layer: Any, way: Replacement) -> bool:
    kind = (way, *map(settings_of, (layer, *layer.children())), str(layer.self_attn.config))
    return is_proven(kind, type(layer).__name__, lambda: _difference(layer, way))


def _difference(layer: Any, way: Replacement) -> float:
    """Between a layer's own forward and another, on a narrow twin of it, in fp32."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)

    twin, adapters = _twin(layer, random)
    x = random(2, _SEQUENCE, _HIDDEN)
    leaves = [x, *adapters] if way.trains else []
    for leaf in leaves:
        leaf.requires_grad_()
    vars(twin).update(way.weights_of(twin))
    angles = random(2, _SEQUENCE, layer.self_attn.head_dim // 2).repeat(1, 1, 2)
    positions = angles.cos(), angles.sin()
    causal = torch.ones(2, 1, _SEQUENCE, _SEQUENCE, dtype=torch.bool, device="cpu").tril()
    causal[1, :, 2:, 1] = False

    def compared(mask: torch.Tensor | None) -> float:
        given = {"attention_mask": mask, "position_embeddings": positions}
        ways = [partial(each, twin, x, **given) for each in (way.forward, type(layer).forward)]
        return largest_difference(ways, leaves)

    return max(compared(None), compared(causal))


def _twin(layer: Any, random: Callable[..., torch.Tensor]) -> tuple[Any, list[torch.Tensor]]:
    """A copy of a layer with a narrow stream and linear layers in plain torch; its A and B."""
    q, k, v, o, gate, up, down = linears_of(layer)
    widths = {q: (q.out_features, _HIDDEN), k: (k.out_features, _HIDDEN)}
    widths |= {v: (v.out_features, _HIDDEN), o: (_HIDDEN, q.out_features)}
    widths |= {gate: (_INNER, _HIDDEN), up: (_INNER, _HIDDEN), down: (_HIDDEN, _INNER)}
    others: dict[int, Any] = {id(layer.self_attn.config): layer.self_attn.config}
    for norm in (layer.input_layernorm, layer.post_attention_layernorm):
        others[id(norm.weight)] = torch.nn.Parameter(1 + random(_HIDDEN) / 4, False)
    adapters = []
    for linear, (out_width, in_width) in widths.items():
        bias = getattr(linear, "base_layer", linear).bias
        W = random(out_width, in_width) / math.sqrt(in_width)
        A, B = random(2, in_width), random(out_width, 2)
        plain = PlainLinear(W, None if bias is None else random(out_width), A, B)
        others[id(linear)] = plain
        adapters += [A, B]
    return copy.deepcopy(layer, others), adapters


class PlainLinear(torch.nn.Module):
    """A linear layer with an adapter in plain torch, its parts named as PEFT names them."""

    def __init__(self, W: torch.Tensor, bias: torch.Tensor | None, A: Any, B: Any):
        super().__init__()
        self.base_layer: Any = SimpleNamespace(dense=W, bias=bias)
        self.lora_A, self.lora_B = (
            {"a": SimpleNamespace(weight=A)},
            {"a": SimpleNamespace(weight=B)},
        )
        self.active_adapters, self.scaling, self.disable_adapters = ["a"], {"a": 0.1}, False
        self.out_features = len(W)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base, A, B = self.base_layer, self.lora_A["a"].weight, self.lora_B["a"].weight
        low = self.scaling["a"] * (x @ A.t() @ B.t())
        return torch.nn.functional.linear(x, base.dense, base.bias) + low
