"""`make soak`: the server under eight streaming clients, and beside them what must not harm it.

While the clients ask, others send malformed JSON, a prompt of 1 MB and an unknown adapter's name,
hang up in mid-stream, and connect a thousand times without a word. No request of the clients may
fail, every answer must stop as it does when asked alone, and the memory may not grow.
"""

import argparse
import http.client
import json
import socket
import statistics
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from qlora_kit import KitError, serve
from qlora_kit.data import bundled_data, read
from qlora_kit.models import bundled_gguf
from qlora_kit.serve import client, measure_load
from qlora_kit.serve.benchmark import Load

LIMIT = 48  # tokens of an answer
GROWTH = 0.02  # of the memory, from the second quarter of the time to the last


@dataclass(frozen=True)
class Soak:
    """What came of it. same: share of answers equal to the lone one, word for word.

    memory_early, memory_late: medians in GB over the second and the last quarter of the time.
    """

    load: Load
    same: float
    stopped: float
    memory_early: float
    memory_late: float
    nuisances: dict[str, int]
    problems: tuple[str, ...]


def post(url: str, body: bytes) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
    connection.request("POST", "/v1/chat/completions", body)
    response = connection.getresponse()
    told = response.status, json.loads(response.read())
    connection.close()
    return told


def request(text: str, **options) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], **options}).encode()


def malformed(url: str) -> None:
    assert post(url, b'{"messages": [')[0] == 400


def long_prompt(url: str) -> None:
    assert post(url, request("word " * 200_000))[0] == 400


def unknown_adapter(url: str) -> None:
    status, told = post(url, request("hello", model="nobody"))
    assert (status, told["error"]["code"]) == (404, "model_not_found")


def hang_up(url: str) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
    body = request("Tell a story.", stream=True, max_tokens=400, ignore_eos=True)
    connection.request("POST", "/v1/chat/completions", body)
    response = connection.getresponse()
    response.read(20)
    response.close()
    connection.close()


def quick_connects(url: str, count: int = 100) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    for _ in range(count):
        socket.create_connection((host, int(port)), timeout=60).close()


NUISANCES = (malformed, long_prompt, unknown_adapter, hang_up, quick_connects)


class Beside:
    """A thread that does something again and again until the clients are done."""

    def __init__(self, every: float, job):
        self.every, self.job, self.problems = every, job, []
        self.end = threading.Event()
        self.thread = threading.Thread(target=self.loop, daemon=True)

    def loop(self) -> None:
        while not self.end.wait(self.every):
            try:
                self.job()
            except Exception as problem:  # whatever it is belongs into the report
                self.problems.append(f"{self.job.__name__}: {problem!r}")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.end.set()
        self.thread.join()


def soak(
    gguf: Path,
    adapters: dict[str, Path],
    seconds: float,
    clients: int = 8,
    questions: int = 24,
    growth: float = GROWTH,
) -> Soak:
    """Serve, load, annoy, and judge."""
    rows = read(bundled_data("support/test.jsonl"))[:questions]
    prompts = [row.messages[:-1] for row in rows]
    memory: list[float] = []
    done = dict.fromkeys((job.__name__ for job in NUISANCES), 0)
    with serve.running(gguf, adapters, parallel=clients, context=1024) as server:
        names = client.models(server.url)
        asked = [(names[i % len(names)], prompts[i % len(prompts)]) for i in range(questions)]
        alone = [client.ask(server.url, prompt, name, LIMIT) for name, prompt in asked]
        texts = {reply.text for reply in alone}
        same = 0

        def check(reply: client.Reply) -> None:
            nonlocal same
            same += reply.text in texts
            whole = reply.tokens < LIMIT if reply.stopped else reply.tokens == LIMIT
            if not whole or "<|im_" in reply.text:
                raise KitError(f"A wrong stop: {reply}")

        def annoy() -> None:
            job = NUISANCES[sum(done.values()) % len(NUISANCES)]
            job(server.url)
            done[job.__name__] += 1

        def sample() -> None:
            memory.append(server.memory_gb())

        with Beside(seconds / 60, annoy) as annoying, Beside(seconds / 200, sample) as sampling:
            load = measure_load(
                server.url,
                [prompt for _, prompt in asked],
                clients,
                model=[name for name, _ in asked],
                seconds=seconds,
                check=check,
                max_new_tokens=LIMIT,
            )
        problems = [*load.errors, *annoying.problems, *sampling.problems]
        quick_connects(server.url, 1000 - 100 * done["quick_connects"])
        after = client.ask(server.url, asked[0][1], asked[0][0], LIMIT)
        if after.text != alone[0].text:
            problems.append(f"after it all the answer is {after.text!r}, not {alone[0].text!r}")
    quarter = len(memory) // 4
    early = statistics.median(memory[quarter : 2 * quarter])
    late = statistics.median(memory[-quarter:])
    if late > early * (1 + growth):
        problems.append(f"the memory grew from {early:.3f} to {late:.3f} GB")
    if not all(done.values()):
        problems.append(f"too short for every nuisance: {done}")
    whole = max(1, load.requests - load.failed)
    stopped = statistics.mean(reply.stopped for reply in alone)
    return Soak(load, same / whole, stopped, early, late, done, tuple(problems))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--gguf", type=Path, help="instead of the bundled model")
    parser.add_argument("--lora", action="append", default=[], help="NAME=ADAPTER.gguf")
    parser.add_argument("--output", type=Path, default=Path("runs/soak"))
    arguments = parser.parse_args()
    adapters = {name: Path(path) for name, _, path in (x.partition("=") for x in arguments.lora)}
    gguf = arguments.gguf or bundled_gguf()
    began = time.time()
    found = soak(gguf, adapters, arguments.seconds, arguments.clients)
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(found), indent=1, ensure_ascii=False)
    (arguments.output / "soak.json").write_text(text + "\n")
    print(f"{text}\n{time.time() - began:.0f} seconds")
    sys.exit(1 if found.problems else 0)


if __name__ == "__main__":
    main()
