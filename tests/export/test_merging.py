import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from qlora_kit import KitError
from qlora_kit.engine import fast_generation
from qlora_kit.export import merge
from qlora_kit.export.merging import dense_base, require_mergeable
from qlora_kit.models import load
from qlora_kit.runs import TrainConfig, load_run, open_run
from qlora_kit.train import fine_tune
from tests.export.comparisons import naive_merge

IDS = torch.arange(3, 60)[None]


def logits(model):
    with fast_generation(model), torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.fixture(scope="module")
def tuned(tiny_run):
    return load_run(tiny_run)[0]


@pytest.mark.equality
def test_merged_weights_say_what_the_adapter_says(tiny_run, tuned):
    merged, _ = merge(tiny_run)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(logits(merged), logits(tuned), atol=1e-4, rtol=1e-4)
    with tuned.disable_adapter():
        assert (logits(merged) - logits(tuned)).abs().max() > 0.1


def test_the_dequantized_base_is_the_one_that_was_trained_on(tiny_run, tiny, tuned):
    base = dense_base(load_run(tiny_run)[0], open_run(tiny_run).config, "dequantized")
    with tuned.disable_adapter():
        torch.testing.assert_close(logits(base), logits(tuned), atol=1e-4, rtol=1e-4)
    original, _ = load(str(tiny), "32bit")
    assert (logits(base) - logits(original)).abs().max() > 0.1


def test_the_original_base_keeps_its_own_values(tiny_run, tiny):
    merged, _ = merge(tiny_run, "original")
    original, _ = load(str(tiny), "32bit")
    name = "model.layers.0.self_attn.q_proj.weight"
    change = merged.state_dict()[name] - original.state_dict()[name]
    adapter = load_file(tiny_run / "adapter_model.safetensors")
    path = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    B, A = adapter[path.format("B")], adapter[path.format("A")]
    torch.testing.assert_close(change, 4.0 * B @ A, atol=1e-5, rtol=1e-4)  # alpha 32, rank 8


def test_a_base_in_16_bits_is_merged_as_it_was_trained_against(tiny, rows, tmp_path):
    """From the rounded weights of the training, and not from the 32 bits that were rounded."""
    run = tmp_path / "run"
    config = TrainConfig(
        data=str(rows), output=str(run), model=str(tiny), precision="16bit", max_steps=2
    )
    fine_tune(config, progress=False)
    tuned, _ = load_run(run)
    base = tuned.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight.clone()
    assert base.dtype == torch.bfloat16
    dense = dense_base(tuned, open_run(run).config, "dequantized")
    weight = dense.model.layers[0].self_attn.q_proj.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, base.float())


def test_a_base_from_a_file_in_4_bits_is_saved_dense(tiny, rows, tmp_path):
    """As the bundled model is: it comes from a copy that holds the 4-bit numbers themselves."""
    load(str(tiny))[0].save_pretrained(tmp_path / "base")
    load(str(tiny))[1].save_pretrained(tmp_path / "base")
    config = TrainConfig(
        data=str(rows), output=str(tmp_path / "run"), model=str(tmp_path / "base"), max_steps=2
    )
    fine_tune(config, progress=False)
    merged, _ = merge(tmp_path / "run")
    merged.save_pretrained(tmp_path / "merged")
    weights = load_file(tmp_path / "merged/model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert torch.equal(logits(load(str(tmp_path / "base"))[0]), logits(load(str(tiny))[0]))


def test_the_naive_merge_stays_in_4_bits_and_loses(tiny_run, tuned):
    naive, _ = naive_merge(tiny_run)
    assert any(p.dtype == torch.uint8 for p in naive.parameters())
    good, _ = merge(tiny_run)
    said = logits(tuned)
    assert (logits(naive) - said).abs().mean() > 100 * (logits(good) - said).abs().mean()


def test_an_empty_adapter_is_refused(tiny_run, tmp_path):
    folder = tmp_path / "empty"
    shutil.copytree(tiny_run, folder)
    (folder / "manifest.json").unlink()  # as of an adapter from elsewhere
    weights = load_file(folder / "adapter_model.safetensors")
    empty = {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in weights.items()}
    save_file(empty, folder / "adapter_model.safetensors")
    with pytest.raises(KitError, match="empty: its B are zero"):
        merge(folder)


def test_an_adapter_that_changed_since_the_training_is_refused(tiny_run, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(tiny_run, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({k: v * 1.01 for k, v in weights.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(KitError, match="is not what was trained"):
        merge(folder)


def test_what_cannot_be_merged_is_told(tiny, tiny_run, tmp_path):
    with pytest.raises(KitError, match=r"no config\.yaml"):
        merge(tmp_path)
    with pytest.raises(KitError, match="whole model already"):
        merge(tiny)
    with pytest.raises(KitError, match="dequantized, original"):
        merge(tiny_run, "nf4")
    run = open_run(tiny_run)
    int8 = replace(run, config=replace(run.config, precision="int8"))
    with pytest.raises(KitError, match="--into original"):
        require_mergeable(int8, "dequantized")
