"""Embeddings are those of the published model, whatever the batch."""

import pytest
import torch

from qlora_kit import KitError
from qlora_kit.models import embed, similarity


def test_meaning_counts_more_than_words():
    base = "How do I clean the water tank?"
    close, far = similarity(
        [base, base], ["What is the way to wash the reservoir?", "How do I pay the electricity?"]
    )
    assert close > far + 0.2


@pytest.mark.equality
def test_published_values():
    """sentence-transformers' own example for all-MiniLM-L6-v2."""
    weather = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    found = similarity([weather[0]] * 2, weather[1:])
    assert found == pytest.approx([0.6660, 0.1046], abs=1e-3)


def test_a_text_has_the_same_vector_in_any_batch():
    texts = ["short", "a rather longer text about pumps and lamps", "word " * 400]
    together = embed(texts)
    alone = torch.cat([embed([text]) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    assert together.norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert torch.allclose(embed(texts[::-1]).flip(0), together, atol=1e-5)


def test_nothing_to_embed_is_an_error():
    with pytest.raises(KitError, match="no text"):
        embed([])
    with pytest.raises(KitError, match="got 1 and 2"):
        similarity(["a"], ["b", "c"])
