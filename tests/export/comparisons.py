"""Outputs of models that nobody ran: a base, an adapter, and one that is nearly the adapter."""

from dataclasses import replace

import numpy as np

from qlora_kit.data import Conversation
from qlora_kit.evaluate import Answer
from qlora_kit.export import BOUNDS, compare_outputs
from qlora_kit.export.outputs import Outputs, Prompts
from qlora_kit.machine import exact_machine
from qlora_kit.runs import load_run

TALKS = tuple(
    Conversation(({"role": "user", "content": f"Q{n}"}, {"role": "assistant", "content": "red"}), n)
    for n in range(8)
)
PROMPTS = Prompts(TALKS, ((1, 2),) * 8, ("a", "b"))


def outputs(logits, text="red"):
    logits = np.asarray(logits, np.float32)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return Outputs(log_probs, (Answer(text, True, 1),) * 8, ("<p>",) * 8, ((1,), (2,)))


RANDOM = np.random.default_rng(0)
ADAPTER = outputs(RANDOM.normal(size=(8, 50)) * 3)
BASE = outputs(RANDOM.normal(size=(8, 50)) * 3, "blue")
CLOSE = replace(ADAPTER, log_probs=outputs(ADAPTER.log_probs + 1e-3).log_probs)


def step(other, bound="f16"):
    return compare_outputs("step", PROMPTS, BASE, ADAPTER, other, BOUNDS[bound])


def naive_merge(run):
    """The trap, as lesson 09 shows it: PEFT dequantizes, adds, and rounds to 4 bits again."""
    tuned, tokenizer = load_run(run, exact_machine())
    return tuned.merge_and_unload().eval(), tokenizer
