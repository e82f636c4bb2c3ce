import pytest
import torch

from qlora_kit.engine import dense_weight
from qlora_kit.engine.adapted_linear import AdaptedLinear, dense_cache
from qlora_kit.models import load
from qlora_kit.runs import TrainConfig
from qlora_kit.train import attach_adapters
from tests.helpers import CPU


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
        lambda x, A, B: AdaptedLinear.apply(x, A, B, W, bias), (x, A, B)
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

    assert effect(lambda B: AdaptedLinear.apply(x, A, B, W, None)) < 0.02
    assert effect(swallowed) > 0.5


@pytest.mark.equality
def test_dense_weight_is_what_bitsandbytes_multiplies_with(model):
    layer = model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    x = torch.randn(5, layer.in_features)
    with torch.no_grad():
        torch.testing.assert_close(x @ dense_weight(layer, torch.float32).t(), layer(x))
