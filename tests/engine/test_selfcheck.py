"""What a library computes otherwise than the fast path keeps the library's way; nothing stays."""

import contextlib
import types
import warnings

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralForCausalLM

from qlora_kit.engine import completion_loss, fast_generation, fast_training, selfcheck
from qlora_kit.engine.decoder import decoder_layers
from qlora_kit.engine.loss import bare_head
from qlora_kit.models import load
from tests.helpers import CPU

SMALL = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def first_use(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(selfcheck, "_VERDICTS", {})


def adapted(kind, tmp_path, **changes):
    """A model of a kind in 4 bits, with adapters that say something."""
    folder = tmp_path / kind
    if not folder.exists():
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**{**SMALL, **changes})
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
        model.save_pretrained(folder)
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    base = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, dtype=torch.float32
    )
    torch.manual_seed(1)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


def trained(model, fast):
    """The losses of three steps; how many micro-batches ran at once; whether layers are fused."""
    ids = torch.arange(4, 64).view(2, 30)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.SGD(parameters, lr=1e-3), []
    with fast_training(model, CPU) if fast else contextlib.nullcontext():
        fused = any("forward" in vars(layer) for layer in model.base_model.model.model.layers)
        for _ in range(3):
            loss = completion_loss(model, {"input_ids": ids, "labels": ids}) / 60
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses, fused


@pytest.mark.equality
@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2"])
def test_these_are_fast_and_train_the_same_model(kind, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fast, fused = trained(adapted(kind, tmp_path), fast=True)
    slow, _ = trained(adapted(kind, tmp_path), fast=False)
    assert fused
    assert fast == pytest.approx(slow, rel=1e-5)
    assert slow[-1] < slow[0]


@pytest.mark.equality
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("Qwen3", {"head_dim": 16}), ("SmolLM3", {"no_rope_layer_interval": 2}), ("Olmo2", {}),
     ("Granite", {"residual_multiplier": 0.5, "attention_multiplier": 0.3, "logits_scaling": 3.0}),
     ("Gemma2", {"head_dim": 16, "final_logit_softcapping": 2.0}),
     ("Cohere", {"logit_scale": 0.25})],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*keeps its own forward")
def test_what_is_built_otherwise_trains_as_the_library_does(kind, changes, tmp_path):
    fast, fused = trained(adapted(kind, tmp_path, **changes), fast=True)
    slow, _ = trained(adapted(kind, tmp_path, **changes), fast=False)
    assert not fused
    assert fast == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("where", ["class", "attribute"])
def test_a_planted_multiplier_is_noticed_and_said_once(where, tmp_path, monkeypatch):
    if where == "class":
        forward = LlamaDecoderLayer.forward
        monkeypatch.setattr(
            LlamaDecoderLayer, "forward", lambda *args, **named: 1.01 * forward(*args, **named)
        )
    model = adapted("Llama", tmp_path)
    if where == "attribute":  # of one layer's attention, where the library looks, too
        model.base_model.model.model.layers[1].self_attn.is_causal = False
    slow, _ = trained(model, fast=False)
    model = adapted("Llama", tmp_path)
    if where == "attribute":
        model.base_model.model.model.layers[1].self_attn.is_causal = False
    with pytest.warns(UserWarning, match=r"LlamaDecoderLayer keeps its own forward.* differs by"):
        fast, fused = trained(model, fast=True)
    assert not fused
    assert fast == pytest.approx(slow, rel=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert not trained(model, fast=True)[1]


def test_a_generating_layer_is_compared_too(tmp_path, monkeypatch):
    forward = LlamaDecoderLayer.forward
    monkeypatch.setattr(
        LlamaDecoderLayer, "forward", lambda *args, **named: 1.01 * forward(*args, **named)
    )
    model, ids = adapted("Llama", tmp_path).eval(), torch.arange(4, 24)[None]
    with torch.inference_mode(), fast_generation(model):
        expected = model(ids).logits
        said = pytest.warns(UserWarning, match="LlamaDecoderLayer keeps its own forward")
        with said as caught, fast_generation(model, merged=True):
            assert torch.equal(model(ids).logits, expected)
    assert len(caught) == 1


def test_a_cap_behind_the_head_is_noticed(tmp_path, monkeypatch):
    forward = MistralForCausalLM.forward

    def capped(*args, **named):
        output = forward(*args, **named)
        output.logits = 20 * torch.tanh(output.logits / 20)
        return output

    monkeypatch.setattr(MistralForCausalLM, "forward", capped)
    model = adapted("Mistral", tmp_path)
    said = "the head of MistralForCausalLM keeps its own forward"
    with pytest.warns(UserWarning, match=said), bare_head(model) as bare:
        assert not bare


def test_what_peft_computes_otherwise_keeps_its_forward(tmp_path, monkeypatch):
    from peft.tuners.lora.bnb import Linear4bit

    forward = Linear4bit.forward
    monkeypatch.setattr(Linear4bit, "forward", lambda *args: 1.01 * forward(*args))
    slow, _ = trained(adapted("Llama", tmp_path), fast=False)
    with pytest.warns(UserWarning, match="Linear4bit keeps its own forward"):
        fast, fused = trained(adapted("Llama", tmp_path), fast=True)
    assert not fused
    assert fast == pytest.approx(slow, rel=1e-5)


def test_the_comparison_draws_from_a_generator_of_its_own(tmp_path):
    model = adapted("Llama", tmp_path)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with fast_training(model, CPU), fast_generation(model.eval(), merged=True):
        assert len(selfcheck._VERDICTS) >= 4
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())


def test_only_all_layers_of_a_build_are_taken(tmp_path):
    model = adapted("Llama", tmp_path)
    layers = model.base_model.model.model.layers
    assert decoder_layers(model) == list(layers)
    layers[1].self_attn.q_norm = torch.nn.Identity()
    assert decoder_layers(model) == []
    del layers[1].self_attn.q_norm
    layers[1].mlp.scale = torch.nn.Parameter(torch.ones(1))
    assert decoder_layers(model) == []


def own_attributes(model):
    return {(name, key) for name, module in model.named_modules() for key in vars(module)}


def test_what_somebody_else_has_patched_is_used_and_stays(tmp_path):
    """As accelerate's hooks do, on the head, a linear layer, an adapter and a decoder layer."""
    model = adapted("Llama", tmp_path)
    inner = model.base_model.model
    first = inner.model.layers[0]
    calls = []

    def hooked(module):
        def forward(self, *args, **named):
            calls.append(type(self).__name__)
            return type(self).forward(self, *args, **named)

        module.forward = types.MethodType(forward, module)
        return module, module.forward

    pairs = [
        hooked(module)
        for module in (inner.lm_head, first, first.mlp.up_proj, first.mlp.down_proj.base_layer)
    ]
    before = own_attributes(model)
    for _ in range(2):
        trained(model, fast=True)
    with fast_generation(model.eval()), torch.inference_mode(), fast_generation(model, merged=True):
        model(torch.arange(4, 24)[None])
    assert set(calls) == {"Linear", "LlamaDecoderLayer", "Linear4bit"}
    assert all(module.forward is forward for module, forward in pairs)
    assert own_attributes(model) == before


@pytest.mark.parametrize("way", ["hook", "pre_hook"])
def test_whoever_looks_on_still_sees(way, tmp_path):
    model = adapted("Llama", tmp_path)
    seen = []
    attention = model.base_model.model.model.layers[0].self_attn
    getattr(attention, f"register_forward_{way}")(lambda *args: seen.append(1))
    assert not trained(model, fast=True)[1]
    assert len(seen) == 3


def test_nested_and_broken_off_nothing_is_left(tmp_path):
    model = adapted("Llama", tmp_path)
    before, ids = own_attributes(model), torch.arange(4, 24)[None]
    expected = model(ids).logits
    with contextlib.suppress(ZeroDivisionError), fast_training(model, CPU):
        with fast_training(model, CPU):
            pass
        inside = own_attributes(model)
        with fast_generation(model), fast_generation(model.eval(), merged=True):
            torch.testing.assert_close(model(ids).logits.shape, expected.shape)
        assert own_attributes(model) == inside
        raise ZeroDivisionError
    assert own_attributes(model) == before
    assert torch.equal(model.train()(ids).logits, expected)


def test_a_patch_that_fails_half_way_is_undone(tmp_path, monkeypatch):
    from qlora_kit.engine import fused

    model = adapted("Llama", tmp_path)
    before, real, calls = own_attributes(model), fused._joined, []

    def fails(*linears):
        calls.append(linears)
        if len(calls) > 4:  # after the comparison, and the first layer
            raise MemoryError
        return real(*linears)

    monkeypatch.setattr(fused, "_joined", fails)
    with pytest.raises(MemoryError), fast_training(model, CPU):
        pass
    assert own_attributes(model) == before


def test_answers_inside_training_come_from_the_cache_of_keys(tiny):
    """A fused layer knows no cache: the library's forward takes over."""
    model = adapted_tiny(tiny)
    ids = torch.arange(4, 24)[None]
    with torch.no_grad():
        expected = model.generate(input_ids=ids, max_new_tokens=5, do_sample=False)
        with fast_training(model, CPU):
            for layer in model.base_model.model.model.layers:
                assert "forward" in vars(layer)
            output = model.base_model.model.model(ids, use_cache=True)
            assert output.past_key_values.get_seq_length() == 20
    assert expected.shape == (1, 25)


def adapted_tiny(tiny):
    from qlora_kit.runs import TrainConfig
    from qlora_kit.train import attach_adapters

    torch.manual_seed(0)
    config = TrainConfig(data="x", output="x", model=str(tiny), rank=4)
    return attach_adapters(load(str(tiny), "nf4", CPU)[0], config).train()


def test_a_moment_without_memory_decides_nothing():
    def full():
        raise MemoryError

    assert not selfcheck.is_proven("kind", "A layer", full)
    assert selfcheck.is_proven("kind", "A layer", lambda: 0.0)
