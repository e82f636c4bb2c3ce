"""A conversation with a run or with a server: what `qlora-kit chat` holds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from .. import KitError
from ..data import Messages
from ..engine import fast_generation
from ..evaluate import Answer, generate
from ..runs import as_base, open_run
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


@contextmanager
def open_session(
    place: str,
    system: str | None = None,
    base: bool = False,
    max_new_tokens: int = 200,
    model: str | None = None,
    api_key: str | None = None,
) -> Iterator[ChatSession]:
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
        names = models(place, api_key)  # a wrong address is an error before anything is typed
        if model is not None and model not in names:
            raise KitError(f"The server has no model {model!r}; there are: {', '.join(names)}.")
        name = names[0] if base or model is None else model
        yield ChatSession(
            lambda messages: ask(place, messages, name, max_new_tokens, api_key).answer, system
        )
        return
    if model is not None:
        raise KitError("--model names an adapter of a server; a run has one of its own.")
    run = open_run(place)
    llm, tokenizer = run.load()
    system = run.system if system is None else system
    with fast_generation(llm), as_base(llm) if base else nullcontext():
        yield ChatSession(
            lambda messages: generate(llm, tokenizer, [messages], max_new_tokens)[0], system
        )
