"""An OpenAI-compatible server on this machine: llama.cpp in one process with the routes before it.

`run` serves until it is stopped; `running` does the same in a process of its own, for a notebook
or a test that wants to ask, measure, and stop it.
"""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import GB, share_freed_memory, write_text
from .config import KEY_VARIABLE, ServerConfig, require_servable
from .llama_cpp import optional_package, start_llama_cpp
from .seccomp import block_network


def run(config: ServerConfig) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        config: what to serve.

    Raises:
        KitError: see `require_servable`; a busy port, or a model that llama.cpp cannot load.
    """
    base = require_servable(config)
    if not hasattr(socket, "AF_UNIX"):
        raise KitError("qlora-kit serve needs Linux or macOS; on Windows run it in WSL.")
    if "tokenizer.chat_template" not in base.metadata:
        warning = (
            "qlora-kit: the model has no chat template; llama.cpp takes ChatML's, which may "
            "not be the one that it was trained with."
        )
        print(warning, file=sys.stderr)
    optional_package("aiohttp")
    from aiohttp import web

    from .routes import Routes

    trained = base.metadata.get(f"{base.architecture}.context_length") or config.context
    config = replace(config, context=min(config.context, trained))
    with (
        contextlib.closing(_listen(config.host, config.port)) as listener,
        tempfile.TemporaryDirectory(prefix="qlora-kit-") as folder,
    ):
        llama_socket = Path(folder) / "llama.sock"
        share_freed_memory()
        llama = start_llama_cpp(config, scale=0.0, address=llama_socket)
        if config.offline:
            block_network()
        routes = Routes(config, llama_socket)
        if config.parent:
            threading.Thread(target=_end_with, args=(config.parent,), daemon=True).start()
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        names = " and ".join(filter(None, [config.name, ", ".join(config.adapters)]))
        print(f"Serving {names} at {url}\nCtrl-C stops.", flush=True)
        if config.address_file is not None:
            write_text(config.address_file, url)
        web.run_app(
            routes.application(),
            sock=listener,
            print=None,
            access_log=None,
            shutdown_timeout=1.0,
            handler_cancellation=True,
        )
        del llama  # waits until its threads are gone


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before the model is loaded, so that a busy one is an error at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as problem:
        reason = f"The server cannot listen on port {port} of {host}: {problem}."
        if getattr(problem, "errno", None) == errno.EADDRINUSE:
            reason = f"Port {port} on {host} is taken by another program."
        raise KitError(f"{reason} Choose another with --port; 0 takes a free one.") from problem


def _end_with(parent: int) -> None:
    """Stop this server when its parent has ended, however that was."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True)
class Server:
    """A server in a process of its own. log: the file with its messages."""

    url: str
    pid: int
    log: Path

    def memory_gb(self) -> float:
        """The main memory that it holds now, in 10^9 bytes."""
        import psutil

        return float(psutil.Process(self.pid).memory_info().rss) / GB


@contextlib.contextmanager
def running(
    model: str | Path,
    adapters: Mapping[str, str | Path] | None = None,
    api_key: str | None = None,
    wait: float = 120.0,
    **options: Any,
) -> Iterator[Server]:
    """Inside, the model is served; at the end the server is stopped, whatever happened.

    Args:
        model: a GGUF file.
        adapters: name to GGUF LoRA file.
        api_key: that requests must bring; None takes the environment's QLORA_KIT_API_KEY, if any.
        wait: seconds that it may take to load.
        options: others of `ServerConfig`; by itself the port is a free one, and this process is
            the parent.

    Yields:
        The server.

    Raises:
        KitError: an option that is no setting, or it did not start; with its last messages.
    """
    from pydantic import TypeAdapter

    names = [setting.name for setting in fields(ServerConfig) if setting.name != "address_file"]
    if unknown := sorted(options.keys() - set(names)):
        raise KitError(
            f"A server has no setting {', '.join(unknown)}; there are {', '.join(names)}."
        )
    with tempfile.TemporaryDirectory(prefix="qlora-kit-") as folder:
        address_file = Path(folder) / "address"
        config = ServerConfig(
            Path(model),
            {name: Path(path) for name, path in (adapters or {}).items()},
            api_key=(os.environ.get(KEY_VARIABLE) or None) if api_key is None else api_key,
            address_file=address_file,
            **{"port": 0, "parent": os.getpid(), **options},
        )
        # The settings go through a file without a name, so that nobody else can read the key.
        with (
            tempfile.TemporaryFile() as settings,
            tempfile.NamedTemporaryFile(
                prefix="qlora-kit-serve-", suffix=".log", delete=False
            ) as output,
        ):
            settings.write(TypeAdapter(ServerConfig).dump_json(config))
            settings.seek(0)
            command = [sys.executable, "-m", "qlora_kit.serve"]
            process = subprocess.Popen(command, stdin=settings, stdout=output, stderr=output)
        log = Path(output.name)
        try:
            yield Server(_address(process, address_file, log, wait), process.pid, log)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[bytes], file: Path, log: Path, wait: float) -> str:
    """Its URL, as soon as it serves."""
    end = time.monotonic() + wait
    while time.monotonic() < end and process.poll() is None:
        if file.exists():
            return file.read_text(encoding="utf-8")
        time.sleep(0.05)
    late = "ended" if process.poll() is not None else f"was not ready after {wait:.0f} seconds"
    messages = log.read_text(errors="replace").strip()[-2000:].removeprefix("qlora-kit: ")
    raise KitError(f"The server {late}: {messages or 'it wrote nothing'} (log: {log})")
