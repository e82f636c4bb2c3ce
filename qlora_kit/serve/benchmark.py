"""How fast a server answers when several ask at once: the first token, the rate, the tail."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np

from .. import KitError
from ..data import Messages
from .client import Reply, ask


@dataclass(frozen=True)
class Load:
    """What n clients saw who each asked one question after another.

    failed: requests without a whole answer. tokens_per_second: all clients together.
    first_token, seconds: the median and the 95th percentile of a request.
    """

    clients: int
    requests: int
    failed: int
    seconds: float
    tokens: int
    tokens_per_second: float
    first_token_p50: float
    first_token_p95: float
    seconds_p50: float
    seconds_p95: float
    errors: tuple[str, ...] = ()


def measure_load(
    url: str,
    prompts: Sequence[Messages],
    clients: int = 1,
    requests: int = 8,
    model: str | Sequence[str] | None = None,
    seconds: float | None = None,
    check: Callable[[Reply], object] | None = None,
    **options: Any,
) -> Load:
    """Let clients ask in parallel and take the time of each answer.

    Args:
        url: of the server.
        prompts: taken in turn.
        clients: that ask at the same time.
        requests: of all together; with `seconds` it does not count.
        model: one name, or several that are taken in turn.
        seconds: ask for as long as this instead.
        check: called with each answer; a KitError that it raises counts as a failure.
        options: of `ask`, for example max_new_tokens=32.
    """
    names = [model] if model is None or isinstance(model, str) else model
    questions = islice(zip(cycle(prompts), cycle(names)), requests if seconds is None else None)
    futures: list[Future[Reply | str]] = []
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        running: set[Future[Reply | str]] = set()
        for prompt, name in questions:
            if len(running) == clients:
                running = wait(running, return_when=FIRST_COMPLETED).not_done
            if seconds is not None and time.perf_counter() - began >= seconds:
                break
            futures.append(pool.submit(_attempt, url, prompt, name, check, options))
            running.add(futures[-1])
    took = time.perf_counter() - began
    results = [future.result() for future in futures]
    replies = [result for result in results if isinstance(result, Reply)]
    errors = [result for result in results if isinstance(result, str)]
    first_tokens = [reply.first_token for reply in replies] or [math.nan]
    durations = [reply.seconds for reply in replies] or [math.nan]
    tokens = sum(reply.tokens for reply in replies)
    return Load(
        clients=clients,
        requests=len(results),
        failed=len(errors),
        seconds=took,
        tokens=tokens,
        tokens_per_second=tokens / took,
        first_token_p50=_quantile(first_tokens, 0.5),
        first_token_p95=_quantile(first_tokens, 0.95),
        seconds_p50=_quantile(durations, 0.5),
        seconds_p95=_quantile(durations, 0.95),
        errors=tuple(errors),
    )


def _attempt(
    url: str,
    prompt: Messages,
    model: str | None,
    check: Callable[[Reply], object] | None,
    options: dict[str, Any],
) -> Reply | str:
    """The reply, or what went wrong."""
    try:
        reply = ask(url, prompt, model, **options)
        if check:
            check(reply)
    except KitError as problem:
        return str(problem)
    return reply


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least this share of them does not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))
