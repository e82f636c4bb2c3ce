"""How fast a server answers when several ask at once: the first token, the rate, the tail."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed.

    Args:
        values: in any order; of none it is nan.
        share: above 0, up to 1.
    """
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.nan


def measure_load(
    url: str,
    prompts: Sequence[Messages],
    clients: int = 1,
    requests: int = 8,
    max_new_tokens: int = 64,
    model: str | Sequence[str] | None = None,
    api_key: str | None = None,
    seconds: float | None = None,
    check: Callable[[Reply], object] | None = None,
) -> Load:
    """Let clients ask in parallel and take the time of each answer.

    Args:
        url, max_new_tokens, api_key: see `ask`.
        prompts: taken in turn.
        clients: that ask at the same time.
        requests: of all together; with `seconds` it does not count.
        model: one name, or several that are taken in turn.
        seconds: ask for as long as this instead.
        check: called with each answer; a KitError that it raises counts as a failure.
    """
    names = [model] if model is None or isinstance(model, str) else list(model)
    replies: list[Reply] = []
    errors: list[str] = []
    numbers = iter(range(requests if seconds is None else 1 << 60))
    lock = threading.Lock()
    began = time.perf_counter()

    def client() -> None:
        while seconds is None or time.perf_counter() - began < seconds:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            prompt, name = prompts[number % len(prompts)], names[number % len(names)]
            try:
                reply = ask(url, prompt, name, max_new_tokens, api_key)
                if check:
                    check(reply)
                replies.append(reply)
            except KitError as problem:
                errors.append(str(problem))

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()
    took = time.perf_counter() - began
    tokens = sum(reply.tokens for reply in replies)
    return Load(
        clients=clients, requests=len(replies) + len(errors), failed=len(errors), seconds=took,
        tokens=tokens, tokens_per_second=tokens / took,
        first_token_p50=quantile([reply.first_token for reply in replies], 0.5),
        first_token_p95=quantile([reply.first_token for reply in replies], 0.95),
        seconds_p50=quantile([reply.seconds for reply in replies], 0.5),
        seconds_p95=quantile([reply.seconds for reply in replies], 0.95),
        errors=tuple(errors),
    )  # fmt: skip
