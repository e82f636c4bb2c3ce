"""Asking an OpenAI-compatible server, this kit's or another: one question, or a whole test set."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from .. import KitError
from ..data import Messages
from ..evaluate import MAX_NEW_TOKENS, Answer

# A server on this machine is never behind a proxy, whatever the environment says.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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


def models(url: str, api_key: str | None = None) -> list[str]:
    """The names that a server answers to, the base model first.

    Args:
        url: for example http://127.0.0.1:8080.
        api_key: where the server wants one.
    """
    with _open(url, "/v1/models", None, api_key) as response:
        return [row["id"] for row in json.load(response)["data"]]


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
        KitError: no server, or one that refuses.
    """
    body = {
        "messages": list(messages), "max_tokens": max_new_tokens, "temperature": 0.0,
        "stream": True, "stream_options": {"include_usage": True}, **options,
    }  # fmt: skip
    if model is not None:
        body["model"] = model
    began = time.perf_counter()
    first, pieces, finish, counted = 0.0, [], None, 0
    with _open(url, "/v1/chat/completions", body, api_key) as response:
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
    replies = (
        ask(url, prompt, model, max_new_tokens, api_key, cache_prompt=False) for prompt in prompts
    )
    return [Answer(reply.text.strip(), reply.stopped, reply.tokens) for reply in replies]


def prompt_text(url: str, messages: Messages, api_key: str | None = None) -> str:
    """What this kit's server makes of a conversation before the model reads it.

    Args:
        url: of the server.
        messages: ends with the user's turn.
        api_key: where the server wants one.
    """
    with _open(url, "/apply-template", {"messages": list(messages)}, api_key) as response:
        return json.load(response)["prompt"]


def prompt_ids(url: str, text: str, api_key: str | None = None) -> list[int]:
    """The tokens that this kit's server makes of a rendered prompt.

    Args:
        url: of the server.
        text: from `prompt_text`.
        api_key: where the server wants one.
    """
    body = {"content": text, "add_special": True, "parse_special": True}
    with _open(url, "/tokenize", body, api_key) as response:
        return json.load(response)["tokens"]


def _events(response: Any) -> Iterator[dict[str, Any]]:
    """The JSON objects of an event stream."""
    try:
        for line in response:
            data = line.decode().strip().removeprefix("data:").strip()
            if data.startswith("{"):
                yield json.loads(data)
    except (OSError, HTTPException) as problem:
        raise KitError(f"The server ended in the midst of an answer: {problem!r}") from problem


def _open(url: str, path: str, body: dict[str, Any] | None, api_key: str | None) -> Any:
    headers = {"Content-Type": "application/json"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    root = url.rstrip("/").removesuffix("/v1")
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(root + path, data, headers)
        return _OPENER.open(request, timeout=600)
    except urllib.error.HTTPError as problem:
        said = problem.read().decode(errors="replace")
        try:
            said = json.loads(said)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            said = said.strip()[:200] or problem.reason
        raise KitError(f"The server refuses ({problem.code}): {said}") from problem
    except (OSError, HTTPException, ValueError) as problem:
        raise KitError(
            f"Nothing answers at {url} ({problem}). Start it with 'qlora-kit serve FILE.gguf'."
        ) from problem
