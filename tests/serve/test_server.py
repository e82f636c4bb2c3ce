"""The server as OpenAI's own client meets it: answers, adapters, refusals, and a clean end."""

import dataclasses
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import openai
import psutil
import pytest

from qlora_kit import KitError
from qlora_kit.models import bundled_gguf
from qlora_kit.serve import (
    ServerConfig,
    client,
    has_seccomp_filter,
    measure_load,
    remote_addresses,
)
from qlora_kit.serve import config as config_file
from qlora_kit.serve import server as server_file
from tests.tools.gguf_files import write_adapter, write_model

KEY = "a-key"
MOON = [{"role": "user", "content": "What is the moon?"}]


@pytest.fixture(scope="module")
def base():
    return bundled_gguf("smollm2")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    names = ("keeper", "poet")
    return {name: write_adapter(folder / f"{name}.gguf", i) for i, name in enumerate(names)}


@pytest.fixture(scope="module")
def server(base, adapters):
    options = {"parallel": 2, "context": 2048, "origins": ("http://app.test",)}
    with server_file.running(base, adapters, api_key=KEY, **options) as started:
        yield started


@pytest.fixture(scope="module")
def ai(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60)


def text(ai, model, **options):
    settings = {"max_tokens": 16, "temperature": 0, "messages": MOON, **options}
    return ai.chat.completions.create(model=model, **settings).choices[0].message.content


def call(server, method, path, body=None, key=KEY, **headers):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    if key:
        headers["Authorization"] = f"Bearer {key}"
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, response.read().decode(), response.headers


def metric(server, name):
    lines = call(server, "GET", "/metrics")[1].splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


def test_the_models_are_the_base_and_its_adapters(ai, base):
    assert [row.id for row in ai.models.list()] == [base.stem, "keeper", "poet"]


@pytest.mark.slow
def test_each_request_chooses_its_adapter_and_none_answers_for_another(ai, base):
    names = [base.stem, "keeper", "poet"]
    first = {name: text(ai, name) for name in names}
    assert len(set(first.values())) == 3
    for name in [*names, *reversed(names), "poet", base.stem]:
        assert text(ai, name) == first[name]


@pytest.mark.slow
def test_adapters_do_not_mix_in_parallel(server, base):
    names = [base.stem, "keeper", "poet"]
    alone = {client.ask(server.url, MOON, name, 12, KEY).text for name in names}
    texts = set()
    load = measure_load(
        server.url,
        [MOON],
        clients=3,
        requests=12,
        model=names,
        check=lambda reply: texts.add(reply.text),
        max_new_tokens=12,
        api_key=KEY,
    )
    assert load.failed == 0, load.errors
    assert texts == alone
    assert load.tokens > 0


def test_a_stream_says_what_the_whole_answer_says(ai, base):
    pieces = ai.chat.completions.create(
        model=base.stem, messages=MOON, max_tokens=16, temperature=0, stream=True
    )
    texts = [piece.choices[0].delta.content or "" for piece in pieces if piece.choices]
    assert "".join(texts) == text(ai, base.stem)
    assert len([piece for piece in texts if piece]) > 8


def test_a_json_schema_is_kept(ai, base):
    properties = {"color": {"enum": ["gray", "green"]}, "round": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "moon", "schema": schema, "strict": 1}}
    for model in (base.stem, "poet"):
        moon = json.loads(text(ai, model, max_tokens=200, response_format=form))
        assert moon["color"] in ("gray", "green")
        assert isinstance(moon["round"], bool)


def test_answers_end_by_themselves_at_a_word_or_at_the_limit(ai, server, base):
    yes = [{"role": "user", "content": "Repeat this word and nothing else: hello"}]
    reply = client.ask(server.url, yes, base.stem, 200, KEY)
    assert reply.stopped
    assert 0 < reply.tokens < 200
    assert "<|im_end|>" not in reply.text
    whole = text(ai, base.stem)
    word = whole.split()[3]
    assert text(ai, base.stem, stop=[word]) == whole[: whole.index(word)]
    done = ai.chat.completions.create(model=base.stem, messages=MOON, max_tokens=3)
    assert done.choices[0].finish_reason == "length"
    assert done.usage.completion_tokens == 3
    assert done.model == base.stem


def test_what_is_wrong_is_told_in_openais_form(ai, server, base):
    with pytest.raises(openai.NotFoundError, match=r"There is no model 'gpt-5'; there are: .*poet"):
        text(ai, "gpt-5")
    with pytest.raises(openai.AuthenticationError, match="API key"):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong").models.list()
    with pytest.raises(openai.BadRequestError, match="context"):
        text(ai, base.stem, messages=[{"role": "user", "content": "moon " * 200_000}])
    with pytest.raises(openai.APIStatusError, match="2,097,152 bytes"):
        text(ai, base.stem, messages=[{"role": "user", "content": "moon " * 600_000}])
    with pytest.raises(openai.BadRequestError):
        text(ai, base.stem, messages="moon")
    assert text(ai, base.stem)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", "{", 400),
        ("POST", "/v1/chat/completions", "[" * 100_000, 400),
        ("POST", "/v1/chat/completions", b"\xff\xfe", 400),
        ("POST", "/v1/chat/completions", "[]", 400),
        ("POST", "/v1/chat/completions", '{"model": ["a"], "messages": []}', 404),
        ("GET", "/v1/chat/completions", None, 405),
        ("GET", "/slots", None, 404),
        ("POST", "/lora-adapters", "[]", 404),
    ],
)
def test_a_broken_request_is_refused_with_a_reason(server, method, path, body, status):
    code, answer, _ = call(server, method, path, body)
    assert code == status
    assert json.loads(answer)["error"]["message"]


def test_only_health_needs_no_key_and_only_named_pages_may_ask(server):
    assert call(server, "GET", "/health", key=None)[:2] == (200, '{"status": "ok"}')
    for path in ("/v1/models", "/metrics", "/nothing"):
        assert call(server, "GET", path, key=None)[0] == 401
    for other in ("http://evil.test", "null"):
        status, _, headers = call(server, "GET", "/v1/models", Origin=other)
        assert status == 403
        assert "Access-Control-Allow-Origin" not in headers
    _, _, headers = call(server, "OPTIONS", "/v1/models", key=None, Origin="http://app.test")
    assert headers["Access-Control-Allow-Origin"] == "http://app.test"
    assert "Access-Control-Allow-Origin" not in call(server, "GET", "/v1/models")[2]


def test_the_key_stands_neither_in_the_command_nor_in_the_environment(server):
    process = psutil.Process(server.pid)
    assert KEY not in process.cmdline()
    assert KEY not in process.environ().values()


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_stops_the_generation(server, stream):
    line = 'qlora_kit:requests_total{model="keeper",outcome="hung_up"}'
    before, tokens = metric(server, line), metric(server, "llamacpp:tokens_predicted_total")
    body = {"model": "keeper", "messages": MOON, "max_tokens": 1800, "ignore_eos": True}
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    body = json.dumps({**body, "stream": stream})
    headers = {"Authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    if stream:
        response = connection.getresponse()
        response.read(30)
        response.close()
    time.sleep(0.2)
    connection.close()
    time.sleep(2)  # each question for metrics delays llama.cpp's look at who still listens
    assert metric(server, "llamacpp:requests_processing") == 0
    assert metric(server, line) == before + 1
    assert metric(server, "llamacpp:tokens_predicted_total") < tokens + 1800


def test_metrics_count_each_adapter(server, ai):
    line = 'qlora_kit:requests_total{model="poet",outcome="200"}'
    before = metric(server, line)
    text(ai, "poet", max_tokens=2)
    assert metric(server, line) == before + 1
    assert metric(server, "llamacpp:tokens_predicted_total") > 0


def test_many_quick_connections_leave_it_serving(server, ai, base):
    where = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    for number in range(200):
        with socket.create_connection(where) as connection:
            if number % 2:
                connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Le")
    assert text(ai, base.stem)


@pytest.mark.equality
def test_the_prompt_is_the_one_that_training_saw(server):
    from transformers import AutoTokenizer

    from qlora_kit.data import bundled_data, encode_prompt, read, render
    from qlora_kit.models import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve("smollm2").location)
    rows = read(bundled_data("support/test.jsonl"))[::12]
    for messages in [*(row.messages[:-1] for row in rows), MOON]:
        body = {"messages": list(messages)}
        prompt = client.request(server.url, "/apply-template", body, KEY)["prompt"]
        assert prompt == render(tokenizer, messages, answer_next=True)
        body = {"content": prompt, "add_special": True, "parse_special": True}
        tokens = client.request(server.url, "/tokenize", body, KEY)["tokens"]
        assert tokens == encode_prompt(tokenizer, messages)


@pytest.mark.slow
def test_chat_talks_to_a_server(server, base):
    command = [sys.executable, "-m", "qlora_kit.cli", "chat", server.url, "--max-new-tokens", "8"]
    environment = {**os.environ, config_file.KEY_VARIABLE: KEY}

    def chat(*arguments, **more):
        options = {"capture_output": True, "text": True, "env": environment, **more}
        return subprocess.run([*command, *arguments], **options)

    output = chat("--model", "poet", "--prompt", "What is the moon?", "--json").stdout
    reply = client.ask(server.url, MOON, "poet", 8, KEY)
    assert json.loads(output)["answer"] == reply.text.strip()
    assert "model> " in chat(input="What is the moon?\n\n").stdout
    assert f"no model 'poem'; there are: {base.stem}, keeper" in chat("--model", "poem").stderr
    environment.pop(config_file.KEY_VARIABLE)
    assert "401" in chat("--prompt", "a").stderr


# Writes what it was asked to serve, and serves nothing until it is stopped.
ECHO = """
import runpy
import signal
from dataclasses import replace
from qlora_kit.serve import server

def echo(config):
    print(repr(replace(config, address_file=None)), flush=True)
    config.address_file.write_text("http://nowhere")
    signal.pause()

server.run = echo
runpy.run_module("qlora_kit.serve", run_name="__main__")
"""
OTHER_CONFIG = {  # each another than by default
    "model": Path("a model.gguf"),
    "adapters": {"poet": Path("poet.gguf")},
    "host": "::1",
    "port": 8081,
    "api_key": KEY,
    "origins": ("http://a.test", "http://b.test"),
    "parallel": 3,
    "context": 512,
    "threads": 2,
    "offline": True,
    "verbose": True,
    "parent": 7,
}


def config_that_arrives(monkeypatch, **options):
    """The configuration, as text, that the process of `running` would serve with."""
    start = subprocess.Popen

    def start_echo(command, **pipes):
        assert command[0] == sys.executable
        return start([sys.executable, "-c", ECHO], **pipes)

    monkeypatch.setattr(subprocess, "Popen", start_echo)
    with server_file.running(**options) as started:
        assert started.url == "http://nowhere"
        return started.log.read_text().strip()


def test_every_setting_reaches_the_server(monkeypatch):
    settings = [field for field in dataclasses.fields(ServerConfig) if field.name != "address_file"]
    assert OTHER_CONFIG.keys() == {field.name for field in settings}
    for field in settings:
        assert OTHER_CONFIG[field.name] != field.default
    arrived = config_that_arrives(monkeypatch, **OTHER_CONFIG)
    assert arrived == repr(ServerConfig(**OTHER_CONFIG))


def test_by_itself_it_takes_a_free_port_and_the_key_of_the_environment(monkeypatch):
    monkeypatch.setenv(config_file.KEY_VARIABLE, KEY)
    arrived = config_that_arrives(monkeypatch, model="model.gguf")
    expected = ServerConfig(Path("model.gguf"), port=0, api_key=KEY, parent=os.getpid())
    assert arrived == repr(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"origin": "http://a.test"}, "no setting origin; there are model, .*origins"),
        ({"origins": "http://a.test"}, r"origins=\('http://a.test',\)"),
    ],
)
def test_an_option_that_no_server_has_is_refused(options, message):
    with pytest.raises(KitError, match=message), server_file.running("model.gguf", **options):
        pass


def gone(process):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_server_is_gone_and_leaves_nothing(base, stop, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, "-m", "qlora_kit.cli", "serve", str(base)]
    command += ["--port", "0", "--context", "256"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        url = it.stdout.readline().split()[-1]
        assert list(tmp_path.iterdir())
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        body = {"messages": MOON, "max_tokens": 200, "ignore_eos": True, "stream": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        connection.getresponse().read(30)
        it.send_signal(stop)
        assert it.wait(10) == 0
        assert it.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KitError, match="Nothing answers"):
        client.models(url)


def test_a_server_ends_with_the_process_that_wanted_it(base, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    child = (
        "import sys, time; from qlora_kit import serve\n"
        "with serve.running(sys.argv[1], context=256, offline=sys.argv[2] == '1') as server:\n"
        "    print(server.pid, server.url, flush=True); time.sleep(60)"
    )
    offline = sys.platform.startswith("linux")
    command = [sys.executable, "-c", child, str(base), str(int(offline))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pid, url = parent.stdout.readline().split()
        it = psutil.Process(int(pid))
        assert client.ask(url, MOON, max_new_tokens=2).tokens == 2
        assert (has_seccomp_filter(it.pid), remote_addresses(it.pid)) == (offline, ())
        parent.kill()
    assert gone(it)
    assert not list(tmp_path.glob("*/*.sock"))


def serve_command(*arguments):
    command = [sys.executable, "-m", "qlora_kit.cli", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.gguf"], "is not there"),
        (["text.gguf"], "is not a GGUF file"),
        (["adapter.gguf"], "is a LoRA adapter, not a model"),
        (["model.gguf", "--lora", "a=model.gguf"], "is not a LoRA adapter"),
        (["model.gguf", "--lora", "a=adapter.gguf"], "does not fit"),
        (["model.gguf", "--lora", "adapter.gguf"], "NAME=ADAPTER.gguf"),
        (["model.gguf", "--lora", "model=adapter.gguf"], "cannot be called 'model'"),
        (["model.gguf", "--lora", "a b=adapter.gguf"], "cannot be called 'a b'"),
        (["model.gguf", "--host", "0.0.0.0"], "needs --api-key"),
        (["model.gguf", "--host", "::"], "needs --api-key"),
        (["model.gguf", "--host", "0.0.0.0", "--api-key", ""], "API key is empty"),
        (["model.gguf", "--api-key", "k", "--origin", "*"], "name each --origin"),
        (["model.gguf", "--port", "0"], "llama.cpp cannot load"),
        (["model.gguf", "--host", "192.0.2.1", "--api-key", "k"], "cannot listen"),
    ],
)
def test_what_cannot_be_served_is_one_message(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.gguf")
    write_adapter(tmp_path / "adapter.gguf", sizes=(8, 16), names=["blk.0.attn_q.weight"])
    (tmp_path / "text.gguf").write_text("hello")
    done = serve_command(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_busy_port_is_named_before_anything_is_loaded(tmp_path):
    model = write_model(tmp_path / "model.gguf")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve_command(model, "--port", port)
        assert done.returncode == 1
        assert f"Port {port} on 127.0.0.1 is taken" in done.stderr
        with (
            pytest.raises(KitError, match=r"The server ended: Port .* is taken"),
            server_file.running(model, port=port),
        ):
            pass
