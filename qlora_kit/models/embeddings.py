"""What a text means, as a vector: the bundled MiniLM, and how close two texts are."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .. import KitError
from .bundled import MINILM, bundled_folder
from .logging import quiet

if TYPE_CHECKING:
    import torch

MAX_TOKENS = 256  # what the model was trained for; the rest of a longer text is not read
_BATCH = 32  # chosen by hand


@lru_cache(maxsize=1)
def _model() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    folder = bundled_folder(MINILM)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return AutoModel.from_pretrained(folder).eval(), tokenizer


def embed(texts: Sequence[str]) -> "torch.Tensor":
    """Sentence embeddings from all-MiniLM-L6-v2, in full precision on the CPU.

    Args:
        texts: in English; of each the first 256 tokens are read.

    Returns:
        (texts, 384), fp32, each row of length 1.

    Raises:
        KitError: no texts.

    Source: mean pooling and normalization as in sentence-transformers' all-MiniLM-L6-v2
    (Reimers & Gurevych 2019).
    """
    import torch

    if not texts:
        raise KitError("There is no text to embed.")
    model, tokenizer = _model()
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows: dict[int, torch.Tensor] = {}
    as_trained = {"padding": True, "truncation": True, "max_length": MAX_TOKENS}
    for begin in range(0, len(order), _BATCH):
        chosen = order[begin : begin + _BATCH]
        batch = tokenizer([texts[index] for index in chosen], return_tensors="pt", **as_trained)
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        rows.update(zip(chosen, torch.nn.functional.normalize(pooled), strict=True))
    return torch.stack([rows[index] for index in range(len(texts))])


def similarity(first: Sequence[str], second: Sequence[str]) -> list[float]:
    """How close in meaning each pair of texts is: the cosine of their embeddings, -1 to 1.

    Args:
        first, second: texts in the same order.

    Raises:
        KitError: no texts, or lists of different length.
    """
    if len(first) != len(second):
        raise KitError(f"Pairs of texts are needed: got {len(first)} and {len(second)}.")
    return (embed(first) * embed(second)).sum(1).tolist()
