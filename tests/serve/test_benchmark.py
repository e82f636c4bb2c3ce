import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qlora_kit import KitError
from qlora_kit.serve import measure_load
from qlora_kit.serve.benchmark import _quantile


class Slow(BaseHTTPRequestHandler):
    """Streams four tokens, the first after 0.1 s; every third request is refused."""

    seen: list = []  # noqa: RUF012

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body["model"])
        if len(self.seen) % 3 == 0:
            self.send_error(500)
            return
        self.send_response(200)
        self.end_headers()
        for text in "abcd":
            time.sleep(0.1)
            self.event({"choices": [{"delta": {"content": text}}]})
        self.event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        self.event({"choices": [], "usage": {"completion_tokens": 5}})

    def event(self, data):
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    Slow.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_rates_and_tails_are_those_of_the_answers(url):
    load = measure_load(url, [[{"role": "user", "content": "?"}]], 2, 6, model=["a", "b"])
    assert (load.clients, load.requests, load.failed, load.tokens) == (2, 6, 2, 16)
    assert sorted(Slow.seen) == ["a"] * 3 + ["b"] * 3
    assert all("500" in error for error in load.errors)
    assert 0.1 <= load.first_token_p50 <= load.first_token_p95 < load.seconds_p50
    assert load.seconds_p50 >= 0.4
    assert load.tokens_per_second == pytest.approx(16 / load.seconds)


def test_for_a_time_and_with_a_check_of_its_own(url):
    def never(reply):
        raise KitError(f"no {reply.text}")

    load = measure_load(
        url, [[{"role": "user", "content": "?"}]], seconds=0.6, check=never, model="a"
    )
    assert 1 <= load.failed == load.requests <= 4
    assert load.errors[0] == "no abcd"
    assert math.isnan(load.first_token_p50)


@pytest.mark.parametrize(("share", "value"), [(0.25, 1), (0.5, 2), (0.51, 3), (0.95, 4), (1, 4)])
def test_quantiles_are_values_of_the_sample(share, value):
    assert _quantile([3, 1, 2, 4], share) == value
