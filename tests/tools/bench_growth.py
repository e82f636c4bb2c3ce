"""How a training's cost grows: with the rows' length, the rank, and the rows of a step.

Part of `make bench`. Each point is a process of its own that trains a few steps on rows of the
bundled manual, all of one length; tokens a second, peak memory, and the share of the machine's
matrix products that the training reaches.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from qlora_kit.data import Conversation, bundled_data
from qlora_kit.machine import detect
from tests.tools.bench import config, gflop_per_token, matmul_gflops, result_of, train_ours

LENGTHS, RANKS, ROWS = (128, 256, 512, 1024, 2048), (4, 16, 64, 128), (4, 8, 16, 32)
LENGTH, RANK, BATCH = 256, 16, 8  # where not varied


def rows_of(length: int, count: int) -> list[Conversation]:
    """Rows that all are as long as they may be: the manual, begun at another place for each."""
    pages = sorted(bundled_data("support/docs").glob("*.md"))
    words = " ".join(page.read_text(encoding="utf-8") for page in pages).split()
    rows = []
    for number in range(1, count + 1):
        start = 97 * number % len(words)
        text = " ".join((words[start:] + words)[:length])
        messages = ({"role": "user", "content": "Read the manual aloud."},
                    {"role": "assistant", "content": text})  # fmt: skip
        rows.append(Conversation(messages, number))
    return rows


def child(length: int, rank: int, batch: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(
            config(folder, steps, batch), max_length=length, rank=rank, alpha=2 * rank
        )
        clock, learned = train_ours(rows_of(length, batch * steps), settings)
    print("RESULT " + json.dumps(clock.result() | {"label_share": learned}))


def point(length: int, rank: int, batch: int, steps: int) -> dict[str, float]:
    values = [str(value) for value in (length, rank, batch, steps)]
    command = [sys.executable, "-m", "tests.tools.bench_growth", "--child", *values]
    return result_of(command, f"length {length}, rank {rank}, {batch} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    parser.add_argument("--child", type=int, nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    dtype = detect().compute_dtype
    peak = matmul_gflops(dtype)
    lines = [f"Products in {dtype}: {peak:.0f} GFLOP/s", "",
             "| length | rank | rows | tokens/s | of the products | memory (GB) |",
             "|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    print("\n".join(lines), flush=True)
    points = ([(length, RANK, BATCH) for length in LENGTHS]
              + [(LENGTH, rank, BATCH) for rank in RANKS if rank != RANK]
              + [(LENGTH, RANK, rows) for rows in ROWS if rows != BATCH])  # fmt: skip
    for length, rank, batch in points:
        found = point(length, rank, batch, arguments.steps)
        speed = found["tokens_per_second"]
        share = speed * gflop_per_token(rank, found["label_share"]) / peak
        lines.append(f"| {length} | {rank} | {batch} | {speed:.0f} | {share:.0%} | "
                     f"{found['peak_rss_gb']:.2f} |")  # fmt: skip
        print(lines[-1], flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "growth.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
