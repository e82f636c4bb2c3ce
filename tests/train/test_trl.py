"""Training is TRL's own, in other and faster steps."""

import json
import subprocess
import sys

import pytest
import torch

from qlora_kit.data import encode_all, read, stop_ids
from qlora_kit.models import load
from qlora_kit.runs import TrainConfig
from qlora_kit.train import attach_adapters, fine_tune
from tests.helpers import CPU


@pytest.mark.equality
def test_losses_equal_those_of_an_unmodified_trl_trainer(tiny, rows, tmp_path):
    """In 32 bits: where a base is quantized, TRL rounds the adapters to bf16."""
    from datasets import Dataset
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    config = TrainConfig(
        data=str(rows), output=str(tmp_path / "ours"), model=str(tiny), precision="32bit",
        max_steps=20, rank=4, learning_rate=5e-3, token_budget=128, compute_dtype="float32",
    )  # fmt: skip
    fine_tune(config, progress=False)
    lines = (tmp_path / "ours/metrics.jsonl").read_text().splitlines()

    set_seed(config.seed)
    model, tokenizer = load(config.model, config.precision, CPU)
    stops = stop_ids(tokenizer, model)
    examples, _ = encode_all(tokenizer, read(rows), config.max_length, "rows", stops)
    trainer = SFTTrainer(
        model=attach_adapters(model, config),
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            max_steps=config.max_steps,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=int(config.warmup * config.max_steps),
            adam_beta2=config.beta2,
            max_grad_norm=config.max_grad_norm,
            seed=config.seed,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(
            [{"input_ids": row.input_ids, "labels": row.labels} for row in examples]
        ),
        processing_class=tokenizer,
    )
    trainer.train()
    theirs = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(theirs) == 20
    assert theirs[-1] < 0.7 * theirs[0]
    assert [json.loads(line)["loss"] for line in lines] == pytest.approx(theirs, abs=1e-4)
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


def test_training_does_not_load_trl(tiny, rows, tmp_path):
    """Nothing of it would be used."""
    code = f"""
import sys
from qlora_kit.runs import TrainConfig
from qlora_kit.train import fine_tune
config = TrainConfig(data={str(rows)!r}, output={str(tmp_path / "run")!r}, model={str(tiny)!r},
                     max_steps=1)
assert fine_tune(config, progress=False).steps == 1
assert "trl" not in sys.modules, "loaded"
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
