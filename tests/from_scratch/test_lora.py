"""The adapter by hand equals PEFT's, in output and gradients."""

import copy

import peft
import pytest
import torch
from torch import nn

from qlora_kit import KitError
from qlora_kit.from_scratch import LoraLinear, adapter_cost, low_rank, rank_errors


def pair(bias=False, rank=4, alpha=8, **peft_settings):
    """Our layer and PEFT's around the same weight, with the same A and B (and magnitude)."""
    torch.manual_seed(0)
    base = nn.Linear(24, 40, bias=bias)
    settings = {
        "rank_stabilized": peft_settings.get("use_rslora", False),
        "dora": peft_settings.get("use_dora", False),
    }
    ours = LoraLinear(copy.deepcopy(base), rank, alpha, **settings)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"], **peft_settings)
    theirs = peft.get_peft_model(nn.Sequential(base), config)
    layer = theirs.base_model.model[0]
    with torch.no_grad():
        ours.A.copy_(layer.lora_A["default"].weight)
        ours.B.normal_(std=0.3)
        layer.lora_B["default"].weight.copy_(ours.B)
        if ours.magnitude is not None:
            ours.magnitude.mul_(torch.rand(40) + 0.5)
            layer.lora_magnitude_vector["default"].weight.copy_(ours.magnitude)
    return ours, theirs, layer


@pytest.mark.equality
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("variant", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_equal_to_peft_in_output_and_gradients(variant, bias):
    ours, theirs, layer = pair(bias, **variant)
    x = torch.randn(3, 5, 24)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    y1, y2 = ours(x1), theirs(x2)
    torch.testing.assert_close(y1, y2, rtol=1e-6, atol=1e-6)
    weight = torch.randn_like(y1)
    (y1 * weight).sum().backward()
    (y2 * weight).sum().backward()
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(x1.grad, x2.grad, **close)
    torch.testing.assert_close(ours.A.grad, layer.lora_A["default"].weight.grad, **close)
    torch.testing.assert_close(ours.B.grad, layer.lora_B["default"].weight.grad, **close)
    if ours.magnitude is not None:
        theirs_grad = layer.lora_magnitude_vector["default"].weight.grad
        torch.testing.assert_close(ours.magnitude.grad, theirs_grad, **close)
    assert ours.base.weight.grad is None


@pytest.mark.parametrize("settings", [{}, {"rank_stabilized": True}, {"dora": True}])
def test_merging_changes_nothing_and_unmerging_gives_the_weight_back(settings):
    torch.manual_seed(0)
    base = nn.Linear(24, 40)
    before = base.weight.detach().clone()
    layer = LoraLinear(base, 4, 8, **settings)
    nn.init.normal_(layer.B)
    x = torch.randn(7, 24)
    y = layer(x)
    layer.merge()
    torch.testing.assert_close(layer(x), y, rtol=1e-4, atol=1e-4)
    with pytest.raises(KitError, match="merged already"):
        layer.merge()
    layer.unmerge()
    assert torch.equal(base.weight, before)
    torch.testing.assert_close(layer(x), y)
    with pytest.raises(KitError, match="not merged"):
        layer.unmerge()


def test_training_starts_from_the_unchanged_model():
    torch.manual_seed(0)
    base = nn.Linear(24, 40)
    x = torch.randn(7, 24)
    for settings in ({}, {"dora": True}):
        layer = LoraLinear(base, 4, **settings)
        torch.testing.assert_close(layer(x), base(x))
        layer(x).square().sum().backward()
        assert not layer.A.grad.any()
        assert layer.B.grad.any()


def test_low_rank_is_the_best_of_its_rank():
    torch.manual_seed(0)
    W = torch.randn(30, 20)
    errors = rank_errors(W)
    assert len(errors) == 21
    assert errors[0] == pytest.approx(1)
    assert errors[20] == pytest.approx(0, abs=1e-3)
    for rank in (1, 5, 19):
        B, A = low_rank(W, rank)
        assert B.shape == (30, rank)
        assert ((B @ A - W).norm() / W.norm()).item() == pytest.approx(
            errors[rank].item(), rel=1e-4
        )
    exact = torch.randn(30, 3) @ torch.randn(3, 20)
    B, A = low_rank(exact, 3)
    torch.testing.assert_close(B @ A, exact, rtol=1e-4, atol=1e-4)
    with pytest.raises(KitError, match="1 to 20"):
        low_rank(W, 21)


@pytest.mark.equality
def test_adapters_of_all_linear_layers_cost_what_pefts_do(tiny):
    from qlora_kit.models import load

    model, _ = load(str(tiny), "32bit")
    cost = adapter_cost(model, 8)
    theirs = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(r=8, target_modules="all-linear")
    )
    trained, total = theirs.get_nb_trainable_parameters()
    assert (cost.parameters, cost.total) == (trained, total)
    assert cost.share == pytest.approx(trained / total)
    with pytest.raises(KitError, match="down_proj"):
        adapter_cost(model, 8, ("query",))


def test_a_4bit_model_costs_the_same_adapters(tiny):
    from qlora_kit.models import load

    plain, packed = load(str(tiny), "32bit")[0], load(str(tiny), "nf4")[0]
    assert adapter_cost(plain, 8) == adapter_cost(packed, 8)


@pytest.mark.equality
def test_equal_to_what_trains_in_output_and_gradients():
    from qlora_kit.engine.adapted_linear import AdaptedLinear

    ours, _, _ = pair(bias=True)
    A, B = (p.detach().clone().requires_grad_() for p in (ours.A, ours.B))
    x = torch.randn(3, 5, 24)
    y = AdaptedLinear.apply(x, A, B * ours.scale, ours.base.weight.detach(), ours.base.bias)
    torch.testing.assert_close(y, ours(x))
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    (ours(x) * weight).sum().backward()
    torch.testing.assert_close(A.grad, ours.A.grad)
    torch.testing.assert_close(B.grad, ours.B.grad)
