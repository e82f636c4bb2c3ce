import json

import pytest
import torch
from safetensors.torch import save_file

from qlora_kit import KitError
from qlora_kit.runs.adapter_safety import require_safe_adapter

STEM = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


SOUND = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj"],
    "task_type": "CAUSAL_LM",
}


def adapter(folder, A=None, B=None, more=None, **config):
    (folder / "adapter_config.json").write_text(json.dumps({**SOUND, **config}))
    A = torch.ones(4, 8) if A is None else A
    B = torch.ones(8, 4) if B is None else B
    tensors = {f"{STEM}A.weight": A, f"{STEM}B.weight": B, **(more or {})}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("targets", [["q_proj"], "all-linear"])
def test_a_sound_one_passes_as_it_is(tmp_path, targets):
    folder = adapter(tmp_path, target_modules=targets)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    require_safe_adapter(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3': .*'LORA'"),
        ({"r": 10**9}, "r is 1000000000: .*less than or equal to 4096"),
        ({"r": 8}, "not of rank 8"),
        ({"r": True}, "r is True: .*valid integer"),
        ({"lora_alpha": 1e30}, "lora_alpha is 1e"),
        ({"target_modules": "(a+)+$"}, "target_modules is .*all-linear"),
        ({"target_modules": ["k_proj"]}, "not among its target_modules"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern is .*match pattern"),
        ({"megatron_config": {"x": 1}, "megatron_core": "os"}, "megatron_config is"),
        ({"layer_replication": [[0, 10**6]]}, "layer_replication is"),
    ],
)
def test_a_config_that_is_not_sane_is_named(tmp_path, change, said):
    with pytest.raises(KitError, match=said):
        require_safe_adapter(adapter(tmp_path, **change))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"B": torch.full((8, 4), float("nan"))}, "no numbers"),
        ({"B": torch.full((8, 4), float("-inf"))}, "no numbers"),
        ({"A": torch.full((4, 8), 1e6)}, "a weight of 1e\\+06"),
        ({"A": torch.ones(4, 8, dtype=torch.int32)}, "of the type I32"),
        ({"more": {"evil": torch.ones(1)}}, "no part of an adapter"),
        ({"more": {f"{STEM.replace('q_proj', 'k_proj')}A.weight": torch.ones(4, 8)}}, "not among"),
    ],
)
def test_weights_that_are_not_sane_are_named(tmp_path, weights, said):
    with pytest.raises(KitError, match=said):
        require_safe_adapter(adapter(tmp_path, **weights))


def test_a_pickle_in_the_place_of_safetensors_is_not_read(tmp_path):
    adapter(tmp_path)
    torch.save({"x": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(KitError, match="not a sound safetensors file"):
        require_safe_adapter(tmp_path)
