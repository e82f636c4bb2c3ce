"""A tiny model with a real tokenizer and chat template, made in a second; and the real one."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from qlora_kit.machine import usable_cores
from tests.helpers import CHATML

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the tests are about the CPU, also beside a GPU

# Test processes side by side share the cores: with a core's worth of threads too many, each of
# torch's products would wait for a thread that waits for a core. Kernels inherit it.
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _PROCESSES > 1:
    _THREADS = max(1, usable_cores() // _PROCESSES)
    os.environ["OMP_NUM_THREADS"] = str(_THREADS)
    torch.set_num_threads(_THREADS)


def pytest_collection_modifyitems(items):
    """Lessons first, dealt to the test processes, so that at the end none waits for another.

    pytest-xdist gives each process one piece of the list (and lets an idle one steal from it).
    """
    lessons = [item for item in items if item.nodeid.startswith("tests/test_notebooks.py")]
    others = [item for item in items if not item.nodeid.startswith("tests/test_notebooks.py")]
    piece = -(-len(items) // _PROCESSES)
    items.clear()
    for process in range(_PROCESSES):
        own = lessons[process::_PROCESSES]
        room = max(0, piece - len(own))
        items += own + others[:room]
        del others[:room]
    items += others


def made_once(tmp_path_factory, name, make):
    """A folder that one test process makes for all of them; tests copy what they change."""
    home = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        home = home.parent  # each process has a folder of its own in it
    folder, done = home / name, home / f"{name}.done"
    with FileLock(home / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one that failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with a random Llama of 64 hidden units and a byte-level tokenizer."""
    return made_once(tmp_path_factory, "tiny", _make_tiny)


def _make_tiny(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        ["what is the color of the light"],
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
            initializer_range=0.2,  # with 0.02 the frozen head could not tell tokens apart
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def tokenizer(tiny):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture(scope="session")
def rows(tmp_path_factory) -> Path:
    """Twenty-four short conversations in a file."""
    colors = ["red", "green", "blue", "amber", "violet", "white"]
    lines = [
        {"prompt": f"What color is light number {n}?", "completion": f"It is {colors[n % 6]}."}
        for n in range(24)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    folder = made_once(
        tmp_path_factory, "rows", lambda folder: (folder / "rows.jsonl").write_text(text)
    )
    return folder / "rows.jsonl"


@pytest.fixture(scope="session")
def tiny_run(tiny, rows, tmp_path_factory) -> Path:
    """A run folder: the tiny model, trained for a few steps on the rows."""
    from qlora_kit.runs import TrainConfig
    from qlora_kit.train import fine_tune

    def make(folder):
        config = TrainConfig(data=str(rows), output=str(folder / "lights"), model=str(tiny),
                             epochs=24, learning_rate=5e-3, rank=8)  # fmt: skip
        fine_tune(config, progress=False)

    return made_once(tmp_path_factory, "tiny_run", make) / "lights"


@pytest.fixture(scope="session")
def browser():
    """The browser of this machine, without a window."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no browser: install Chromium (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.getuid() == 0 else []  # root may not have one
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()
