"""Asking an OpenAI-compatible server, this kit's or another: one question, or a whole test set."""

import json
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import httpx

from .. import KitError
from ..data import Messages
from ..evaluate import MAX_NEW_TOKENS, Answer

# Seconds without a byte; chosen by hand: a long prompt takes a CPU minutes.
_TIMEOUT = 600.0


@dataclass(frozen=True)
class Reply:
    """One answer as it came in.

    stopped: it ended by itself. tokens: without the stop. first_token, seconds: from the
    request to the first piece and to the end.
    """

    text: str
    stopped: bool
    tokens: int
    first_token: float
    seconds: float

    @property
    def answer(self) -> Answer:
        """The same without the times, to score as those of `generate`."""
        return Answer(self.text.strip(), self.stopped, self.tokens)


def models(url: str, api_key: str | None = None) -> list[str]:
    """The names that a server answers to, the base model first.

    Args:
        url: for example http://127.0.0.1:8080.
        api_key: where the server wants one.

    Raises:
        KitError: see `request`.
    """
    return [row["id"] for row in request(url, "/v1/models", api_key=api_key)["data"]]


def ask(
    url: str,
    messages: Messages,
    model: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    api_key: str | None = None,
    say: Callable[[str], object] | None = None,
    **options: Any,
) -> Reply:
    """Get one streamed answer; greedy unless the options say otherwise.

    Args:
        url: of the server.
        messages: the conversation, the user's turn last.
        model: a name of the server's; None takes its base model.
        max_new_tokens: where an answer that does not stop is cut.
        api_key: where the server wants one.
        say: called with each piece of text.
        options: of the request, for example temperature=0.7.

    Raises:
        KitError: see `request`.
    """
    body = {
        "messages": list(messages),
        "max_tokens": max_new_tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }
    if model is not None:
        body["model"] = model
    began = time.perf_counter()
    first, pieces, finish, counted = 0.0, [], None, 0
    with _response(url, "/v1/chat/completions", body, api_key) as response:
        for event in _events(response):
            if "error" in event:
                raise KitError(f"The server broke off: {event['error'].get('message')}")
            counted = (event.get("usage") or {}).get("completion_tokens", counted)
            for choice in event.get("choices", ()):
                finish = choice.get("finish_reason") or finish
                if text := choice["delta"].get("content"):
                    first = first or time.perf_counter() - began
                    pieces.append(text)
                    if say:
                        say(text)
    if finish is None:
        raise KitError(f"The server at {url} ended in the midst of an answer.")
    seconds = time.perf_counter() - began
    stopped = finish == "stop"
    return Reply("".join(pieces), stopped, counted - stopped, first or seconds, seconds)


def answers(
    url: str,
    prompts: Sequence[Messages],
    model: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    api_key: str | None = None,
) -> list[Answer]:
    """Greedy answers to many prompts, one after the other, to score as those of `generate`.

    Each prompt is computed afresh: no token of an earlier one is taken from the cache.

    Args:
        url, model, max_new_tokens, api_key: see `ask`.
        prompts: conversations that end with the user's turn.
    """
    return [
        ask(url, prompt, model, max_new_tokens, api_key, cache_prompt=False).answer
        for prompt in prompts
    ]


def request(
    url: str,
    path: str,
    body: dict[str, Any] | None = None,
    api_key: str | None = None,
    timeout: float | None = _TIMEOUT,
) -> Any:
    """What a server answers to one request, from JSON.

    Args:
        url: of the server.
        path: for example "/tokenize".
        body: sent as JSON; without one it is asked by GET.
        api_key: where the server wants one.
        timeout: seconds that it may stay silent; None waits for ever.

    Raises:
        KitError: nobody answers, the connection breaks, the server refuses, or it is no JSON.
    """
    with _response(url, path, body, api_key, timeout) as response:
        return _parsed(response.read())


@cache
def _http() -> httpx.Client:
    """One for the process, since it takes 30 ms to make; it keeps no connection.

    A server on this machine is never behind a proxy, whatever the environment says, and a
    redirect is not followed: the key is for nobody else.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.Client(trust_env=False, verify=ssl.create_default_context(), limits=limits)


@contextmanager
def _response(
    url: str,
    path: str,
    body: dict[str, Any] | None,
    api_key: str | None,
    timeout: float | None = _TIMEOUT,
) -> Iterator[httpx.Response]:
    """Inside, a server's answer comes in; every error of the way is a KitError."""
    method, content = ("GET", None) if body is None else ("POST", json.dumps(body).encode())
    headers = {b"Content-Type": b"application/json"}
    if api_key is not None:
        headers[b"Authorization"] = f"Bearer {api_key}".encode()
    root = url.rstrip("/").removesuffix("/v1")
    answered = False
    try:
        with _http().stream(
            method, root + path, content=content, headers=headers, timeout=timeout
        ) as response:
            answered = True
            if not response.is_success:
                reason = _reason(response)
                raise KitError(f"The server refuses {path} ({response.status_code}): {reason}")
            yield response
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        if answered:
            raise KitError(f"The server ended in the midst of an answer: {problem!r}") from problem
        raise KitError(
            f"Nothing answers at {url} ({problem}). Start it with 'qlora-kit serve FILE.gguf'."
        ) from problem


def _reason(response: httpx.Response) -> str:
    text = response.read().decode(errors="replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200] or response.reason_phrase


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of an event stream.

    `iter_lines` would also cut at the other line breaks of Unicode, which text may contain.
    """
    rest = b""
    for piece in chain(response.iter_bytes(), [b"\n"]):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            data = line.strip().removeprefix(b"data:").strip()
            if data.startswith(b"{"):
                yield _parsed(data)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data.decode(errors="replace"))
    except (ValueError, RecursionError) as problem:
        raise KitError(f"What the server answers is not JSON: {problem}") from problem
