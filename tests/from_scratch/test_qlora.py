import pytest
import torch


@pytest.mark.equality
@pytest.mark.parametrize("double_quant", [False, True])
def test_qlora_by_hand_equals_bitsandbytes_with_peft(double_quant):
    from bitsandbytes.nn import Linear4bit
    from peft import LoraConfig, get_peft_model

    from qlora_kit.from_scratch import QLoraLinear, from_bitsandbytes

    torch.manual_seed(0)
    base = Linear4bit(
        128, 192, bias=False, compute_dtype=torch.float32, quant_type="nf4",
        compress_statistics=double_quant,
    ).to("cpu")  # fmt: skip
    W = from_bitsandbytes(base.weight)
    peft_model = get_peft_model(
        torch.nn.Sequential(base), LoraConfig(r=4, lora_alpha=8, target_modules=["0"])
    )
    layer = peft_model.base_model.model[0]
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(B, std=0.1)
    ours_A, ours_B = A.detach().clone().requires_grad_(), B.detach().clone().requires_grad_()
    x1 = torch.randn(2, 9, 128, requires_grad=True)
    x2 = x1.detach().clone().requires_grad_()
    y1, y2 = QLoraLinear.apply(x1, W, ours_A, ours_B, 2.0), peft_model(x2)
    torch.testing.assert_close(y1, y2, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(y1)
    (y1 * weight).sum().backward()
    (y2 * weight).sum().backward()
    for ours, theirs in ((x1, x2), (ours_A, A), (ours_B, B)):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.equality
def test_qlora_by_hand_equals_what_trains():
    from qlora_kit.engine.adapted_linear import AdaptedLinear
    from qlora_kit.from_scratch import QLoraLinear, dequantize_4bit, quantize_4bit

    torch.manual_seed(0)
    W = quantize_4bit(torch.randn(192, 128) / 10)
    gradients = []
    outputs = []
    for by_hand in (True, False):
        torch.manual_seed(1)
        x, A, B = (
            torch.randn(*shape, requires_grad=True) for shape in ((2, 9, 128), (4, 128), (192, 4))
        )
        if by_hand:
            y = QLoraLinear.apply(x, W, A, B, 2.0)
        else:
            y = AdaptedLinear.apply(x, A, B * 2.0, dequantize_4bit(W), None)
        outputs.append(y)
        gradients.append(torch.autograd.grad(y.square().sum(), (x, A, B)))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-4)
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()


def test_saved_for_backward_counts_each_piece_once():
    from qlora_kit.from_scratch import saved_for_backward

    x = torch.randn(10, 10, requires_grad=True)
    assert saved_for_backward(lambda: x * x) == 400
    layer = torch.nn.Linear(10, 10)
    assert saved_for_backward(lambda: layer(x).square(), layer) == 800  # x, and what is squared
