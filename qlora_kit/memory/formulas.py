"""Where every byte goes: the terms of a QLoRA training's peak memory, one function each.

    peak = weights + adapters + gradients + optimizer          there all the time
         + what the forward pass keeps for the backward pass   grows with the tokens
         + the widest moment: the loss, or one layer at work   grows with the tokens
         + what the allocator and the runtime hold             about a tenth, and the context

T stands for the tokens of a micro-batch (its rows times their length), s for the bytes of a
number in the residual stream. `memory.plan` adds the terms up.
"""

from dataclasses import dataclass, replace
from typing import Any

from .. import KitError
from ..machine import Machine
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
CPU_LIBRARIES = 600_000_000  # Python with torch, transformers, PEFT, bitsandbytes
CPU_ALLOCATOR = 1.36  # what malloc holds and copies need, over the tensors at the peak
FUSED_ALLOCATOR = 1.25  # the same where layers are fused

_CHOICES = {
    "precision": PRECISIONS,
    "optimizer": ("adamw", "adamw-8bit", "paged-8bit", "adamw-master"),
    "logits": ("full", "chunked", "completion"),
    "attention": ("sdpa", "eager"),
    "device": ("cuda", "cpu"),
}


@dataclass(frozen=True)
class Workload:
    """A training as far as memory goes. The defaults are this package's own on a GPU.

    Attributes:
        precision: Of the frozen linear weights: nf4, fp4, int8, 16bit, 32bit.
        double_quant: Quantize the absmax too (4 bits only).
        rank: Of the adapters.
        target_modules: Layers with adapters, as training takes them: all-linear, or names such as
            q_proj,v_proj.
        adapter_bytes: Bytes of an adapter's number.
        optimizer: adamw, adamw-8bit, paged-8bit (counted as if nothing were paged out) or
            adamw-master. The last as DeepSpeed's: fp32 copies of 16-bit weights and gradients too.
        sequence_length: Tokens a row of the micro-batch.
        batch: Rows of the micro-batch; accumulation costs nothing.
        checkpointing: Keep each layer's input only, and compute the layer again going backward.
        logits: full for all tokens, completion for label_share of them, chunked in pieces.
        label_share: Share of the tokens that are learned, 0 to 1.
        loss_bytes: Bytes of a number in the loss (4; a few old models take it in 16 bits).
        attention: sdpa never holds the T x T scores, eager does.
        compute_bytes: Bytes of a number in the products.
        upcast: `prepare_model_for_kbit_training`, which turns embedding, head, norms and so the
            residual stream to fp32.
        device: cuda or cpu.
        dense_cache: On a CPU, weights dequantized once (engine/adapted_linear.py).
        workers: On a CPU, micro-batches side by side where layers are fused (engine/parallel.py).
        last_good: This package keeps the adapters with which the loss was last finite.
    """

    precision: str = "nf4"
    double_quant: bool = True
    rank: int = 16
    target_modules: str = "all-linear"
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

    def adapted(self, shape: ModelShape) -> tuple[str, ...]:
        """The names of a layer's linear weights that get adapters.

        Args:
            shape: the model.

        Raises:
            KitError: a name in target_modules that the model's layers do not have.
        """
        if self.target_modules == "all-linear":
            return tuple(shape.linears)
        names = tuple(name.strip() for name in self.target_modules.split(","))
        unknown = [name for name in names if name not in shape.linears]
        if unknown:
            raise KitError(
                f"target_modules: {shape.name} has no layer {', '.join(unknown)}. Choose "
                f"all-linear, or of {', '.join(shape.linears)}."
            )
        return names


def workload_on(machine: Machine, **changes: Any) -> Workload:
    """What this package's own training does on a machine.

    On a CPU: fp32 AdamW, no checkpointing, weights dequantized once.

    Args:
        machine: from `detect`.
        changes: fields to set differently. On a CPU, batch x sequence_length is the token budget.
    """
    if machine.device == "cuda":
        return Workload(**changes)
    from ..engine import workers

    own = Workload(
        device="cpu",
        optimizer="adamw",
        checkpointing=False,
        compute_bytes=machine.compute_bytes,
        workers=workers(),
    )
    return replace(own, **changes)


def is_fused(shape: ModelShape, workload: Workload) -> bool:
    """Whether a CPU trains this model by engine/fused.py, two micro-batches side by side."""
    cached = workload.device == "cpu" and workload.four_bit and workload.dense_cache
    built = shape.norms == 2 and not shape.qk_norm  # as Llama, Mistral and Qwen2
    all_adapted = set(workload.adapted(shape)) == set(shape.linears)
    return cached and built and all_adapted and workload.attention == "sdpa"


def tokens_at_once(shape: ModelShape, workload: Workload) -> int:
    """T. Each worker takes at least one row, whatever the budget."""
    rows = max(workload.batch, workload.workers) if is_fused(shape, workload) else workload.batch
    return rows * workload.sequence_length


def packed_bytes(shape: ModelShape, workload: Workload) -> int:
    """The frozen linear weights: parameters x bits / 8, with 4, 8, 16 or 32 bits."""
    bits = {"int8": 8, "16bit": 16, "32bit": 32}.get(workload.precision, 4)
    return shape.linear_parameters * bits // 8


def constant_bytes(shape: ModelShape, workload: Workload) -> int:
    """What it takes to read them: one fp32 absmax per 64 weights, or per row of int8.

    Double quantization stores that absmax in 8 bits, and one fp32 per 256 of those: 0.127
    instead of 0.5 bits a parameter. Source: QLoRA (arXiv 2305.14314), section 3.
    """
    if workload.precision == "int8":
        return 4 * shape.layers * sum(out for _, out in shape.linears.values())
    if not workload.four_bit:
        return 0
    blocks = shape.linear_parameters // BLOCK
    return blocks + 4 * blocks // NESTED_BLOCK if workload.double_quant else 4 * blocks


def dense_cache_bytes(shape: ModelShape, workload: Workload) -> int:
    """On a CPU with room, linear weights once more in the compute dtype; fused, the head too."""
    if workload.device != "cpu" or not workload.four_bit or not workload.dense_cache:
        return 0
    head = shape.vocab * shape.hidden
    copied = is_fused(shape, workload) and workload.compute_bytes < workload.stream_bytes
    return workload.compute_bytes * (shape.linear_parameters + copied * head)


def other_bytes(shape: ModelShape, workload: Workload) -> int:
    """Embedding, head, norms and biases, never quantized: parameters x s."""
    return shape.other_parameters * workload.stream_bytes


def adapter_parameters(shape: ModelShape, workload: Workload) -> int:
    """A is (rank, in) and B is (out, rank), so rank x (in + out) for each adapted weight."""
    adapted = [shape.linears[name] for name in workload.adapted(shape)]
    return shape.layers * workload.rank * sum(inward + outward for inward, outward in adapted)


def gradient_bytes(shape: ModelShape, workload: Workload) -> int:
    """The adapters' gradients; side by side, each worker's own besides their sum."""
    apart = is_fused(shape, workload) and workload.workers > 1
    copies = 1 + (workload.workers if apart else 0)
    return copies * workload.adapter_bytes * adapter_parameters(shape, workload)


def optimizer_bytes(shape: ModelShape, workload: Workload) -> int:
    """Adam's two moments of each adapter parameter, in the adapter's dtype or in 8 bits.

    With fp32 adapters AdamW holds 4 (weight) + 4 (gradient) + 8 = 16 bytes a parameter.
    """
    a = workload.adapter_bytes
    moments = {"adamw": 2 * a, "adamw-8bit": 2, "paged-8bit": 2, "adamw-master": 4 + 4 + 8}
    return moments[workload.optimizer] * adapter_parameters(shape, workload)


def adapter_input_numbers(shape: ModelShape, workload: Workload) -> tuple[int, int]:
    """What the adapters' gradients need: (numbers a token a layer, bytes of each).

    A's gradient needs its input, B's the rank numbers between them. Where the adapter computes
    in the dtype of the stream, weights with the same input share it, and o's input is what
    attention returned anyway. Else each has a cast copy of its own.
    """
    names = workload.adapted(shape)
    between = workload.rank * len(names)
    if workload.device == "cpu":
        cast = workload.four_bit and workload.dense_cache and workload.compute_bytes < 4
    else:
        cast = workload.adapter_bytes != workload.stream_bytes
    if cast:
        return between + sum(shape.linears[name][0] for name in names), workload.compute_bytes
    shared = shape.hidden * (1 + ("gate_proj" in names)) + between
    return shared + (shape.intermediate if "down_proj" in names else 0), workload.stream_bytes


def layer_bytes(shape: ModelShape, workload: Workload) -> int:
    """What one layer keeps for the backward pass, without checkpointing.

    A token's share: 4 x each norm's input (norms work in fp32); s x (queries, keys, values and
    what attention returned); s x 3 x intermediate (gate, silu(gate), up); the adapters' inputs.
    Frozen weights need no inputs. Eager attention adds T x heads scores a token.
    """
    if is_fused(shape, workload):
        return fused_layer_bytes(shape, workload)
    s, q, kv = workload.stream_bytes, shape.query_width, shape.kv_width
    norms = 4 * (shape.norms * shape.hidden + (q + kv if shape.qk_norm else 0))
    attention = s * (2 * q + 2 * kv)
    if workload.attention == "eager":  # keys and values are repeated for each query head
        scores = SOFTMAX_BYTES + (s if s < SOFTMAX_BYTES else 0)
        attention = s * 4 * q + scores * shape.heads * workload.sequence_length
    mlp = s * 3 * shape.intermediate
    numbers, each = adapter_input_numbers(shape, workload)
    return int(KEPT_FACTOR * workload.tokens * (norms + attention + mlp + numbers * each))


def fused_layer_bytes(shape: ModelShape, workload: Workload) -> int:
    """What one layer of engine/fused.py keeps.

    A token's share, with c the bytes of a product's number: s x (the inputs of both norms; queries
    and keys; the product that values are part of; what attention returned); c x (what both norms
    returned; o's input; gate and up); 4 x (each adapter's rank numbers, each norm's scale, each
    head's softmax sum). And of each worker's own, not of the tokens: the scaled adapters, those
    with the same input joined to one, B block-diagonal.
    """
    s, c, r = workload.stream_bytes, workload.compute_bytes, workload.rank
    hidden, q, kv, inner = shape.hidden, shape.query_width, shape.kv_width, shape.intermediate
    stream = s * (2 * hidden + (q + kv) + (q + 2 * kv) + q)
    products = c * (2 * hidden + 2 * inner + (q if c < s else 0))
    between = 4 * (7 * r + 2 + shape.heads)
    joined = workload.workers * s * r * (7 * hidden + 3 * (q + 2 * kv) + 5 * inner)
    return tokens_at_once(shape, workload) * (stream + products + between) + joined


def kept_bytes(shape: ModelShape, workload: Workload) -> int:
    """What the forward pass leaves behind: T x layers x hidden x s, or every layer whole."""
    if workload.checkpointing:
        return workload.tokens * shape.layers * shape.hidden * workload.stream_bytes
    return shape.layers * layer_bytes(shape, workload)


def logits_bytes(shape: ModelShape, workload: Workload) -> int:
    """The loss: T x vocab x (s for the logits, and three softmax-sized tensors in fp32).

    Those are the log-softmax, its gradient, and the gradient of the logits: 14 bytes a number.
    With a vocabulary of 128,256 one token of logits takes 1.8 MB.
    """
    tokens: float = tokens_at_once(shape, workload)
    if is_fused(shape, workload):
        from ..engine import HEAD_ROWS

        tokens = min(tokens * workload.label_share, workload.workers * HEAD_ROWS)
    elif workload.logits == "chunked":
        tokens /= CHUNKS
    elif workload.logits == "completion":
        tokens *= workload.label_share
    head = 0 if workload.device == "cpu" else workload.stream_bytes  # freed before backward
    return int(tokens * shape.vocab * (head + 3 * workload.loss_bytes))


def dequantized_bytes(shape: ModelShape, workload: Workload) -> int:
    """The workspace: the largest linear weight of a layer, dequantized to compute with it."""
    if not workload.four_bit or (workload.device == "cpu" and workload.dense_cache):
        return 0
    return workload.compute_bytes * max(i * o for i, o in shape.linears.values())


def live_layer_bytes(shape: ModelShape, workload: Workload) -> int:
    """One layer at work in the backward pass: its gradients, and what checkpointing let go.

    The gradients at once are the MLP's three wide ones; eager attention has three of the size
    of its scores besides, one of them the softmax's in fp32.
    """
    s = workload.stream_bytes
    gradients = tokens_at_once(shape, workload) * s * 3 * shape.intermediate
    if workload.attention == "eager":
        scores = workload.tokens * shape.heads * workload.sequence_length
        gradients += (SOFTMAX_BYTES + 2 * s) * scores
    again = layer_bytes(shape, workload) if workload.checkpointing else 0
    return again + gradients + dequantized_bytes(shape, workload)
