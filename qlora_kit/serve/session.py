"""A conversation with a run or with a server: what `qlora-kit chat` holds."""

from contextlib import ExitStack
from pathlib import Path

from .. import KitError
from ..engine import fast_generation
from ..evaluate import Answer, generate
from ..models import Model, Tokenizer
from ..runs import as_base, load_run, trained_system
from .client import ask, models


class Talk:
    """Keeps the turns so far, with the model ready to answer the next."""

    def __init__(self, model: Model, tokenizer: Tokenizer, system: str | None, max_new_tokens: int):
        self.model, self.tokenizer, self.max_new_tokens = model, tokenizer, max_new_tokens
        self.messages = [{"role": "system", "content": system}] if system is not None else []
        self._stack = ExitStack()
        self._stack.enter_context(fast_generation(model))

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
            talk._stack.enter_context(as_base(model))
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


class ServerTalk:
    """Keeps the turns of a conversation with a model that a server holds."""

    def __init__(
        self, url: str, model: str | None, system: str | None, max_new_tokens: int,
        api_key: str | None = None,
    ):  # fmt: skip
        self.url, self.model, self.api_key = url, model, api_key
        self.max_new_tokens = max_new_tokens
        self.messages = [{"role": "system", "content": system}] if system is not None else []

    def ask(self, question: str) -> Answer:
        """Say something and get the answer; both become part of the conversation.

        Args:
            question: the user's words.
        """
        self.messages.append({"role": "user", "content": question})
        try:
            reply = ask(self.url, self.messages, self.model, self.max_new_tokens, self.api_key)
        except KitError:
            self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": reply.text})
        return Answer(reply.text.strip(), reply.stopped, reply.tokens)


def open_talk(
    where: str, system: str | None, base: bool, max_new_tokens: int, model: str | None = None,
    api_key: str | None = None,
) -> Talk | ServerTalk:  # fmt: skip
    """A conversation with a run folder or with a server.

    Args:
        where: the folder, or http://...
        system, base, max_new_tokens: see `Talk.open`; of a server, base is its first model.
        model: the server's name for an adapter.
        api_key: where the server wants one.
    """
    if not where.startswith(("http://", "https://")):
        if model is not None:
            raise KitError("--model names an adapter of a server; a run has one of its own.")
        return Talk.open(Path(where), system, base, max_new_tokens)
    known = models(where, api_key)  # a wrong address or key is told before anything is typed
    if model is not None and model not in known:
        raise KitError(f"The server has no model {model!r}; there are: {', '.join(known)}.")
    name = known[0] if base or model is None else model
    return ServerTalk(where, name, system, max_new_tokens, api_key)


def converse(talk: Talk | ServerTalk) -> None:
    """Ask what is typed and show the answers, until an empty line or Ctrl-D.

    Args:
        talk: to whom.
    """
    while True:
        try:
            question = input("you> ").strip()
        except EOFError:
            return
        if not question:
            return
        print(f"model> {talk.ask(question).text}")
