"""What several tests use: the command line without a process, a machine, a random model."""

import contextlib
import io
import os
import subprocess
import sys
import warnings
from unittest.mock import patch

from qlora_kit.machine import Machine

CPU = Machine("cpu", "test", "float32", 2, 8.0, 8.0)  # computes the same everywhere
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def kit(*arguments, stdin=""):
    """`qlora-kit` with these arguments, in this process: libraries are imported once for all.

    What it prints and its exit code are those of a process of its own (`kit_process`); only an
    error that it does not expect, where a person would read a traceback, is raised here.
    """
    from qlora_kit.cli import main

    arguments = [*map(str, arguments)]
    code, out, err = 0, io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.dict(os.environ),
        patch.object(sys, "argv", ["qlora-kit", *arguments]),
        patch.object(sys, "stdin", io.StringIO(stdin)),
        warnings.catch_warnings(),
    ):
        warnings.resetwarnings()  # each command tells what it has to tell
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def kit_process(*arguments, **options):
    """`qlora-kit` with these arguments in a process of its own, as people start it."""
    command = [sys.executable, "-m", "qlora_kit.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def random_model(kind, tokenizer, **extra):
    """Two layers of an architecture, with biases and norms that are not what they start as."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.2, **extra,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model
