import contextlib

import pytest
import torch

from qlora_kit.engine import merged as merged_file
from qlora_kit.engine.adapted_linear import dense_cache
from qlora_kit.engine.merged import quick_linear
from qlora_kit.models import load
from qlora_kit.runs import TrainConfig
from qlora_kit.train import attach_adapters
from tests.helpers import CPU


def merged_layers(model):
    return merged_file.merged_layers(model, reserve=1_500_000_000)


def adapted(tiny, precision="nf4", **changes):
    torch.manual_seed(0)
    config = TrainConfig(data="x", output="x", model=str(tiny), rank=4, **changes)
    model = attach_adapters(load(str(tiny), precision, CPU)[0], config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def built(kind, **changes):
    """A random model of another build, with biases that are not 0."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, **changes,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


@torch.inference_mode()
def said(model):
    """Logits of a padded batch at once, and the next ones from its cache."""
    ids = torch.arange(4, 44).view(2, 20)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    first = model(input_ids=ids, attention_mask=mask, use_cache=True)
    mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    after = model(
        input_ids=ids[:, :1], attention_mask=mask, past_key_values=first.past_key_values
    )  # fmt: skip
    real = first.logits[mask[:, :-1] == 1]  # what stands on padding is never looked at
    return torch.cat([real, after.logits[:, -1]])


def assert_unchanged(model, merged=True):
    expected = said(model)
    with merged_layers(model) as on:
        assert on == merged
        torch.testing.assert_close(said(model), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(said(model), expected)  # everything is put back, to the bit


@pytest.mark.equality
@pytest.mark.parametrize("precision", ["nf4", "32bit"])
def test_with_an_adapter_and_without_the_answers_are_the_same(tiny, precision):
    model = adapted(tiny, precision)
    with dense_cache(model, torch.float32):
        assert_unchanged(model)
        tuned = said(model)
        with model.disable_adapter():
            assert_unchanged(model)
            assert (said(model) - tuned).abs().max() > 0.01
        with merged_layers(model):
            torch.testing.assert_close(said(model), tuned, rtol=1e-4, atol=1e-4)


def test_each_adapter_speaks_when_it_is_its_turn(tiny):
    model = adapted(tiny)
    model.add_adapter("second", model.peft_config["default"])
    answers = []
    with dense_cache(model, torch.float32):
        for name in ("second", "default"):
            model.set_adapter(name)
            assert_unchanged(model.eval())
            answers.append(said(model))
    assert (answers[0] - answers[1]).abs().max() > 0.01


@pytest.mark.equality
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("Llama", {"attention_bias": True}), ("Qwen2", {}), ("Mistral", {"sliding_window": 8}),
     ("Mistral", {"sliding_window": None})],
)  # fmt: skip
def test_it_equals_transformers_for_each_build(kind, changes):
    assert_unchanged(built(kind, **changes))


def test_a_model_without_padding_needs_no_mask():
    model, ids = built("Llama"), torch.arange(4, 24)[None]
    with torch.inference_mode():
        expected = model(ids).logits
        with merged_layers(model):
            torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 64, 65])
def test_the_order_of_factors_does_not_change_a_product(rows):
    x, W, bias = torch.randn(rows, 1, 8), torch.randn(5, 8), torch.randn(5)
    expected = torch.nn.functional.linear(x, W, bias)
    torch.testing.assert_close(quick_linear(x, W, bias), expected)
    assert quick_linear(x, W).is_contiguous()


def test_what_cannot_be_one_weight_is_left_alone(tiny, monkeypatch):
    assert_unchanged(adapted(tiny), merged=False)  # 4-bit weights that are not cached
    assert_unchanged(built("Llama", hidden_act="gelu"), merged=False)
    assert_unchanged(built("Qwen3"), merged=False)  # norms between product and rotation
    assert_unchanged(adapted(tiny, "32bit").merge_and_unload().bfloat16(), merged=False)
    both = adapted(tiny, "32bit")
    both.add_adapter("second", both.peft_config["default"])
    both.base_model.set_adapter(["default", "second"])
    assert_unchanged(both.eval(), merged=False)
    with merged_layers(built("Llama").train()) as on:
        assert not on
    monkeypatch.setattr(merged_file, "main_memory", lambda: (10**9, 10**9))
    assert_unchanged(built("Llama"), merged=False)


def test_an_error_inside_puts_everything_back(tiny):
    model = adapted(tiny, "32bit")
    before = {name for module in model.modules() for name in module.__dict__}
    with contextlib.suppress(ZeroDivisionError), merged_layers(model):
        raise ZeroDivisionError
    assert {name for module in model.modules() for name in module.__dict__} == before
