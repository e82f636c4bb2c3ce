import pytest
import torch

from qlora_kit.engine import dense_weight
from qlora_kit.engine.adapted_linear import AdaptedLinear, dense_cache
from qlora_kit.machine import Machine
from qlora_kit.models import load
from qlora_kit.runs import TrainConfig
from qlora_kit.train import attach_adapters

CPU = Machine("cpu", "test", "float32", 2, 8.0, 8.0)


@pytest.fixture
def model(tiny):
    torch.manual_seed(0)
    config = TrainConfig(data="x", output="x", model=str(tiny), rank=4)
    adapted = attach_adapters(load(str(tiny), "nf4", CPU)[0], config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return adapted.train()


def outputs_and_gradients(model):
    ids = torch.arange(4, 44).view(2, 20)
    model.zero_grad()
    logits = model(ids).logits
    logits.square().mean().backward()
    return logits.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad
    }


def test_gradients_by_hand_are_the_true_ones():
    torch.manual_seed(0)
    x, A, B = (torch.randn(*shape, dtype=torch.float64, requires_grad=True)
               for shape in ((3, 5, 8), (2, 8), (6, 2)))  # fmt: skip
    W, bias = torch.randn(6, 8, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, A, B: AdaptedLinear.apply(x, W, A, B, bias, 1.5), (x, A, B)
    )


@pytest.mark.equality
def test_it_equals_peft_on_bitsandbytes_in_output_and_gradients(model):
    expected, expected_gradients = outputs_and_gradients(model)
    with dense_cache(model, torch.float32) as cached:
        got, gradients = outputs_and_gradients(model)
        assert cached > 0
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-5)


def test_everything_is_put_back(model):
    expected, _ = outputs_and_gradients(model)
    with dense_cache(model, torch.float32):
        pass
    assert not any("forward" in module.__dict__ for module in model.modules()
                   if type(module).__name__ == "Linear4bit")  # fmt: skip
    torch.testing.assert_close(outputs_and_gradients(model)[0], expected, atol=0, rtol=0)


def test_the_base_shows_through_when_adapters_are_off(model):
    ids = torch.arange(4, 24)[None]
    with torch.no_grad(), model.disable_adapter():
        expected = model(ids).logits
        with dense_cache(model, torch.float32):
            torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.equality
def test_dropout_and_dora_keep_pefts_own_forward(tiny):
    from peft import LoraConfig, get_peft_model

    for extra in ({"use_dora": True}, {"lora_dropout": 0.5}):
        torch.manual_seed(0)
        lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **extra)
        adapted = get_peft_model(load(str(tiny), "nf4", CPU)[0], lora).train()
        torch.manual_seed(1)
        expected, _ = outputs_and_gradients(adapted)
        with dense_cache(adapted, torch.float32):
            torch.manual_seed(1)
            got, _ = outputs_and_gradients(adapted)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_small_adapter_is_not_swallowed_by_16_bit_rounding():
    """An output rounded to bf16 before the adapter is added loses the adapter."""
    torch.manual_seed(0)
    x, W = torch.randn(64, 128), torch.randn(256, 128).bfloat16()
    A, B = torch.randn(8, 128) / 11, torch.randn(256, 8) * 1e-3
    exact = (x @ A.t() @ B.t()).double()

    def effect(run):
        return (run(B).double() - run(torch.zeros_like(B)).double() - exact).norm() / exact.norm()

    def swallowed(B):
        y = x.bfloat16() @ W.t()
        return y + (x @ A.t() @ B.t()).bfloat16()

    assert effect(lambda B: AdaptedLinear.apply(x, W, A, B, None, 1.0)) < 0.02
    assert effect(swallowed) > 0.5


@pytest.mark.equality
def test_dense_weight_is_what_bitsandbytes_multiplies_with(model):
    layer = model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    x = torch.randn(5, layer.in_features)
    with torch.no_grad():
        torch.testing.assert_close(x @ dense_weight(layer, torch.float32).t(), layer(x))


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


def test_saved_for_backward_counts_each_piece_once():
    from qlora_kit.from_scratch import saved_for_backward

    x = torch.randn(10, 10, requires_grad=True)
    assert saved_for_backward(lambda: x * x) == 400
    layer = torch.nn.Linear(10, 10)
    assert saved_for_backward(lambda: layer(x).square(), layer) == 800  # x, and what is squared
