"""A conversation with a run or with a server: what `qlora-kit chat` holds."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from .. import KitError
from ..data import Messages
from ..engine import ready
from ..evaluate import Answer, generate
from ..runs import as_base, load_run, trained_system
from .client import ask, models


class ChatSession:
    """Keeps the turns of a conversation.

    Args:
        answer: gives the model's answer to a conversation that ends with the user's turn.
        system: the system prompt, where there is one.
    """

    def __init__(self, answer: Callable[[Messages], Answer], system: str | None = None):
        self._answer = answer
        self.messages = [{"role": "system", "content": system}] if system is not None else []

    def ask(self, question: str) -> Answer:
        """Say something and get the answer; both become part of the conversation.

        Args:
            question: the user's words.

        Raises:
            KitError: there is no answer; the conversation is as it was.
        """
        turn = {"role": "user", "content": question}
        answer = self._answer([*self.messages, turn])
        self.messages += [turn, {"role": "assistant", "content": answer.text}]
        return answer


def open_session(
    place: str,
    system: str | None = None,
    base: bool = False,
    max_new_tokens: int = 200,
    model: str | None = None,
    api_key: str | None = None,
) -> AbstractContextManager[ChatSession]:
    """A conversation with a run folder or with a server; what it holds is freed at the end.

    Args:
        place: the folder, or http://...
        system: the system prompt; None takes the one that the run's training data used.
        base: talk to the model without its adapter; of a server, to its first model.
        max_new_tokens: where an answer that does not stop is cut.
        model: the server's name for an adapter.
        api_key: where the server wants one.

    Raises:
        KitError: no such run, server or model.
    """
    if place.startswith(("http://", "https://")):
        return nullcontext(_with_server(place, system, base, max_new_tokens, model, api_key))
    if model is not None:
        raise KitError("--model names an adapter of a server; a run has one of its own.")
    return _with_run(Path(place), system, base, max_new_tokens)


@contextmanager
def _with_run(
    run: Path, system: str | None, base: bool, max_new_tokens: int
) -> Iterator[ChatSession]:
    model, tokenizer = load_run(run)

    def answer(messages: Messages) -> Answer:
        return generate(model, tokenizer, [messages], max_new_tokens)[0]

    with ready(model), as_base(model) if base else nullcontext():
        yield ChatSession(answer, trained_system(run) if system is None else system)


def _with_server(
    url: str,
    system: str | None,
    base: bool,
    max_new_tokens: int,
    model: str | None,
    api_key: str | None,
) -> ChatSession:
    names = models(url, api_key)  # a wrong address or key is an error before anything is typed
    if model is not None and model not in names:
        raise KitError(f"The server has no model {model!r}; there are: {', '.join(names)}.")
    name = names[0] if base or model is None else model

    def answer(messages: Messages) -> Answer:
        return ask(url, messages, name, max_new_tokens, api_key).answer

    return ChatSession(answer, system)


def converse(session: ChatSession) -> None:
    """Ask what is typed and show the answers, until an empty line or Ctrl-D.

    Args:
        session: with whom.
    """
    while True:
        try:
            question = input("you> ").strip()
        except EOFError:
            return
        if not question:
            return
        print(f"model> {session.ask(question).text}")
