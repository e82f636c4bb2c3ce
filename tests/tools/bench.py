"""`make bench`: our training beside TRL's, in one run, alternating, each in its own process.

    ours            qlora_kit.train, as everybody uses it
    trl_tuned       TRL tuned by hand for this CPU: fp32 adapters, no checkpointing, bf16=False
    trl_documented  TRL as its documentation shows it: 16 bits and checkpointing

Same model, rows, order, adapters' start and hyperparameters. Tokens are real ones, padding not
counted; the first step of a process warms up and is left out where there are more.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from qlora_kit.data import Conversation, bundled_data, encode, read
from qlora_kit.machine import Machine, detect, peak_rss_gb, versions
from qlora_kit.memory import find_shape, workload_on
from qlora_kit.memory.formulas import adapter_parameters
from qlora_kit.runs import TrainConfig

VARIANTS = ("ours", "trl_tuned", "trl_documented")
LEARNING_RATE = 2e-4


def manual_sections(count: int) -> list[Conversation]:
    """Rows of a few hundred tokens: what the bundled manual says under each heading."""
    rows = []
    for page in sorted(bundled_data("support/docs").glob("*.md")):
        for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.M)[1:]:
            heading, _, text = section.partition("\n")
            question = f"What does the manual say about {heading.strip()}?"
            messages = ({"role": "user", "content": question},
                        {"role": "assistant", "content": text.strip()})  # fmt: skip
            rows.append(Conversation(messages, len(rows) + 1))
    step = max(1, len(rows) // count)
    return rows[::step][:count]


def config(folder: str, steps: int, batch_size: int, dtype: str | None = None) -> TrainConfig:
    return TrainConfig(data="bench", output=folder, max_steps=steps, batch_size=batch_size,
                       learning_rate=LEARNING_RATE, schedule="constant", warmup=0.0,
                       beta2=0.999, compute_dtype=dtype)  # fmt: skip


def machine_of(dtype: str | None) -> Machine:
    """This machine, or one whose products are in another dtype."""
    machine = detect()
    return replace(machine, compute_dtype=dtype) if dtype else machine


class StepClock:
    """Wraps a trainer's step: seconds and real tokens of each."""

    def __init__(self, trainer, count_tokens):
        self.seconds, self.tokens, self.losses = [], [], []
        step = trainer.training_step

        def timed(model, inputs, *args, **kwargs):
            tokens = count_tokens(inputs)
            began = time.perf_counter()
            loss = step(model, inputs, *args, **kwargs)
            self.seconds.append(time.perf_counter() - began)
            self.tokens.append(tokens)
            self.losses.append(float(loss))
            return loss

        trainer.training_step = timed

    def result(self) -> dict[str, float]:
        first = 1 if len(self.seconds) > 1 else 0
        return {
            "tokens_per_second": sum(self.tokens[first:]) / sum(self.seconds[first:]),
            "peak_rss_gb": peak_rss_gb(),
            "loss": self.losses[-1],
            "steps": len(self.losses),
        }


def train_ours(rows: list[Conversation], settings: TrainConfig) -> tuple[StepClock, float]:
    """Train as everybody does; the clock, and the share of the tokens that have a label."""
    from qlora_kit.machine import keep_freed_memory, release_memory
    from qlora_kit.train.training import build_trainer

    machine = machine_of(settings.compute_dtype)
    folder = Path(settings.output)
    trainer = build_trainer(settings, rows, machine, folder, settings.max_steps or 1)
    release_memory()
    keep_freed_memory()
    learned = []
    clock = StepClock(trainer, lambda inputs: learned.append(inputs["learned"]) or inputs["tokens"])
    with trainer.sped_up(machine):
        trainer.train()
    return clock, float(sum(learned)) / sum(clock.tokens)


def run_ours(rows: list[Conversation], settings: TrainConfig) -> dict[str, float]:
    clock, learned = train_ours(rows, settings)
    return clock.result() | {"label_share": learned}


def run_trl(rows: list[Conversation], settings: TrainConfig, documented: bool) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, set_seed
    from trl import SFTConfig, SFTTrainer

    from qlora_kit.models import resolve

    set_seed(settings.seed)
    path = resolve(settings.model).location
    dtype = torch.bfloat16 if documented else torch.float32
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                      bnb_4bit_use_double_quant=True,
                                      bnb_4bit_compute_dtype=dtype)  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, quantization_config=quantization
    )
    tokenizer = AutoTokenizer.from_pretrained(path)
    examples = [encode(tokenizer, row.messages, settings.max_length) for row in rows]
    data = Dataset.from_dict({"input_ids": [example.input_ids for example in examples],
                              "labels": [example.labels for example in examples]})  # fmt: skip
    ours = {} if documented else {"bf16": False, "gradient_checkpointing": False}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=settings.output, max_steps=settings.max_steps,
            per_device_train_batch_size=settings.batch_size, learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant", max_length=settings.max_length, seed=settings.seed,
            max_grad_norm=settings.max_grad_norm, logging_steps=1, save_strategy="no",
            report_to=[], use_cpu=detect().device == "cpu", **ours,
        ),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=settings.rank, lora_alpha=settings.alpha,
                               target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    if not documented:
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    clock = StepClock(trainer, lambda inputs: int(inputs["attention_mask"].sum()))
    trainer.train()
    return clock.result()


def matmul_gflops(dtype: str, rounds: int = 7) -> float:
    """What this machine's products reach, in 10^9 operations a second: the median of a few."""
    import torch

    rows, inward, outward = 1024, 1536, 1536
    x = torch.randn(rows, inward).to(getattr(torch, dtype))
    W = torch.randn(outward, inward).to(x.dtype)
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(20):
            x @ W.t()
        rates.append(20 * 2 * rows * inward * outward / (time.perf_counter() - began) / 1e9)
    return statistics.median(rates)


def gflop_per_token(rank: int, label_share: float) -> float:
    """The products of one trained token: forward, and backward to the inputs and adapters.

    Frozen weights take 2 operations a parameter forward and 2 backward; adapters 2 and 4; the
    head only where there is a label. Attention's scores are not counted.
    """
    shape = find_shape("smollm2")
    frozen = 4 * (shape.linear_parameters + label_share * shape.vocab * shape.hidden)
    return (frozen + 6 * adapter_parameters(shape, workload_on(detect(), rank=rank))) / 1e9


def child(variant: str, rows: list[Conversation], arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = config(folder, arguments.steps, arguments.batch_size, arguments.compute_dtype)
        if variant == "ours":
            result = run_ours(rows, settings)
        else:
            result = run_trl(rows, settings, documented=variant == "trl_documented")
    print("RESULT " + json.dumps(result))


@contextmanager
def busy_neighbor() -> Iterator[None]:
    """Another process that keeps one core busy all the time."""
    neighbor = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        neighbor.kill()
        neighbor.wait()


def result_of(command: list[str], what: str) -> dict[str, float]:
    """Run a process of the bench; what it prints after RESULT."""
    done = subprocess.run(command, capture_output=True, text=True)
    line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT ")), None)
    if line is None:
        raise SystemExit(f"{what} failed:\n{done.stderr[-3000:]}")
    return json.loads(line.removeprefix("RESULT "))


def measure(variant: str, arguments: argparse.Namespace) -> dict[str, float]:
    steps = 1 if variant == "trl_documented" else arguments.steps
    command = [sys.executable, "-m", "tests.tools.bench", "--child", variant, "--steps", str(steps),
               "--batch-size", str(arguments.batch_size)]  # fmt: skip
    for name in ("data", "prompt_field", "completion_field", "compute_dtype"):
        if getattr(arguments, name):
            command += [f"--{name.replace('_', '-')}", getattr(arguments, name)]
    result = result_of(command, variant)
    print(f"  {variant:<15} {result['tokens_per_second']:7.1f} tokens/s  "
          f"{result['peak_rss_gb']:5.2f} GB  loss {result['loss']:.4f}", flush=True)  # fmt: skip
    return result


def combine(results: list[dict[str, float]]) -> dict[str, float]:
    return {
        "tokens_per_second": statistics.median(r["tokens_per_second"] for r in results),
        "peak_rss_gb": max(r["peak_rss_gb"] for r in results),
        "loss": results[-1]["loss"],
        "steps": results[-1]["steps"],
        "runs": len(results),
        "label_share": results[-1].get("label_share", 0.0),
    }


def table(board: dict[str, dict[str, float]], peak: float) -> str:
    """Args: board by variant; peak, the products' rate in GFLOP/s."""
    ours = board["ours"]
    needed = gflop_per_token(TrainConfig.rank, ours["label_share"])
    lines = [
        "",
        "| | tokens/s | of the products | ours is | memory (GB) | ours takes | loss |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in board.items():
        speed = ours["tokens_per_second"] / row["tokens_per_second"]
        memory = ours["peak_rss_gb"] / row["peak_rss_gb"]
        lines.append(
            f"| {name} | {row['tokens_per_second']:.1f} | "
            f"{row['tokens_per_second'] * needed / peak:.0%} | {speed:.1f} x | "
            f"{row['peak_rss_gb']:.2f} | {memory:.2f} x | {row['loss']:.4f} |"
        )
    steps = ", ".join(f"{name} {row['steps']}" for name, row in board.items())
    told = f"Products: {peak:.0f} GFLOP/s; a token needs {needed:.2f} GFLOP. Steps: {steps}"
    return "\n".join([*lines, "", told])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2, help="of ours and trl_tuned, alternating")
    parser.add_argument("--data", help="rows to train on instead of the bundled manual")
    parser.add_argument("--prompt-field")
    parser.add_argument("--completion-field")
    parser.add_argument("--compute-dtype", choices=("float32", "bfloat16"), help="of ours")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        count = arguments.steps * arguments.batch_size
        rows = (
            read(arguments.data, arguments.prompt_field, arguments.completion_field)[:count]
            if arguments.data
            else manual_sections(count)
        )
        child(arguments.child, rows, arguments)
        return
    print(f"{detect()}\n{', '.join(f'{n} {v}' for n, v in versions().items())}", flush=True)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.rounds):
        for variant in ("ours", "trl_tuned"):
            results[variant].append(measure(variant, arguments))
    results["trl_documented"].append(measure("trl_documented", arguments))
    board = {name: combine(found) for name, found in results.items()}
    peak = matmul_gflops(machine_of(arguments.compute_dtype).compute_dtype)
    with busy_neighbor():
        beside = measure("ours", arguments)["tokens_per_second"]
    share = beside / board["ours"]["tokens_per_second"]
    text = table(board, peak)
    text += f"\n\nBeside a busy process ours keeps {share:.0%} of its rate ({beside:.0f} tokens/s)."
    print(text)
    arguments.output.mkdir(parents=True, exist_ok=True)
    record = {
        **board,
        "matmul_gflops": peak,
        "beside_a_busy_process": beside,
        "machine": str(detect()),
        "versions": versions(),
    }
    (arguments.output / "bench.json").write_text(json.dumps(record, indent=1) + "\n")
    (arguments.output / "bench.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
