"""The loss of the labeled tokens alone, without the logits of the others.

With a vocabulary of 49,152 the logits are most of a small model's memory, and the prompt's are
never looked at.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ..data import IGNORED
from ..models import Model
from .patching import is_untouched, patch
from .selfcheck import is_proven, settings_of

HEAD_ROWS = 64  # at once: a few ten thousand logits each are what a core's cache holds
_LOGIT_ROWS_GPU = 512  # there each product should be large


def logits_where(model: Model, inputs: dict[str, Any], keep: torch.Tensor) -> torch.Tensor:
    """The logits of some positions alone; the model's head never sees the others.

    Not for several threads at once with one model.

    Args:
        model: a causal language model, with or without adapters.
        inputs: of the model; input_ids (batch, sequence).
        keep: (batch, sequence), bool.

    Returns:
        (positions kept, vocabulary), in fp32.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][keep.to(args[0].device)],))
    try:
        return model(**inputs, use_cache=False).logits.float()
    finally:
        hook.remove()


@contextmanager
def bare_head(model: Model, dtype: torch.dtype | None = None) -> Iterator[bool]:
    """Inside, the model's head returns its input, and `completion_loss` does its work.

    A head that is trained or patched, has a bias or an adapter, and one whose logits the model
    changes afterwards, stay as they are.

    Args:
        model: a causal language model, with or without adapters.
        dtype: of the head's products; None means its weights' own.

    Yields:
        Whether it does; everything is put back on leaving.
    """
    head = model.get_output_embeddings()
    plain = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    with ExitStack() as stack:
        bare = plain and is_untouched(head) and _logits_are_the_heads(model, head)
        if bare:
            dense = head.weight.detach().to(dtype or head.weight.dtype)
            patch(stack, head, dense=dense, forward=lambda h: h)
        yield bare


def _logits_are_the_heads(model: Model, head: torch.nn.Linear) -> bool:
    """Whether the model leaves its head's logits alone: no soft cap, no multiplier.

    The model runs with a decoder and a head that return random numbers at once.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    whole: Any = model
    if hasattr(model, "get_base_model"):
        whole = whole.get_base_model()

    def difference() -> float:
        generator = torch.Generator().manual_seed(0)
        logits = 30 * torch.randn(1, 2, head.out_features, generator=generator, device="cpu")
        logits = logits.to(head.weight)
        states = head.weight.new_zeros(1, 2, head.in_features)
        with ExitStack() as stack:
            output = BaseModelOutputWithPast(last_hidden_state=states)
            patch(stack, whole.get_decoder(), forward=lambda *args, **kwargs: output)
            patch(stack, head, forward=lambda h: logits)
            ids = torch.zeros(1, 2, dtype=torch.long, device=states.device)
            result = whole(input_ids=ids, use_cache=False).logits
        return ((result - logits).abs().max() / logits.abs().max()).item()

    kind = (settings_of(whole), str(whole.config))
    return is_proven(kind, f"the head of {type(whole).__name__}", difference)


def completion_loss(model: Model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The summed negative log-likelihood of the labeled tokens, in nats.

    Equal to cross entropy over all logits with the other labels ignored.

    Args:
        model: a causal language model.
        batch: input_ids and labels, each (batch, sequence), padded right: no token looks ahead,
            so none sees the padding and no attention mask is needed. Packed rows bring one, and
            their position_ids.

    Returns:
        One number, in fp32; its gradient flows.
    """
    targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    keep = targets != IGNORED
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    dense = getattr(model.get_output_embeddings(), "dense", None)
    if dense is not None:  # of `bare_head`: what comes out is the head's input
        hidden = model(**inputs, use_cache=False).logits
        return HeadLoss.apply(hidden[keep], dense, targets[keep])
    logits = logits_where(model, inputs, keep)
    return torch.nn.functional.cross_entropy(logits, targets[keep], reduction="sum")


class HeadLoss(torch.autograd.Function):
    """The summed cross entropy of a frozen head's logits, which are never held whole.

    The gradient is made with the loss, a few rows at a time, and only that of h is kept.
    """

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, W: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Args: h (rows, hidden), W (vocabulary, hidden), targets (rows). In nats, in fp32."""
        wide = torch.promote_types(h.dtype, torch.float32)
        total, dh = h.new_zeros((), dtype=wide), torch.empty_like(h, dtype=wide)
        rows = HEAD_ROWS if h.device.type == "cpu" else _LOGIT_ROWS_GPU
        for start in range(0, len(h), rows):
            here = slice(start, start + rows)
            logits = (h[here].to(W.dtype) @ W.t()).to(wide)
            logits, index = logits.log_softmax(-1), targets[here, None]
            total -= logits.gather(1, index).sum()
            d_logits = logits.exp_().scatter_add_(1, index, logits.new_full(index.shape, -1.0))
            dh[here] = (d_logits.to(W.dtype) @ W).to(wide)
        ctx.save_for_backward(dh)
        ctx.dtype = h.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (ctx.saved_tensors[0] * grads[0]).to(ctx.dtype), None, None
