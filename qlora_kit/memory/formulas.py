"""Where every byte goes: the terms of a QLoRA training's peak memory, one function each.

    peak = weights + adapters + gradients + optimizer          there all the time
         + what the forward pass keeps for the backward pass   grows with the tokens
         + the widest moment: the loss, or one layer at work   grows with the tokens
         + what the allocator and the runtime hold             about a tenth, and the context

T stands for the tokens of a micro-batch (its rows times their length), s for the bytes of a
number in the residual stream. `memory.plan` adds the terms up.
"""

from dataclasses import dataclass
from typing import Any

from .. import KitError
from ..models import PRECISIONS
from .shapes import GIB, ModelShape

BLOCK = 64  # weights that share one absmax
NESTED_BLOCK = 256  # absmax values that share one second-level absmax
CHUNKS = 8  # pieces that a chunked loss takes the logits in
SOFTMAX_BYTES = 4  # a softmax is taken in fp32, whatever the model runs in

# Fitted to the rows marked "fit" in tests/baselines/memory.json; all else is counted.
KEPT_FACTOR = 1.15  # kept alive in older stacks by views, masks and casts, over those counted
FRAGMENTATION = 1.09  # GPU memory that torch holds, over tensors that come and go
CUDA_CONTEXT = int(0.45 * GIB)  # kernels and driver: 0.14 GiB on a T4 to 1.3 on others
HEAD_ROWS = 64  # logits at once in `HeadLoss` of engine/loss.py
CPU_LIBRARIES = 600_000_000  # Python with torch, transformers, PEFT, TRL, bitsandbytes
CPU_ALLOCATOR = 1.36  # what malloc holds and copies need, over the tensors at the peak
FUSED_ALLOCATOR = 1.25  # the same where layers are fused

_CHOICES = {
    "precision": PRECISIONS,
    "targets": ("all-linear", "attention", "query-value"),
    "optimizer": ("adamw", "adamw-8bit", "paged-8bit", "adamw-master"),
    "logits": ("full", "chunked", "completion"),
    "attention": ("sdpa", "eager"),
    "device": ("cuda", "cpu"),
}
_TARGETS = {
    "all-linear": ("q", "k", "v", "o", "gate", "up", "down"),
    "attention": ("q", "k", "v", "o"),
    "query-value": ("q", "v"),
}


@dataclass(frozen=True)
class Settings:
    """A training as far as memory goes. The defaults are this package's own on a GPU.

    precision: of the frozen linear weights; double_quant: of their absmax (4 bits only).
    rank, targets, adapter_bytes: the adapters, on which weights, bytes of each number.
    optimizer: "adamw", "adamw-8bit", "paged-8bit" (counted as if nothing were paged out), or
    "adamw-master", as DeepSpeed's: fp32 copies of 16-bit weights and gradients besides.
    sequence_length, batch: of one micro-batch; accumulation costs nothing.
    checkpointing: keep each layer's input only, and compute the layer again going backward.
    logits: "full" for all tokens, "completion" for label_share of them, "chunked" in pieces.
    loss_bytes: bytes of a number in the loss (4; a few old models take it in 16 bits).
    attention: "sdpa" never holds the T x T scores, "eager" does.
    compute_bytes: of the products.   upcast: `prepare_model_for_kbit_training`, which turns
    embedding, head, norms and so the residual stream to fp32.
    dense_cache: on a CPU, weights dequantized once (engine/adapted_linear.py).
    workers: on a CPU, micro-batches side by side where layers are fused (engine/parallel.py).
    last_good: this package keeps the adapters with which the loss was last finite.
    """

    precision: str = "nf4"
    double_quant: bool = True
    rank: int = 16
    targets: str = "all-linear"
    adapter_bytes: int = 4
    optimizer: str = "paged-8bit"
    sequence_length: int = 512
    batch: int = 1
    checkpointing: bool = True
    logits: str = "completion"
    label_share: float = 0.5
    loss_bytes: int = 4
    attention: str = "sdpa"
    compute_bytes: int = 2
    upcast: bool = False
    device: str = "cuda"
    dense_cache: bool = True
    workers: int = 2
    last_good: bool = True

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise KitError(
                    f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}."
                )
        for name in ("rank", "sequence_length", "batch", "workers"):
            if getattr(self, name) < 1:
                raise KitError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 < self.label_share <= 1:
            raise KitError(f"label_share must be above 0 and up to 1, not {self.label_share}.")

    @property
    def tokens(self) -> int:
        """Tokens at once."""
        return self.batch * self.sequence_length

    @property
    def four_bit(self) -> bool:
        """Whether the linear weights are packed two to a byte."""
        return self.precision in ("nf4", "fp4")

    @property
    def stream_bytes(self) -> int:
        """s: bytes of a number in the residual stream, the embedding and the head."""
        whole = self.device == "cpu" or self.upcast or self.precision == "32bit"
        return 4 if whole and self.precision != "16bit" else 2


def cpu_settings(**changes: Any) -> Settings:
    """What this package does on this CPU: fp32 AdamW, no checkpointing, weights dequantized once.

    Args:
        changes: fields to set differently. batch x sequence_length is the token budget.
    """
    from ..engine import workers

    own = {"device": "cpu", "optimizer": "adamw", "checkpointing": False, "workers": workers()}
    return Settings(**{**own, **changes})


def is_fused(shape: ModelShape, settings: Settings) -> bool:
    """Whether a CPU trains this model by `engine.fused_layers`, two micro-batches side by side."""
    cached = settings.device == "cpu" and settings.four_bit and settings.dense_cache
    built = shape.norms == 2 and not shape.qk_norm  # as Llama, Mistral and Qwen2
    return cached and built and settings.targets == "all-linear" and settings.attention == "sdpa"


def tokens_at_once(shape: ModelShape, settings: Settings) -> int:
    """T. Each worker takes at least one row, whatever the budget."""
    rows = max(settings.batch, settings.workers) if is_fused(shape, settings) else settings.batch
    return rows * settings.sequence_length


def packed_bytes(shape: ModelShape, settings: Settings) -> int:
    """The frozen linear weights: parameters x bits / 8, with 4, 8, 16 or 32 bits."""
    bits = {"int8": 8, "16bit": 16, "32bit": 32}.get(settings.precision, 4)
    return shape.linear_parameters * bits // 8


def constant_bytes(shape: ModelShape, settings: Settings) -> int:
    """What it takes to read them: one fp32 absmax per 64 weights, or per row of int8.

    Double quantization stores that absmax in 8 bits, and one fp32 per 256 of those: 0.127
    instead of 0.5 bits a parameter. Source: QLoRA (arXiv 2305.14314), section 3.
    """
    if settings.precision == "int8":
        return 4 * shape.layers * sum(out for _, out in shape.linears.values())
    if not settings.four_bit:
        return 0
    blocks = shape.linear_parameters // BLOCK
    return blocks + 4 * blocks // NESTED_BLOCK if settings.double_quant else 4 * blocks


def dense_cache_bytes(shape: ModelShape, settings: Settings) -> int:
    """On a CPU with room, linear weights once more in the compute dtype; fused, the head too."""
    if settings.device != "cpu" or not settings.four_bit or not settings.dense_cache:
        return 0
    head = shape.vocab * shape.hidden
    copied = is_fused(shape, settings) and settings.compute_bytes < settings.stream_bytes
    return settings.compute_bytes * (shape.linear_parameters + copied * head)


def other_bytes(shape: ModelShape, settings: Settings) -> int:
    """Embedding, head, norms and biases, never quantized: parameters x s."""
    return shape.other_parameters * settings.stream_bytes


def adapter_parameters(shape: ModelShape, settings: Settings) -> int:
    """A is (rank, in) and B is (out, rank), so rank x (in + out) for each adapted weight."""
    adapted = [shape.linears[name] for name in _TARGETS[settings.targets]]
    return shape.layers * settings.rank * sum(inward + outward for inward, outward in adapted)


def gradient_bytes(shape: ModelShape, settings: Settings) -> int:
    """The adapters' gradients; side by side, each worker's own besides their sum."""
    apart = is_fused(shape, settings) and settings.workers > 1
    copies = 1 + (settings.workers if apart else 0)
    return copies * settings.adapter_bytes * adapter_parameters(shape, settings)


def optimizer_bytes(shape: ModelShape, settings: Settings) -> int:
    """Adam's two moments of each adapter parameter, in the adapter's dtype or in 8 bits.

    With fp32 adapters AdamW holds 4 (weight) + 4 (gradient) + 8 = 16 bytes a parameter.
    """
    a = settings.adapter_bytes
    moments = {"adamw": 2 * a, "adamw-8bit": 2, "paged-8bit": 2, "adamw-master": 4 + 4 + 8}
    return moments[settings.optimizer] * adapter_parameters(shape, settings)


def adapter_input_numbers(shape: ModelShape, settings: Settings) -> tuple[int, int]:
    """What the adapters' gradients need: (numbers a token a layer, bytes of each).

    A's gradient needs its input, B's the rank numbers between them. Where the adapter computes
    in the dtype of the stream, weights with the same input share it, and o's input is what
    attention returned anyway. Else each has a cast copy of its own.
    """
    names = _TARGETS[settings.targets]
    between = settings.rank * len(names)
    if settings.device == "cpu":
        cast = settings.four_bit and settings.dense_cache and settings.compute_bytes < 4
    else:
        cast = settings.adapter_bytes != settings.stream_bytes
    if cast:
        return between + sum(shape.linears[name][0] for name in names), settings.compute_bytes
    shared = shape.hidden * (1 + ("gate" in names)) + between
    return shared + (shape.intermediate if "down" in names else 0), settings.stream_bytes


def layer_bytes(shape: ModelShape, settings: Settings) -> int:
    """What one layer keeps for the backward pass, without checkpointing.

    A token's share: 4 x each norm's input (norms work in fp32); s x (queries, keys, values and
    what attention returned); s x 3 x intermediate (gate, silu(gate), up); the adapters' inputs.
    Frozen weights need no inputs. Eager attention adds T x heads scores a token.
    """
    if is_fused(shape, settings):
        return fused_layer_bytes(shape, settings)
    s, q, kv = settings.stream_bytes, shape.query_width, shape.kv_width
    norms = 4 * (shape.norms * shape.hidden + (q + kv if shape.qk_norm else 0))
    attention = s * (2 * q + 2 * kv)
    if settings.attention == "eager":  # keys and values are repeated for each query head
        scores = SOFTMAX_BYTES + (s if s < SOFTMAX_BYTES else 0)
        attention = s * 4 * q + scores * shape.heads * settings.sequence_length
    mlp = s * 3 * shape.intermediate
    numbers, each = adapter_input_numbers(shape, settings)
    return int(KEPT_FACTOR * settings.tokens * (norms + attention + mlp + numbers * each))


def fused_layer_bytes(shape: ModelShape, settings: Settings) -> int:
    """What one layer of `fused` keeps.

    A token's share, with c the bytes of a product's number: s x (the inputs of both norms; queries
    and keys; the product that values are part of; what attention returned); c x (what both norms
    returned; o's input; gate and up); 4 x (each adapter's rank numbers, each norm's scale, each
    head's softmax sum). And of each worker's own, not of the tokens: the scaled adapters, those
    with the same input joined to one, B block-diagonal.
    """
    s, c, r = settings.stream_bytes, settings.compute_bytes, settings.rank
    hidden, q, kv, inner = shape.hidden, shape.query_width, shape.kv_width, shape.intermediate
    stream = s * (2 * hidden + (q + kv) + (q + 2 * kv) + q)
    products = c * (2 * hidden + 2 * inner + (q if c < s else 0))
    between = 4 * (6 * r + 2 + shape.heads) + c * r
    joined = settings.workers * s * r * (7 * hidden + 3 * (q + 2 * kv) + 5 * inner)
    return tokens_at_once(shape, settings) * (stream + products + between) + joined


def kept_bytes(shape: ModelShape, settings: Settings) -> int:
    """What the forward pass leaves behind: T x layers x hidden x s, or every layer whole."""
    if settings.checkpointing:
        return settings.tokens * shape.layers * shape.hidden * settings.stream_bytes
    return shape.layers * layer_bytes(shape, settings)


def logits_bytes(shape: ModelShape, settings: Settings) -> int:
    """The loss: T x vocab x (s for the logits, and three softmax-sized tensors in fp32).

    Those are the log-softmax, its gradient, and the gradient of the logits: 14 bytes a number.
    With a vocabulary of 128,256 one token of logits takes 1.8 MB.
    """
    tokens: float = tokens_at_once(shape, settings)
    if is_fused(shape, settings):
        tokens = min(tokens * settings.label_share, settings.workers * HEAD_ROWS)
    elif settings.logits == "chunked":
        tokens /= CHUNKS
    elif settings.logits == "completion":
        tokens *= settings.label_share
    head = 0 if settings.device == "cpu" else settings.stream_bytes  # freed before backward
    return int(tokens * shape.vocab * (head + 3 * settings.loss_bytes))


def dequantized_bytes(shape: ModelShape, settings: Settings) -> int:
    """The workspace: the largest linear weight of a layer, dequantized to compute with it."""
    if not settings.four_bit or (settings.device == "cpu" and settings.dense_cache):
        return 0
    return settings.compute_bytes * max(i * o for i, o in shape.linears.values())


def live_layer_bytes(shape: ModelShape, settings: Settings) -> int:
    """One layer at work in the backward pass: its gradients, and what checkpointing let go.

    The gradients at once are the MLP's three wide ones; eager attention has three of the size
    of its scores besides, one of them the softmax's in fp32.
    """
    s = settings.stream_bytes
    gradients = tokens_at_once(shape, settings) * s * 3 * shape.intermediate
    if settings.attention == "eager":
        scores = settings.tokens * shape.heads * settings.sequence_length
        gradients += (SOFTMAX_BYTES + 2 * s) * scores
    again = layer_bytes(shape, settings) if settings.checkpointing else 0
    return again + gradients + dequantized_bytes(shape, settings)
