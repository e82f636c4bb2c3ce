import dataclasses
import gc
import json
import math
import shutil
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch

from qlora_kit import KitError
from qlora_kit.data import MicroBatchCollator, read
from qlora_kit.engine import completion_loss, parallel
from qlora_kit.evaluate import evaluate
from qlora_kit.models import load
from qlora_kit.runs import TrainConfig, checkpoint, default_learning_rate, load_run
from qlora_kit.train import DivergedError, attach_adapters, fine_tune
from qlora_kit.train.training import build_trainer
from tests.helpers import CPU


@pytest.fixture(autouse=True)
def two_workers():
    """Train as people do, micro-batches side by side, also where a test process has one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(parallel.WORKERS)
    yield
    torch.set_num_threads(threads)


def settings(tiny, rows, output, **changes):
    values = {"model": str(tiny), "max_steps": 6, "rank": 4, "alpha": 8, "token_budget": 128,
              "learning_rate": 5e-3, "compute_dtype": "float32"}  # fmt: skip
    return TrainConfig(data=str(rows), output=str(output), **{**values, **changes})


def losses(folder):
    return [
        json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def test_low_memory_is_the_same_run_without_dequantized_weights(tiny, rows, tmp_path, monkeypatch):
    fine_tune(settings(tiny, rows, tmp_path / "fast", token_budget=512), progress=False)
    monkeypatch.setattr("qlora_kit.engine.fast.dense_cache", None)
    monkeypatch.setattr("qlora_kit.train.training.keep_freed_memory", None)
    low = settings(tiny, rows, tmp_path / "low", token_budget=512, low_memory=True)
    trainer = build_trainer(low, read(rows), CPU, tmp_path / "other", 6)
    assert trainer.data_collator.token_budget == 128
    fine_tune(low, progress=False)
    assert losses(tmp_path / "low") == pytest.approx(losses(tmp_path / "fast"), rel=1e-4)


@pytest.mark.equality
@pytest.mark.slow
@pytest.mark.equality
def test_training_equals_a_plain_loop_without_tricks(tiny, rows, tmp_path):
    """No micro-batches, no cache, no fused adapter, all logits: the same losses."""
    config = settings(
        tiny,
        rows,
        tmp_path / "run",
        schedule="constant",
        warmup=0.0,
        max_grad_norm=1e9,
        learning_rate=1e-3,
        max_steps=50,
    )
    fine_tune(config, progress=False)

    from transformers import set_seed

    trainer = build_trainer(config, read(rows), CPU, tmp_path / "order", 6)
    order = list(_raw_batches(trainer))
    set_seed(config.seed)
    model = attach_adapters(load(str(tiny), "nf4", CPU)[0], config).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0
    )
    expected = []
    for batch in order[:50]:
        [padded] = MicroBatchCollator(0, 10**6)(batch)["micro_batches"]
        loss = model(**padded).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=1e-4)


def _raw_batches(trainer):
    trainer.data_collator = lambda rows: rows
    batches = []
    for epoch in range(17):
        loader = trainer.get_train_dataloader()
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)
        batches += list(loader)
    return batches


def test_a_run_leaves_what_people_need(tiny, rows, tmp_path):
    run = fine_tune(settings(tiny, rows, tmp_path / "run", max_steps=30), progress=False)
    assert run.status == "finished"
    assert run.steps == 30
    assert run.tokens_per_second > 0
    assert losses(run.path)[-1] < 0.5 * losses(run.path)[0]
    assert {"adapter_model.safetensors", "adapter_config.json", "config.yaml", "metrics.jsonl",
            "loss.png", "run.json"} <= {path.name for path in run.path.iterdir()}  # fmt: skip


@pytest.mark.slow
@pytest.mark.equality
def test_a_process_without_the_kit_loads_the_adapter(tiny, rows, tmp_path):
    run = fine_tune(settings(tiny, rows, tmp_path / "run"), progress=False)
    code = f"""
import sys
sys.modules["qlora_kit"] = None
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained({str(tiny)!r})
model = PeftModel.from_pretrained(base, {str(run.path)!r})
assert any(p.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n)
print("loaded")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "loaded", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("setting", [{"packing": True}, {"group_by_length": True}])
def test_packed_or_grouped_a_run_learns_as_well(tiny, rows, tmp_path, setting):
    plain = fine_tune(settings(tiny, rows, tmp_path / "a", max_steps=20), progress=False)
    other = fine_tune(settings(tiny, rows, tmp_path / "b", max_steps=20, **setting), progress=False)
    assert other.loss == pytest.approx(plain.loss, abs=0.3)
    if "packing" in setting:  # the same rows in the same steps
        assert losses(other.path)[0] == pytest.approx(losses(plain.path)[0], rel=1e-3)


def test_all_weights_can_be_trained_and_the_model_is_kept(tiny, rows, tmp_path):
    config = settings(tiny, rows, tmp_path / "run", method="full", precision="32bit", max_steps=20)
    run = fine_tune(config, progress=False)
    assert losses(run.path)[-1] < 0.5 * losses(run.path)[0]
    tuned, tokenizer = load_run(run.path)
    base, _ = load(str(tiny), precision="32bit")
    changed = sum(
        not torch.equal(a, b)
        for (_, a), (_, b) in zip(tuned.named_parameters(), base.named_parameters(), strict=True)
    )
    assert changed == len(list(base.named_parameters()))
    with pytest.raises(KitError, match="already holds a run"):
        fine_tune(config, progress=False)
    with pytest.raises(KitError, match="base is not in it"):
        evaluate(tuned, tokenizer, read(rows))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(tiny, rows, tmp_path):
    for name in "ab":
        fine_tune(settings(tiny, rows, tmp_path / name, dropout=0.1), progress=False)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    fine_tune(settings(tiny, rows, tmp_path / "c", seed=1), progress=False)
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


@pytest.mark.slow
@pytest.mark.parametrize("setting", [{}, {"group_by_length": True}, {"packing": True}])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(tiny, rows, tmp_path, setting):
    config = settings(
        tiny, rows, tmp_path / "whole", max_steps=8, save_steps=4, dropout=0.1, **setting
    )
    fine_tune(config, progress=False)
    half = dataclasses.replace(config, output=str(tmp_path / "half"))
    fine_tune(half, progress=False)
    checkpoints = tmp_path / "half/checkpoints"  # step 4 is in the middle of an epoch of 3
    assert [p.name for p in checkpoint.complete(checkpoints)] == ["checkpoint-4", "checkpoint-8"]
    last = checkpoints / "checkpoint-8"
    (last / "optimizer.pt").unlink()  # the newest one is not whole
    (tmp_path / "half/adapter_model.safetensors").unlink()
    fine_tune(half, resume=True, progress=False)
    from safetensors.torch import load_file

    whole, resumed = (load_file(tmp_path / name / "adapter_model.safetensors")
                      for name in ("whole", "half"))  # fmt: skip
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    assert losses(tmp_path / "whole") == losses(tmp_path / "half")


def test_a_finished_run_is_not_overwritten(tiny, rows, tmp_path):
    fine_tune(settings(tiny, rows, tmp_path / "run"), progress=False)
    before = (tmp_path / "run/adapter_model.safetensors").read_bytes()
    with pytest.raises(KitError, match=r"already holds a run.*--resume"):
        fine_tune(settings(tiny, rows, tmp_path / "run"), progress=False)
    assert (tmp_path / "run/adapter_model.safetensors").read_bytes() == before


def test_a_run_folder_in_use_is_refused_and_stays_as_it_is(tiny, rows, tmp_path):
    """Another process may have begun a moment ago, and left nothing yet but the folder."""
    folder = tmp_path / "run"
    holder = f"""
import sys
from pathlib import Path
from qlora_kit.runs import locked_folder
with locked_folder(Path({str(folder)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        (folder / "metrics.jsonl").write_text("of the other process\n")
        with pytest.raises(KitError, match="is in use: another training"):
            fine_tune(settings(tiny, rows, folder), progress=False)
        assert (folder / "metrics.jsonl").read_text() == "of the other process\n"
        assert not (folder / "manifest.json").exists()
        other.kill()  # the lock ends with its process, however that one ended
    assert fine_tune(settings(tiny, rows, folder), progress=False).status == "finished"


def test_a_loss_lost_at_the_first_step_is_told_as_that(tiny, rows, tmp_path, monkeypatch):
    """Nothing is left to draw then, and no disk is full."""
    monkeypatch.setattr(
        "qlora_kit.train.trainer.completion_loss",
        lambda model, batch: completion_loss(model, batch) * math.nan,
    )
    with pytest.raises(DivergedError, match=r"step 1: the loss is no longer a number.*last good"):
        fine_tune(settings(tiny, rows, tmp_path / "run"), progress=False)
    assert not (tmp_path / "run/loss.png").exists()


def test_an_adapter_is_trained_further_from_its_very_numbers(tiny, rows, tiny_run, tmp_path):
    from safetensors.torch import load_file

    config = settings(tiny, rows, tmp_path / "run", adapter=str(tiny_run))
    trainer = build_trainer(config, read(rows), CPU, tmp_path / "run", 6)
    saved = load_file(tiny_run / "adapter_model.safetensors")
    begun = {name.replace(".default.", "."): p for name, p in trainer._trainable}
    assert begun.keys() == saved.keys()
    for name, tensor in saved.items():
        assert torch.equal(begun[name], tensor), name


def test_fresh_adapters_begin_as_peft_made_them(tiny, rows, tmp_path):
    from transformers import set_seed

    config = settings(tiny, rows, tmp_path / "run")
    trainer = build_trainer(config, read(rows), CPU, tmp_path / "run", 6)
    set_seed(config.seed)
    model = attach_adapters(load(str(tiny), "nf4", CPU)[0], config)
    made = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(p, made[name]) for name, p in trainer._trainable)
    A = torch.cat([p.flatten() for name, p in trainer._trainable if "lora_A" in name])
    assert not torch.equal(A, A.bfloat16().float())


def test_several_ranks_are_refused_before_anything_is_written(tiny, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(KitError, match=r"one of 2 \(WORLD_SIZE\)"):
        fine_tune(settings(tiny, rows, tmp_path / "run"), progress=False)
    assert not (tmp_path / "run").exists()


def test_warnings_during_training_reach_the_user(tiny, rows, tmp_path, monkeypatch):
    from qlora_kit.train import trainer as trainer_module

    def warns(model, batch):
        warnings.warn("the 4-bit kernel fell back", UserWarning, stacklevel=1)
        return completion_loss(model, batch)

    monkeypatch.setattr(trainer_module, "completion_loss", warns)
    with pytest.warns(UserWarning, match="the 4-bit kernel fell back"):
        fine_tune(settings(tiny, rows, tmp_path / "run", max_steps=1), progress=False)


def test_divergence_stops_with_the_reason_and_keeps_the_last_good_state(tiny, rows, tmp_path):
    from safetensors.torch import load_file

    config = settings(tiny, rows, tmp_path / "run", max_steps=60, learning_rate=1e20, warmup=0.0)
    with pytest.raises(DivergedError, match=r"the loss .*--learning-rate.*last good adapter"):
        fine_tune(config, progress=False)
    saved = load_file(tmp_path / "run/adapter_model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())


def test_a_loss_that_is_no_number_is_caught_at_once(tiny, rows, tmp_path):
    config = settings(tiny, rows, tmp_path / "run")
    trainer = build_trainer(config, read(rows), CPU, tmp_path, 6)
    trainer._judge(2.0)
    good = {name: parameter.detach().clone() for name, parameter in trainer._trainable}
    with torch.no_grad():
        for _, parameter in trainer._trainable:
            parameter.fill_(math.nan)
    with pytest.raises(DivergedError, match="no longer a number"):
        trainer._judge(math.nan)
    assert all(torch.equal(p, good[name]) for name, p in trainer._trainable)


@pytest.mark.parametrize("blow_up_at", [2, 3, 9])
def test_a_loss_that_explodes_is_caught_and_undone(tiny, rows, tmp_path, blow_up_at):
    trainer = build_trainer(settings(tiny, rows, tmp_path / "run"), read(rows), CPU, tmp_path, 6)
    for _ in range(1, blow_up_at):
        trainer._judge(2.0)
    good = {name: parameter.detach().clone() for name, parameter in trainer._trainable}
    with torch.no_grad():
        for _, parameter in trainer._trainable:
            parameter.add_(7.0)
    with pytest.raises(DivergedError, match=r"grew from 2\.00"):
        trainer._judge(500.0)
    assert all(torch.equal(p, good[name]) for name, p in trainer._trainable)


def test_noisy_losses_are_not_called_divergence(tiny, rows, tmp_path):
    trainer = build_trainer(settings(tiny, rows, tmp_path / "run"), read(rows), CPU, tmp_path, 6)
    for loss in (0.4, 1.9, 0.2, 2.5, 0.3, 1.1):
        trainer._judge(loss)
    assert len(trainer.losses) == 6


def test_a_run_does_not_go_on_with_other_settings(tiny, rows, tmp_path):
    config = settings(tiny, rows, tmp_path / "run", save_steps=2)
    fine_tune(config, progress=False)
    with pytest.raises(KitError, match="has done all of its 6 steps"):
        fine_tune(config, resume=True, progress=False)
    with pytest.raises(KitError, match="rank was 4, now 8"):
        fine_tune(dataclasses.replace(config, rank=8), resume=True, progress=False)
    assert "rank: 4" in (tmp_path / "run/config.yaml").read_text()


def test_a_single_step_trains(tiny, rows, tmp_path):
    assert fine_tune(settings(tiny, rows, tmp_path / "run", max_steps=1), progress=False).steps == 1


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_and_the_run_can_go_on(tiny, rows, tmp_path):
    command = [sys.executable, "-m", "qlora_kit.cli", "train", str(rows), "--model", str(tiny),
               "--output", str(tmp_path / "run"), "--max-steps", "9999", "--rank", "4"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run/metrics.jsonl"
    for _ in range(2400):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 3:
            break
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "--resume" in out
    assert "Traceback" not in out + err
    assert checkpoint.latest(tmp_path / "run/checkpoints") is not None
    assert (tmp_path / "run/adapter_model.safetensors").exists()


def test_without_one_the_learning_rate_is_what_suits_the_models_size(tiny, rows, tmp_path):
    result = fine_tune(settings(tiny, rows, tmp_path / "run", learning_rate=None), progress=False)
    assert result.learning_rate == default_learning_rate(0)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["learning_rate"] == result.learning_rate
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert max(line["learning_rate"] for line in lines) == pytest.approx(result.learning_rate)


def test_a_learning_rate_far_above_that_is_told(tiny, rows, tmp_path):
    def build(rate):
        config = settings(tiny, rows, tmp_path, learning_rate=rate)
        build_trainer(config, read(rows), CPU, tmp_path, 6)

    with pytest.warns(UserWarning, match=r"0\.02 is far above 0\.002, which suits"):
        build(0.02)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*far above")
        build(9e-3)


def test_ctrl_c_in_the_last_step_has_nothing_left_to_stop(tiny, rows, tmp_path, monkeypatch):
    def press(callback, *ignored, **also_ignored):
        callback.interrupted = True

    monkeypatch.setattr("qlora_kit.train.callbacks.InterruptCallback.on_step_begin", press)
    config = settings(tiny, rows, tmp_path / "run", max_steps=1)
    assert fine_tune(config, progress=False).status == "finished"
    config = settings(tiny, rows, tmp_path / "longer", max_steps=2)
    assert fine_tune(config, progress=False).status == "interrupted"


def test_a_first_adapter_of_unknown_making_is_told(tiny, rows, tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "first")
    (tmp_path / "first/manifest.json").unlink()
    config = settings(tiny, rows, tmp_path / "run", adapter=str(tmp_path / "first"))
    with pytest.warns(UserWarning, match=r"has no manifest\.json"):
        fine_tune(config, progress=False)


def test_the_model_is_gone_when_its_training_is_over(tiny, rows, tmp_path):
    fine_tune(settings(tiny, rows, tmp_path / "run"), progress=False)
    assert not [thing for thing in gc.get_objects() if type(thing).__name__ == "KitTrainer"]
