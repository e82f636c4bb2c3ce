"""A conversation with a run: what `qlora-kit chat` holds."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .evaluate import Answer, generate, load_run, ready


class Talk:
    """Keeps the turns so far, with the model ready to answer the next."""

    def __init__(self, model: Any, tokenizer: Any, system: str | None, max_new_tokens: int):
        self.model, self.tokenizer, self.max_new_tokens = model, tokenizer, max_new_tokens
        self.messages = [{"role": "system", "content": system}] if system is not None else []
        self._stack = ExitStack()
        self._stack.enter_context(ready(model))

    @classmethod
    def open(cls, run: Path, system: str | None, base: bool, max_new_tokens: int) -> "Talk":
        """Load a run to talk to.

        Args:
            run: the run folder.
            system: the system prompt; None takes the one that the training data used.
            base: talk to the model without its adapter.
            max_new_tokens: where an answer that does not stop is cut.
        """
        model, tokenizer = load_run(run)
        talk = cls(
            model, tokenizer, trained_system(run) if system is None else system, max_new_tokens
        )
        if base:
            talk._stack.enter_context(model.disable_adapter())
        return talk

    def ask(self, question: str) -> Answer:
        """Say something and get the answer; both become part of the conversation.

        Args:
            question: the user's words.
        """
        self.messages.append({"role": "user", "content": question})
        answer = generate(self.model, self.tokenizer, [self.messages], self.max_new_tokens)[0]
        self.messages.append({"role": "assistant", "content": answer.text})
        return answer


def trained_system(run: Path) -> str | None:
    """The system prompt that a run was trained with, when its first conversation had one.

    Args:
        run: the run folder.
    """
    try:
        return json.loads((run / "run.json").read_text(encoding="utf-8")).get("system")
    except (OSError, ValueError):  # an adapter from elsewhere has no such file
        return None
