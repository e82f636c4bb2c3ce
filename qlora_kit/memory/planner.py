"""The memory planner: will a training fit, where does each byte go, and what to change if not.

The formulas behind each line are in formulas.py, one function each.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from .. import KitError
from ..machine import Machine, detect
from .formulas import (
    CPU_ALLOCATOR,
    CPU_LIBRARIES,
    CUDA_CONTEXT,
    FRAGMENTATION,
    FUSED_ALLOCATOR,
    Workload,
    adapter_parameters,
    constant_bytes,
    dense_cache_bytes,
    gradient_bytes,
    is_fused,
    kept_bytes,
    live_layer_bytes,
    logits_bytes,
    optimizer_bytes,
    other_bytes,
    packed_bytes,
    tokens_at_once,
    workload_on,
)
from .shapes import GIB, GPUS, SHAPES, ModelShape, find_gpu

MARGIN = 0.10  # "fits" leaves this share of the prediction free; few runs take more


@dataclass(frozen=True)
class Term:
    """One line of a plan: its name, its bytes, what it is."""

    name: str
    bytes: int
    what: str


@dataclass(frozen=True)
class Change:
    """One piece of advice: what to change, the bytes that it saves after those before it.

    total is the prediction with this change and all before it.
    """

    what: str
    saves: int
    total: int
    fits: bool


@dataclass(frozen=True)
class Plan:
    """A prediction: terms in order, their sum, and whether that fits with `MARGIN` to spare.

    capacity: bytes at hand.   place: the GPU's name, or what the capacity is of.
    advice: where it does not fit, changes in order until it does.
    """

    shape: ModelShape
    workload: Workload
    terms: tuple[Term, ...]
    place: str
    capacity: int
    advice: tuple[Change, ...] = ()

    @property
    def breakdown(self) -> dict[str, int]:
        """Term -> bytes, in the order of a stacked bar."""
        return {term.name: term.bytes for term in self.terms}

    @property
    def total(self) -> int:
        """The predicted peak, in bytes."""
        return sum(term.bytes for term in self.terms)

    @property
    def reserved(self) -> int:
        """The part in torch's allocator, as `torch.cuda.max_memory_reserved` reports it."""
        return self.total - self.breakdown.get("CUDA context", 0)

    @property
    def allocated(self) -> int:
        """The part in tensors, as `torch.cuda.max_memory_allocated` reports it."""
        return self.reserved - self.breakdown["allocator"] - self.breakdown.get("libraries", 0)

    @property
    def fits(self) -> bool:
        """Whether the prediction and its margin stay within the capacity."""
        return self.total * (1 + MARGIN) <= self.capacity

    def as_json(self) -> dict[str, Any]:
        """The plan for scripts."""
        own = ("place", "capacity", "total", "fits")
        return {
            "model": self.shape.name,
            "parameters": self.shape.parameters,
            "margin": MARGIN,
            **{name: getattr(self, name) for name in own},
            "terms": [asdict(term) for term in self.terms],
            "advice": [asdict(change) for change in self.advice],
            "workload": asdict(self.workload),
        }


def plan(
    shape: ModelShape,
    workload: Workload | None = None,
    gpu: str | int | None = None,
    machine: Machine | None = None,
) -> Plan:
    """Predict the peak memory of a training, and say what to change where it does not fit.

    Args:
        shape: the model, from `find_shape`, `SHAPES` or `ModelShape.from_config`.
        workload: the training; None means this package's own on that device.
        gpu: a name in `GPUS`, or bytes at hand; None means this machine.
        machine: instead of this machine, when gpu is None.

    Returns:
        The plan. On a GPU the peak is what torch reserves and the CUDA context, on a CPU the
        whole process. tests/baselines/memory.json holds what it was measured against.

    Raises:
        KitError: an unknown GPU, or workload that contradict it.
    """
    place, capacity, workload = _place(gpu, machine, workload)
    prediction = Plan(shape, workload, terms(shape, workload), place, capacity)
    return prediction if prediction.fits else replace(prediction, advice=_advise(prediction))


def _place(
    gpu: str | int | None, machine: Machine | None, workload: Workload | None
) -> tuple[str, int, Workload]:
    """Where a training is planned: the place's name, its bytes, and the training there."""
    if gpu is not None:
        place, capacity = find_gpu(gpu) if isinstance(gpu, str) else (f"{gpu / 1e9:.1f} GB", gpu)
        workload = workload or Workload()
        device = "cuda" if isinstance(gpu, str) else workload.device
    else:
        machine = machine or detect()
        workload = workload or workload_on(machine)
        device = "cuda" if machine.device == "cuda" else "cpu"
        place = machine.name if device == "cuda" else f"this machine ({machine.name})"
        # What a GPU has free was asked through a CUDA context, which is in the plan as well.
        free = machine.gpu_free_gb * 1e9 + CUDA_CONTEXT
        capacity = int(free if device == "cuda" else machine.free_memory_gb * 1e9)
    if workload.device != device:
        raise KitError(
            f"This workload is for {workload.device}, but {place} is {device}: name a GPU, or "
            "take workload_on(machine) on a CPU."
        )
    return place, capacity, workload


def terms(shape: ModelShape, workload: Workload) -> tuple[Term, ...]:
    """All lines of a plan, in the order of a stacked bar; they sum to the peak.

    Args:
        shape: the model.
        workload: the training.
    """
    adapters = adapter_parameters(shape, workload) * workload.adapter_bytes
    fused = is_fused(shape, workload)
    loss, layer = logits_bytes(shape, workload), live_layer_bytes(shape, workload)
    wider = "the loss over its logits" if loss >= layer else "one layer going backward"
    kept = "each layer's input" if workload.checkpointing else "all that backward needs"
    lines = [
        Term("weights", packed_bytes(shape, workload), f"linear layers in {workload.precision}"),
        Term("constants", constant_bytes(shape, workload), "absmax, to read the weights with"),
        Term("dense cache", dense_cache_bytes(shape, workload), "weights dequantized once"),
        Term("embeddings", other_bytes(shape, workload), "embedding, head and norms, unquantized"),
        Term("adapters", adapters, f"rank {workload.rank}, {workload.target_modules}"),
        Term("last good", adapters * workload.last_good, "adapters kept in case of divergence"),
        Term("gradients", gradient_bytes(shape, workload), "of the adapters"),
        Term("optimizer", optimizer_bytes(shape, workload), f"{workload.optimizer}, two moments"),
        Term(
            "activations",
            kept_bytes(shape, workload),
            f"{kept}, {tokens_at_once(shape, workload):,} tokens",
        ),
        Term("widest moment", max(loss, layer), wider),
    ]
    tensors = sum(line.bytes for line in lines)
    # Whole layers, taken in one order and freed in the other, leave few gaps behind.
    orderly = 0 if workload.checkpointing else kept_bytes(shape, workload)
    if workload.device == "cpu":
        factor = FUSED_ALLOCATOR if fused else CPU_ALLOCATOR
        lines.append(Term("allocator", int(tensors * (factor - 1)), "held by malloc"))
        lines.append(Term("libraries", CPU_LIBRARIES, "Python, torch and the others"))
    else:
        gaps = int((tensors - orderly) * (FRAGMENTATION - 1))
        lines.append(Term("allocator", gaps, "held by torch"))
        lines.append(Term("CUDA context", CUDA_CONTEXT, "driver and kernels"))
    return tuple(line for line in lines if line.bytes)


# Each step gives its candidates, from the mildest to the strongest.
Candidates = Iterator[tuple[str, Workload]]


def _lower_precision(now: Workload) -> Candidates:
    if not now.four_bit:
        yield "4-bit weights (--precision nf4)", replace(now, precision="nf4")


def _checkpoint(now: Workload) -> Candidates:
    if now.device == "cuda" and not now.checkpointing:
        yield "gradient checkpointing", replace(now, checkpointing=True)
    if now.attention == "eager":
        yield "SDPA instead of eager attention", replace(now, attention="sdpa", checkpointing=True)


def _smaller_batch(now: Workload) -> Candidates:
    batch = now.batch
    while batch > 1:
        batch //= 2
        times = -(-now.batch // batch)
        yield f"micro-batch {batch}, accumulated {times} times", replace(now, batch=batch)


def _lighter_loss(now: Workload) -> Candidates:
    if now.logits == "full":
        yield "a chunked or fused loss, no logits held whole", replace(now, logits="chunked")


def _no_upcast(now: Workload) -> Candidates:
    if now.upcast:
        yield "embedding and head left in 16 bits", replace(now, upcast=False)


def _lighter_optimizer(now: Workload) -> Candidates:
    if now.device == "cuda" and "8bit" not in now.optimizer:
        yield "8-bit paged AdamW", replace(now, optimizer="paged-8bit")


def _double_quant(now: Workload) -> Candidates:
    if now.four_bit and not now.double_quant:
        yield "double quantization", replace(now, double_quant=True)


def _no_cache(now: Workload) -> Candidates:
    if now.device == "cpu" and now.four_bit and now.dense_cache:
        yield (
            "no cache of dequantized weights (--low-memory, slower)",
            replace(now, dense_cache=False),
        )


def _shorter(now: Workload) -> Candidates:
    length = now.sequence_length
    while length >= 2 * 128:
        length //= 2
        yield f"sequences of {length} tokens", replace(now, sequence_length=length)


def _lower_rank(now: Workload) -> Candidates:
    rank = now.rank
    while rank >= 2 * 4:
        rank //= 2
        yield f"rank {rank}", replace(now, rank=rank)


_Step = Callable[[Workload], Candidates]
_SAME_RESULT: tuple[_Step, ...] = (  # the adapter learns what it would have learned, or nearly
    _lower_precision,
    _checkpoint,
    _smaller_batch,
    _lighter_loss,
    _no_upcast,
    _lighter_optimizer,
    _double_quant,
    _no_cache,
)
_OTHER_RESULT: tuple[_Step, ...] = (_shorter, _lower_rank)


def _advise(planned: Plan) -> tuple[Change, ...]:
    """Apply the steps one on another until it fits; where they do not do, a GPU and a model."""
    changes, now = _apply(_SAME_RESULT, planned)
    if now.fits:
        return tuple(changes)
    shortened, cut = _apply(_OTHER_RESULT, now)
    if cut.fits:
        return (*changes, *shortened)
    larger = sorted((int(gib * GIB), gpu) for gpu, gib in GPUS.items())
    for capacity, gpu in larger if now.workload.device == "cuda" else ():
        if replace(now, capacity=capacity).fits:
            changes.append(Change(f"a larger GPU: {gpu}", 0, now.total, True))
            break
    smaller = _smaller_model(now)
    if smaller:
        what, total = f"or a smaller model: {smaller.shape.name}", smaller.total
        changes.append(Change(what, now.total - total, total, True))
    return tuple(changes)


def _apply(steps: tuple[_Step, ...], now: Plan) -> tuple[list[Change], Plan]:
    """Of each step the mildest candidate that fits, else the strongest, where it saves."""
    changes = []
    for step in steps:
        best: tuple[str, Plan] | None = None
        for what, workload in step(now.workload):
            best = what, replace(now, workload=workload, terms=terms(now.shape, workload))
            if best[1].fits:
                break
        if best is not None and best[1].total < now.total:
            what, then = best
            changes.append(Change(what, now.total - then.total, then.total, then.fits))
            now = then
            if now.fits:
                break
    return changes, now


def _smaller_model(planned: Plan) -> Plan | None:
    """The largest that fits with these workload, of the same family where there is one."""
    family = planned.shape.name.split("-")[0].lower()
    fitting = [
        tried
        for shape in SHAPES.values()
        if shape.parameters < planned.shape.parameters
        and (tried := replace(planned, shape=shape, terms=terms(shape, planned.workload))).fits
    ]
    same = [tried for tried in fitting if tried.shape.name.lower().startswith(family)]
    fitting = same or fitting
    return max(fitting, key=lambda p: (p.shape.parameters, p.shape.name), default=None)
