"""Random models of each architecture, written to GGUF and read by llama.cpp itself."""

import numpy as np
import pytest
import torch

from qlora_kit import KitError
from qlora_kit.data import Conversation, read
from qlora_kit.export import (
    gguf_outputs,
    gguf_writer,
    make_prompts,
    model_outputs,
    write_adapter,
    write_gguf,
)
from qlora_kit.export.gguf_writer import QUANTS
from qlora_kit.export.merging import dense_base
from qlora_kit.export.parity import divergence
from qlora_kit.runs import load_adapter, load_run, open_run
from tests.helpers import random_model

TALKS = [
    Conversation(
        (
            {"role": "user", "content": f"Light {n}? 🙂"},
            {"role": "assistant", "content": "It is red, or green with 3 dots, then blue."},
        ),
        n,
    )
    for n in range(4)
]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}


def both(model, tokenizer, path, quant="f16"):
    prompts = make_prompts(model, tokenizer, TALKS, max_new_tokens=8)
    write_gguf(model, tokenizer, path, quant)
    return model_outputs(model, tokenizer, prompts), gguf_outputs(path, prompts)


@pytest.mark.equality
@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "tie_word_embeddings": False}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("llama", {"rope_parameters": LINEAR}),
        ("mistral", {"head_dim": 32}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 32}),
    ],
    ids=["llama", "bias", "llama3-rope", "linear-rope", "mistral", "qwen2", "qwen3"],
)
def test_llama_cpp_computes_what_transformers_computes(kind, extra, tokenizer, tmp_path):
    model = random_model(kind, tokenizer, **extra)
    ours, theirs = both(model, tokenizer, tmp_path / "model.gguf")
    assert divergence(ours, theirs).max() < 1e-3
    assert (ours.log_probs.argmax(1) == theirs.log_probs.argmax(1)).all()
    assert ours.tokens == theirs.tokens
    assert ours.rendered == theirs.rendered


def test_rows_of_q_and_k_in_the_wrong_order_show(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(gguf_writer._ARCHITECTURES, "llama", ("llama", False))
    ours, theirs = both(random_model("llama", tokenizer), tokenizer, tmp_path / "model.gguf")
    assert divergence(ours, theirs).mean() > 0.05


def test_fewer_bits_are_smaller_and_farther(tokenizer, tmp_path):
    from gguf import GGUFReader

    model = random_model("llama", tokenizer)
    sizes, distances = [], []
    for quant in QUANTS:
        path = tmp_path / f"{quant}.gguf"
        ours, theirs = both(model, tokenizer, path, quant)
        sizes.append(path.stat().st_size)
        distances.append(divergence(ours, theirs).mean())
        kinds = {t.name: t.tensor_type.name for t in GGUFReader(path).tensors}
        assert kinds["blk.0.ffn_up.weight"] == quant.upper()
        assert kinds["blk.0.ffn_norm.weight"] == "F32"
        assert kinds["token_embd.weight"] == ("F16" if quant == "f16" else "Q8_0")
    assert sizes == sorted(sizes, reverse=True)
    assert distances[0] < distances[1] < distances[2] < min(distances[3:])


def test_rows_that_no_block_fits_stay_in_16_bits(tokenizer, tmp_path):
    from gguf import GGUFReader

    model = random_model("llama", tokenizer)
    model.model.layers[0].mlp.up_proj.weight.data = torch.zeros(128, 48)
    write_gguf(model, tokenizer, tmp_path / "odd.gguf", "q4_0")
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "odd.gguf").tensors}
    assert kinds["blk.0.ffn_up.weight"] == "F16"
    assert kinds["blk.1.ffn_up.weight"] == "Q4_0"


@pytest.mark.equality
def test_an_adapter_alone_says_the_same_in_llama_cpp(tiny_run, rows, tmp_path):
    tuned, tokenizer = load_run(tiny_run)
    prompts = make_prompts(tuned, tokenizer, read(rows), questions=4, max_new_tokens=8)
    write_adapter(tuned, tmp_path / "adapter.gguf")
    ours = model_outputs(tuned, tokenizer, prompts)
    base = dense_base(tuned, open_run(tiny_run).config, "dequantized")
    write_gguf(base, tokenizer, tmp_path / "base.gguf")
    theirs = gguf_outputs(tmp_path / "base.gguf", prompts, tmp_path / "adapter.gguf")
    alone = gguf_outputs(tmp_path / "base.gguf", prompts)
    assert divergence(ours, theirs).max() < 1e-3
    assert divergence(ours, alone).mean() > 0.1


@pytest.mark.equality
def test_a_scale_of_each_layer_comes_along(tiny, tokenizer, tmp_path):
    """rsLoRA and patterns of rank and alpha: llama.cpp knows only alpha / rank."""
    from peft import LoraConfig, get_peft_model

    from qlora_kit.models import load

    base, _ = load(str(tiny), "32bit")
    write_gguf(base, tokenizer, tmp_path / "base.gguf")
    lora = LoraConfig(
        r=4,
        lora_alpha=8,
        use_rslora=True,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"down_proj": 2},
        alpha_pattern={"q_proj": 3},
        init_lora_weights=False,
    )
    torch.manual_seed(0)
    tuned = get_peft_model(base, lora).eval()
    prompts = make_prompts(tuned, tokenizer, TALKS, max_new_tokens=8)
    write_adapter(tuned, tmp_path / "adapter.gguf")
    theirs = gguf_outputs(tmp_path / "base.gguf", prompts, tmp_path / "adapter.gguf")
    assert divergence(model_outputs(tuned, tokenizer, prompts), theirs).max() < 1e-3


def test_an_adapter_that_is_more_than_a_and_b_is_refused(tiny_run, tiny, tmp_path):
    from peft import LoraConfig, get_peft_model

    from qlora_kit.models import load

    base, _ = load(str(tiny), "32bit")
    tuned = get_peft_model(base, LoraConfig(target_modules=["q_proj"], use_dora=True))
    with pytest.raises(KitError, match="Merge it"):
        write_adapter(tuned, tmp_path / "adapter.gguf")
    assert load_adapter(load(str(tiny), "32bit")[0], tiny_run)


def test_what_cannot_be_written_is_told_with_the_way_out(tokenizer, tmp_path):
    with pytest.raises(KitError, match="convert_hf_to_gguf"):
        write_gguf(random_model("gpt_neox", tokenizer), tokenizer, tmp_path / "x.gguf")
    with pytest.raises(KitError, match="f16, q8_0"):
        write_gguf(random_model("llama", tokenizer), tokenizer, tmp_path / "x.gguf", "q3")
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
    with pytest.raises(KitError, match="rope scaling 'yarn'"):
        write_gguf(
            random_model("qwen2", tokenizer, rope_parameters=yarn), tokenizer, tmp_path / "x.gguf"
        )


@pytest.mark.equality
def test_long_prefixes_agree_too(tokenizer, tmp_path):
    """A wrong rotation grows with the distance: short texts would hide a wrong rope scaling."""
    model = random_model("llama", tokenizer, rope_parameters=LLAMA3)
    talk = ({"role": "user", "content": "Light? " * 60}, {"role": "assistant", "content": "Red."})
    prompts = make_prompts(model, tokenizer, [Conversation(talk, 1)], max_new_tokens=2)
    write_gguf(model, tokenizer, tmp_path / "model.gguf")
    theirs = gguf_outputs(tmp_path / "model.gguf", prompts)
    assert len(prompts.prefixes[0]) > 300
    assert divergence(model_outputs(model, tokenizer, prompts), theirs).max() < 1e-3
    assert np.isfinite(theirs.log_probs).all()
