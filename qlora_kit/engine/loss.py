"""The loss of the labeled tokens alone, without the logits of the others.

With a vocabulary of 49,152 the logits are most of a small model's memory, and the prompt's are
never looked at.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..data import IGNORED
from ..models import Model

HEAD_ROWS = 64  # at once: a few ten thousand logits each are what a core's cache holds
_LOGIT_ROWS_GPU = 512  # there each product should be large
_NOTHING_AFTER = ("Llama", "Mistral", "Qwen2", "Qwen3")  # the head's logits are the model's


@contextmanager
def logits_only_where(model: Model, keep: torch.Tensor) -> Iterator[None]:
    """Inside, the model's head projects only the positions in `keep`: logits are (n, vocab).

    Args:
        model: a causal language model, with or without adapters.
        keep: (batch, sequence), bool.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][keep],))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def bare_head(model: Model, dtype: torch.dtype | None = None) -> Iterator[bool]:
    """Inside, the model's head returns what it was given, and `completion_loss` does its work.

    A head that is trained, has a bias or an adapter, and one whose logits the model changes
    afterwards, stay as they are.

    Args:
        model: a causal language model, with or without adapters.
        dtype: of the head's products; None means its weights' own.

    Yields:
        Whether it does; everything is put back on leaving.
    """
    head = model.get_output_embeddings()
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    plain = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    if not plain or type(whole).__name__.removesuffix("ForCausalLM") not in _NOTHING_AFTER:
        yield False
        return
    try:
        head.dense = head.weight.detach().to(dtype or head.weight.dtype)
        head.forward = lambda h: h
        yield True
    finally:
        head.__dict__.pop("dense", None)
        head.__dict__.pop("forward", None)


def completion_loss(model: Model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The summed negative log-likelihood of the labeled tokens, in nats.

    Equal to cross entropy over all logits with the other labels ignored.

    Args:
        model: a causal language model.
        batch: input_ids and labels, each (batch, sequence), padded right: no token looks ahead,
            so none sees the padding and no attention mask is needed. Packed rows bring one, and
            their position_ids.
    """
    targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    keep = targets != IGNORED
    seen = {name: value for name, value in batch.items() if name != "labels"}
    head = getattr(model.get_output_embeddings(), "dense", None)
    if head is not None:  # of `bare_head`: what comes out is the head's input
        hidden = model(**seen, use_cache=False).logits
        return HeadLoss.apply(hidden[keep], head, targets[keep])
    with logits_only_where(model, keep):
        output = model(**seen, use_cache=False)
    logits = output.logits.float()
    return torch.nn.functional.cross_entropy(logits, targets[keep], reduction="sum")


class HeadLoss(torch.autograd.Function):
    """The summed cross entropy of a frozen head's logits, which are never held whole.

    The gradient is made with the loss, a few rows at a time, and only that of h is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, h: torch.Tensor, W: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:  # fmt: skip
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
