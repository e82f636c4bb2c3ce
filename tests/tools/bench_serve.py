"""`make bench-serve`: tokens a second of one conversation, llama.cpp beside transformers.

    transformers  the 4-bit model as everybody loads it: NF4 dequantized in each layer at each token
    cached        the same with the kit's dequantized weights, as `eval` and `chat` answer
    served        the GGUF file behind `qlora-kit serve`, asked over HTTP

Same prompt, greedy, the same number of tokens, no stop; alternating, each in a process of its own.
The time is from the first token to the last, so that reading the prompt does not count.
"""

import argparse
import json
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from qlora_kit.machine import detect, peak_rss_gb, versions
from tests.tools.bench import result_of

VARIANTS = ("transformers", "cached", "served")
MESSAGES = [{"role": "user", "content": "Tell me about the moon and the tides."}]


def run_transformers(tokens: int, cached: bool) -> dict[str, float]:
    import torch
    from transformers.generation.streamers import BaseStreamer

    from qlora_kit.data import encode_prompt
    from qlora_kit.engine import fast_generation
    from qlora_kit.models import load

    class Clock(BaseStreamer):
        times: list[float] = []  # noqa: RUF012

        def put(self, value):
            self.times.append(time.perf_counter())

        def end(self):
            pass

    model, tokenizer = load("smollm2")
    ids = torch.tensor([encode_prompt(tokenizer, MESSAGES)], device=model.device)
    with fast_generation(model) if cached else nullcontext(), torch.inference_mode():
        for count in (4, tokens):  # the first warms up
            clock = Clock()
            Clock.times = []
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count,
                min_new_tokens=count, do_sample=False, temperature=None, top_p=None, top_k=None,
                pad_token_id=tokenizer.pad_token_id, streamer=clock,
            )  # fmt: skip
    times = clock.times[1:]  # the prompt comes first
    speed = (len(times) - 1) / (times[-1] - times[0])
    return {"tokens_per_second": speed, "gb": peak_rss_gb(), "tokens": len(times)}


def run_served(tokens: int, gguf: Path | None) -> dict[str, float]:
    from qlora_kit import serve
    from qlora_kit.models import bundled_gguf

    with serve.running(gguf or bundled_gguf(), parallel=1) as server:
        for count in (4, tokens):
            reply = serve.ask(server.url, MESSAGES, max_new_tokens=count, ignore_eos=True)
        speed = (reply.tokens - 1) / (reply.seconds - reply.first_token)
        return {"tokens_per_second": speed, "gb": server.memory_gb(), "tokens": reply.tokens}


def measure(variant: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.tools.bench_serve", "--child", variant]
    command += ["--tokens", str(arguments.tokens)]
    if arguments.gguf:
        command += ["--gguf", str(arguments.gguf)]
    result = result_of(command, variant)
    speed = f"{result['tokens_per_second']:7.1f} tokens/s"
    print(f"  {variant:<13} {speed}  {result['gb']:5.2f} GB", flush=True)
    return result


def table(results: dict[str, list[dict[str, float]]]) -> str:
    speed = {
        name: statistics.median(result["tokens_per_second"] for result in rounds)
        for name, rounds in results.items()
    }
    lines = ["", "| | tokens/s | times transformers | memory (GB) |", "|---|---:|---:|---:|"]
    for name, rounds in results.items():
        ratio = speed[name] / speed["transformers"]
        memory = max(result["gb"] for result in rounds)
        lines.append(f"| {name} | {speed[name]:.1f} | {ratio:.1f} | {memory:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gguf", type=Path, help="instead of the bundled model's")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        if arguments.child == "served":
            result = run_served(arguments.tokens, arguments.gguf)
        else:
            result = run_transformers(arguments.tokens, arguments.child == "cached")
        print("RESULT " + json.dumps(result))
        return
    print(f"{detect()}\n{', '.join(f'{n} {v}' for n, v in versions().items())}", flush=True)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.rounds):
        for variant in VARIANTS:
            results[variant].append(measure(variant, arguments))
    text = table(results)
    print(text)
    arguments.output.mkdir(parents=True, exist_ok=True)
    record = {**results, "machine": str(detect()), "versions": versions()}
    (arguments.output / "bench_serve.json").write_text(json.dumps(record, indent=1) + "\n")
    (arguments.output / "bench_serve.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
