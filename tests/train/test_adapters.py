"""Which layers get fresh adapters, and what is said of names that are none."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from qlora_kit import KitError
from qlora_kit.models import load
from qlora_kit.runs import TrainConfig
from qlora_kit.train import attach_adapters, fine_tune

LAYERS = "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"


def config(targets, **changes):
    return TrainConfig(data="-", output="-", rank=2, target_modules=targets, **changes)


def adapted(model):
    """The names of the layers that have an adapter."""
    ending = ".lora_A.default"
    return {
        name.removeprefix("base_model.model.").removesuffix(ending)
        for name, _ in model.named_modules()
        if name.endswith(ending)
    }


@pytest.mark.parametrize("precision", ["nf4", "int8", "32bit"])
@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        ("all-linear", 14),
        ("q_proj, v_proj", 4),
        ("mlp.up_proj", 2),
        ("model.layers.1.self_attn.k_proj", 1),
        ("lm_head", 1),
    ],
)
def test_linear_layers_are_adapted_by_their_names_or_what_these_end_in(
    tiny, precision, targets, layers
):
    model = attach_adapters(load(str(tiny), precision)[0], config(targets))
    names = adapted(model)
    assert len(names) == layers
    if targets != "all-linear":
        assert all(name.endswith(tuple(targets.split(", "))) for name in names)


@pytest.mark.equality
def test_the_linear_layers_of_gpt_2_are_adapted_too():
    torch.manual_seed(0)
    size = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 100}
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=1))
    assert adapted(attach_adapters(model, config("c_attn"))) == {"transformer.h.0.attn.c_attn"}


@pytest.mark.parametrize(
    ("targets", "unknown"),
    [
        ("self_attn", "'self_attn'"),
        ("layers", "'layers'"),
        ("0", "'0'"),
        ("embed_tokens", "'embed_tokens'"),
        ("proj", "'proj'"),
        ("q_proj,,v_proj", "''"),
        ("", "''"),
        ("q_proj,query,mlp", "'query', 'mlp'"),
    ],
)
def test_a_name_that_is_no_linear_layers_is_refused_with_those_there_are(tiny, targets, unknown):
    model, _ = load(str(tiny))
    with pytest.raises(KitError, match=f"is named {unknown}. There are: {LAYERS}; 'all-linear'"):
        attach_adapters(model, config(targets))
    assert not adapted(model)


def test_a_wrong_name_is_said_before_anything_is_trained(tiny, rows, tmp_path):
    wrong = TrainConfig(
        data=str(rows),
        output=str(tmp_path / "run"),
        model=str(tiny),
        max_steps=2,
        target_modules="self_attn",
        save_steps=1,
    )
    with pytest.raises(KitError, match="is named 'self_attn'"):
        fine_tune(wrong, progress=False)
    assert not (tmp_path / "run/metrics.jsonl").exists()
    assert not (tmp_path / "run/checkpoints").exists()


def test_what_peft_refuses_is_one_clear_error(tiny):
    model, _ = load(str(tiny))
    model.model.layers[1].norms = torch.nn.ModuleDict({"q_proj": torch.nn.LayerNorm(4)})
    with pytest.raises(KitError, match=r"PEFT cannot .* 'q_proj' .*LayerNorm.*target_modules"):
        attach_adapters(model, config("q_proj"))
