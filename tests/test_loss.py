import torch

from qlora_kit.loss import HeadLoss


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
