"""Perplexity: what one forward pass says, in windows, each token counted once."""

import math

import pytest
import torch

from qlora_kit.data import DataError
from qlora_kit.likelihood import perplexity
from qlora_kit.models import load

TEXT = "what is the color of the light and who is asking for it again "


@pytest.fixture(scope="module")
def model(tiny):
    return load(str(tiny), "32bit")


def losses(model, ids):
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def test_one_window_is_one_forward_pass(model):
    ids = model[1](TEXT).input_ids
    expected = math.exp(losses(model[0], ids).mean().item())
    assert perplexity(*model, TEXT, window=512) == pytest.approx(expected, rel=1e-5)
    shorter = math.exp(losses(model[0], ids[:10]).mean().item())
    assert perplexity(*model, TEXT, window=512, max_tokens=10) == pytest.approx(shorter, rel=1e-5)


@pytest.mark.parametrize("stride", [3, 5, 8])
def test_overlapping_windows_count_each_token_once(model, stride):
    """The published recipe's mistake is to count the overlap twice, or the first token at all."""
    ids, window = model[1](TEXT).input_ids, 8
    total, count, scored = 0.0, 0, 1  # nothing predicts the first token
    for start in range(0, len(ids), stride):
        piece = ids[start : start + window]
        found = losses(model[0], piece)
        for offset, loss in enumerate(found.tolist(), start=start + 1):
            if offset >= scored:
                total, count, scored = total + loss, count + 1, offset + 1
        if start + window >= len(ids):
            break
        scored = max(scored, start + window) if stride < window else scored
    if stride < window:
        assert count == len(ids) - 1
    found = perplexity(*model, TEXT, window=window, stride=stride)
    assert found == pytest.approx(math.exp(total / count), rel=1e-5)


def test_more_context_is_what_overlap_buys(model):
    assert perplexity(*model, TEXT, window=8, stride=1) != perplexity(*model, TEXT, window=8)


def test_what_cannot_be_measured_is_said(model):
    with pytest.raises(DataError, match="two tokens"):
        perplexity(*model, "")
    with pytest.raises(DataError, match="stride"):
        perplexity(*model, TEXT, window=8, stride=9)
