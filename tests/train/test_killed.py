"""Killed with SIGKILL at random moments, while saving too, a run ends with the very same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_20_kills_in_four_kinds_of_runs_change_nothing(tiny, rows, tmp_path):
    """Three at any time and two between the system calls of saves, in each kind of run."""
    command = [sys.executable, "-m", "tests.tools.killing", str(tiny), str(rows), str(tmp_path),
               "7", "3", "2"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=800,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(report) == 4
    assert sum(line["kills"] for line in report) >= 20
    assert all(line["ended"] and line["same"] for line in report), report


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_command_itself_goes_on_after_a_kill(tiny, rows, tmp_path):
    """Two deaths of a whole process, threads and all, at random steps of eight."""

    def command(output, *more):
        return [sys.executable, "-m", "qlora_kit.cli", "train", str(rows), "--model", str(tiny),
                "--output", str(tmp_path / output), "--max-steps", "8", "--rank", "4",
                "--save-steps", "1", *more]  # fmt: skip

    whole = subprocess.run(command("whole"), capture_output=True, text=True, timeout=300)
    assert whole.returncode == 0, whole.stderr
    chance = random.Random(1)
    for steps in (2, 5):
        process = subprocess.Popen(command("killed", "--resume"), stderr=subprocess.PIPE, text=True)
        metrics = tmp_path / "killed/metrics.jsonl"
        while process.poll() is None:
            if metrics.exists() and metrics.read_text().count("\n") >= steps:
                time.sleep(chance.uniform(0, 0.05))
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == -signal.SIGKILL, said
    done = subprocess.run(command("killed", "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    name = "adapter_model.safetensors"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
