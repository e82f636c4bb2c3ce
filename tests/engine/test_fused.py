import weakref

import pytest
import torch

from qlora_kit.data import IGNORED, block_mask
from qlora_kit.engine import completion_loss, parallel
from qlora_kit.engine.adapted_linear import dense_cache
from qlora_kit.engine.fused import AttentionInputs, Frozen, GatedMLP, fused_layers, rotate
from qlora_kit.from_scratch import saved_for_backward
from qlora_kit.memory import ModelShape, Workload, workload_on
from qlora_kit.memory.formulas import is_fused, layer_bytes
from qlora_kit.models import load
from qlora_kit.runs import TrainConfig
from qlora_kit.train import attach_adapters
from tests.helpers import CPU


def adapted(tiny, **changes):
    torch.manual_seed(0)
    config = TrainConfig(data="x", output="x", model=str(tiny), rank=4, **changes)
    model = attach_adapters(load(str(tiny), "nf4", CPU)[0], config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


def batch(packed=False):
    ids = torch.arange(4, 64).view(2, 30)
    labels = torch.where(torch.arange(30) < 12, IGNORED, ids)
    if not packed:
        return {"input_ids": ids, "labels": labels}
    segments = (torch.arange(60) >= 30).long()[None]
    return {"input_ids": ids.view(1, -1), "labels": labels.view(1, -1),
            "position_ids": torch.arange(30).repeat(2)[None],
            "attention_mask": block_mask(segments)}  # fmt: skip


def loss_and_gradients(model, rows):
    model.zero_grad()
    loss = completion_loss(model, rows)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def doubles(*shapes):
    torch.manual_seed(0)
    return [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def test_gradients_by_hand_are_the_true_ones():
    x, A, B, A2, B2 = doubles((2, 3, 8), (4, 8), (16, 4), (2, 6), (8, 2))
    weight, W, bias, angle = (
        t.detach() for t in doubles((8,), (16, 8), (16,), (1, 3, 1, 2))
    )  # fmt: skip
    rotation = angle.cos().repeat(1, 1, 1, 2), angle.sin().repeat(1, 1, 1, 2)
    frozen = Frozen(W, bias, weight, 1e-5)
    assert torch.autograd.gradcheck(
        lambda x, A, B: AttentionInputs.apply(x, A, B, frozen, rotation, (2, 1)), (x, A, B)
    )
    W, W2, B = W[:12], W[:8, :6], B[:12].detach().requires_grad_()
    frozen = Frozen(W, None, weight, 1e-5)
    assert torch.autograd.gradcheck(
        lambda x, A, B, A2, B2: GatedMLP.apply(x, frozen, W2, A, B, A2, B2), (x, A, B, A2, B2)
    )


@pytest.mark.equality
def test_rotation_equals_transformers():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    x, angle = torch.randn(2, 5, 3, 8), torch.randn(1, 5, 4).repeat(1, 1, 2)
    expected, _ = apply_rotary_pos_emb(x, x, angle.cos(), angle.sin(), unsqueeze_dim=2)
    got = rotate(x, angle.cos().unsqueeze(2), angle.sin().unsqueeze(2))
    torch.testing.assert_close(got, expected)


@pytest.mark.equality
@pytest.mark.parametrize("packed", [False, True])
def test_it_equals_peft_on_bitsandbytes_in_loss_and_gradients(tiny, packed):
    model = adapted(tiny)
    expected, expected_gradients = loss_and_gradients(model, batch(packed))
    with dense_cache(model, torch.float32), fused_layers(model) as fused:
        assert fused
        got, gradients = loss_and_gradients(model, batch(packed))
    assert got == pytest.approx(expected, rel=1e-5)
    for name, gradient in expected_gradients.items():
        error = (gradients[name] - gradient).norm() / gradient.norm()
        assert error < 1e-5, name


def test_in_16_bits_gradients_are_as_near_as_those_of_single_layers(tiny):
    """The bound of bf16 products: 8 bits of each number, so gradients within a few percent."""
    model = adapted(tiny)

    def error(gradients):
        return max(
            (gradients[name] - gradient).norm() / gradient.norm() for name, gradient in true.items()
        )

    loss, true = loss_and_gradients(model, batch())
    with dense_cache(model, torch.bfloat16):
        single = error(loss_and_gradients(model, batch())[1])
        with fused_layers(model):
            got, gradients = loss_and_gradients(model, batch())
    assert got == pytest.approx(loss, rel=5e-3)
    assert error(gradients) < max(0.04, 1.5 * single)


def test_a_young_adapter_is_not_swallowed_by_16_bit_rounding(tiny):
    """Its gradient's direction must lower the loss by what the gradient promises."""
    model = adapted(tiny)
    parameters = [p for n, p in model.named_parameters() if "lora_B" in n]
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
    with dense_cache(model, torch.bfloat16), fused_layers(model):
        before, gradients = loss_and_gradients(model, batch())
        gradients = [g for n, g in gradients.items() if "lora_B" in n]
        squared = sum(g.square().sum() for g in gradients).item()
        step = 0.003 * before / squared  # of the loss, far below bf16's last bit
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= step * gradient
            after = completion_loss(model, batch()).item()
    assert before - after == pytest.approx(step * squared, rel=0.3)


def test_everything_is_put_back(tiny):
    model = adapted(tiny)
    before = {name for module in model.modules() for name in module.__dict__}
    with dense_cache(model, torch.float32), fused_layers(model):
        pass
    assert {name for module in model.modules() for name in module.__dict__} == before
    assert model(torch.arange(4, 24)[None]).logits.shape[-1] == model.config.vocab_size


def test_joined_weights_are_in_memory_once(tiny):
    model = adapted(tiny)
    with dense_cache(model, torch.float32):
        single = [weakref.ref(m.dense) for m in model.modules() if hasattr(m, "dense")]
        with fused_layers(model) as fused:
            assert fused
            layer = model.base_model.model.model.layers[0]
            joined = layer.attention_inputs.W.untyped_storage().data_ptr()
            query = layer.self_attn.q_proj.base_layer.dense
            assert query.untyped_storage().data_ptr() == joined
            alive = sum(weight() is not None for weight in single)
            assert alive == 2 * 2  # of each of the two layers' seven: o and down


@pytest.mark.parametrize("changes", [{"dropout": 0.1}, {"target_modules": "q_proj,v_proj"}])
def test_what_does_more_or_less_than_plain_adapters_is_left_alone(tiny, changes):
    model = adapted(tiny, **changes)
    with dense_cache(model, torch.float32), fused_layers(model) as fused:
        assert not fused
        assert not any("forward" in layer.__dict__ for layer in model.base_model.model.model.layers)


def test_without_cached_weights_nothing_changes(tiny):
    with fused_layers(adapted(tiny)) as fused:
        assert not fused


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_planner_counts_what_a_fused_layer_keeps(tiny, dtype):
    assert Workload().workers == parallel.WORKERS
    saved = []
    for layers in (2, 1):
        model = adapted(tiny)
        stack = model.base_model.model.model
        stack.layers = stack.layers[:layers]
        with dense_cache(model, dtype), fused_layers(model):
            saved.append(saved_for_backward(lambda m=model: completion_loss(m, batch()), model))
    shape = ModelShape.from_config(tiny)
    settings = workload_on(
        CPU, batch=2, sequence_length=30, rank=4, compute_bytes=dtype.itemsize, workers=1
    )
    assert is_fused(shape, settings)
    counted = layer_bytes(shape, settings)
    assert saved[0] - saved[1] == pytest.approx(counted, rel=0.01)
