import pytest
import torch

from qlora_kit.data import IGNORED, Example, MicroBatchCollator
from qlora_kit.engine import completion_loss
from qlora_kit.engine.loss import HeadLoss, bare_head
from qlora_kit.models import load
from tests.helpers import CPU


def rows():
    ids = torch.arange(4, 64).view(2, 30)
    return {"input_ids": ids, "labels": torch.where(torch.arange(30) < 12, IGNORED, ids)}


def loss_and_gradient(model):
    layer = model.model.layers[0].mlp.up_proj.weight
    loss = completion_loss(model, rows())
    return loss.item(), torch.autograd.grad(loss, layer)[0]


@pytest.mark.equality
@pytest.mark.parametrize(("dtype", "near"), [(None, 1e-5), (torch.bfloat16, 0.03)])
def test_a_bare_head_gives_the_same_loss_and_gradients(tiny, dtype, near):
    model, _ = load(str(tiny), "32bit")
    model.lm_head.weight.requires_grad_(False)
    loss, true = loss_and_gradient(model)
    with bare_head(model, dtype) as bare:
        assert bare
        got, gradient = loss_and_gradient(model)
        given = torch.randn(1, 64)
        assert model.lm_head(given) is given
    assert got == pytest.approx(loss, rel=near)
    assert (gradient - true).norm() < near * true.norm()
    assert loss_and_gradient(model)[0] == loss
    assert not {"dense", "forward"} & vars(model.lm_head).keys()


def test_heads_that_do_more_are_left_alone(tiny):
    model, _ = load(str(tiny), "32bit")
    with bare_head(model) as bare:  # its weights are trained
        assert not bare
    model.lm_head.weight.requires_grad_(False)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(300), requires_grad=False)
    with bare_head(model) as bare:
        assert not bare


def test_a_16_bit_input_gets_its_gradient_from_32_bit_sums():
    torch.manual_seed(0)
    h = torch.randn(20, 16, dtype=torch.bfloat16, requires_grad=True)
    W, targets = torch.randn(40, 16), torch.randint(40, (20,))
    got = HeadLoss.apply(h, W, targets)
    expected = torch.nn.functional.cross_entropy(h.float() @ W.t(), targets, reduction="sum")
    torch.testing.assert_close(got, expected)
    [gradient] = torch.autograd.grad(got * 65536, h)  # a scaler's
    [true] = torch.autograd.grad(expected * 65536, h)
    torch.testing.assert_close(gradient, true)


@pytest.mark.equality
def test_the_heads_loss_equals_cross_entropy_over_all_logits():
    torch.manual_seed(0)
    h = torch.randn(150, 16, requires_grad=True)  # more rows than are taken at once
    W, targets = torch.randn(40, 16), torch.randint(40, (150,))
    expected = torch.nn.functional.cross_entropy(h @ W.t(), targets, reduction="sum")
    [true] = torch.autograd.grad(expected * 0.5, h)
    got = HeadLoss.apply(h, W, targets)
    [gradient] = torch.autograd.grad(got * 0.5, h)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(gradient, true, rtol=1e-5, atol=1e-6)


def test_no_labels_are_no_loss():
    h = torch.randn(0, 4, requires_grad=True)
    assert HeadLoss.apply(h, torch.randn(9, 4), torch.zeros(0, dtype=torch.long)) == 0


def test_the_loss_equals_transformers_own_over_all_logits(tiny):
    model, _ = load(str(tiny), "nf4", CPU)
    rows = [
        Example(list(range(3, 3 + size)), [IGNORED] * (size - end) + end * [5], size)
        for size, end in ((30, 9), (22, 5), (11, 3))
    ]
    [batch] = MicroBatchCollator(0, 10_000)(rows)["micro_batches"]
    with torch.no_grad():
        expected = model(**batch).loss.item()
        got = completion_loss(model, batch).item() / (9 + 5 + 3)
    assert got == pytest.approx(expected, rel=1e-5)
