"""Nobody is called: a whole train, eval and export with a local base look no host up.

In a process of its own that does not look like a CI job: TRL keeps silent in those by itself, and
so would a test that runs in one.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

WATCHED = """
import sys

calls = []

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        calls.append((event, str(arguments[0])))
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        calls.append((event, str(arguments[1][0])))

sys.addaudithook(watch)

import trl  # a notebook may have imported it before the kit
from huggingface_hub.utils import _telemetry
from tests.helpers import kit

for command in ({commands}):
    done = kit(*command)
    assert done.returncode == 0, done.stderr
assert _telemetry._TELEMETRY_QUEUE.empty()
worker = _telemetry._TELEMETRY_THREAD  # it would call a moment later
assert worker is None, "telemetry was sent"
outside = [call for call in calls if call[1] not in ("127.0.0.1", "::1", "localhost")]
assert not outside, outside
print("nobody was called")
"""


@pytest.mark.slow
def test_train_eval_and_export_call_nobody(tiny, tiny_run, rows, tmp_path):
    stranger = tmp_path / "stranger"  # PEFT would ask the Hub for the base that its file names
    shutil.copytree(tiny_run, stranger)
    (stranger / "manifest.json").unlink()
    settings = stranger / "adapter_config.json"
    named = {**json.loads(settings.read_text()), "base_model_name_or_path": "stranger/beacon"}
    settings.write_text(json.dumps(named))
    known = tmp_path / "known"  # eval leaves its scoreboard in the run
    shutil.copytree(tiny_run, known)
    train = ("train", rows, "--model", tiny, "--max-steps", "2", "--rank", "2", "--output")
    commands = [
        (*train, tmp_path / "fresh"),
        (*train, tmp_path / "further", "--adapter", stranger),
        ("eval", known, rows, "--max-new-tokens", "4"),
        ("export", known, "--to", "merged", "--output", tmp_path / "merged"),
    ]
    text = ", ".join(str(tuple(map(str, command))) for command in commands)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CI", "DO_NOT_TRACK") and not name.startswith("HF_")
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(commands=text)],
        capture_output=True, text=True, env=environment, timeout=600,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["nobody was called"], done.stderr
