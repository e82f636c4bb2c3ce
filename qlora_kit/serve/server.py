"""An OpenAI-compatible server on this machine: llama.cpp in one process with its front.

`run` serves until it is stopped; `running` does the same in a process of its own, for a notebook
or a test that wants to ask, measure, and stop it.
"""

import contextlib
import dataclasses
import errno
import ipaddress
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import GB, share_freed_memory, usable_cores
from .gguf_check import Header, read_adapter, read_model

KEY_VARIABLE = "QLORA_KIT_API_KEY"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_READY = re.compile(r"^Serving .* at (http://\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Settings:
    """What to serve, where, and to whom.

    adapters: name to GGUF LoRA file; a request chooses one by `model`.
    host: beyond loopback only with an api_key. port: 0 takes a free one.
    origins: of web pages that may ask, for example "http://localhost:3000".
    parallel: conversations answered at once; others wait. context: tokens of each.
    threads: 0 takes every core. offline: the kernel refuses any connection to the outside.
    parent: stop when this process is gone; 0 is nobody.
    """

    model: Path
    adapters: Mapping[str, Path] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    parallel: int = 4
    context: int = 2048
    threads: int = 0
    offline: bool = False
    verbose: bool = False
    parent: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.origins, str):  # would be taken for many pages of one letter
            raise KitError(f"origins are several web pages: origins=({self.origins!r},).")

    @property
    def name(self) -> str:
        """What the model is called in requests: the file's name without .gguf."""
        return self.model.stem

    def as_json(self) -> str:
        """All settings as a text, the API key among them."""
        return json.dumps(dataclasses.asdict(self), default=os.fspath)

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """The settings that were written as a text.

        Args:
            text: from `as_json`.

        Returns:
            Equal settings.
        """
        values = json.loads(text)
        values["model"] = Path(values["model"])
        values["adapters"] = {name: Path(path) for name, path in values["adapters"].items()}
        values["origins"] = tuple(values["origins"])
        return cls(**values)


def check(settings: Settings) -> Header:
    """Everything that can be seen to be wrong before the model is loaded.

    Args:
        settings: what is to be served.

    Returns:
        The model's header.

    Raises:
        KitError: open to others without a key, a wildcard with one, a wrong file or name.
    """
    if settings.api_key is not None and not settings.api_key.strip():
        raise KitError("The API key is empty; leave it out or give one.")
    if not _is_loopback(settings.host) and settings.api_key is None:
        raise KitError(
            f"On {settings.host} others could ask the server too, so it needs --api-key KEY (or "
            f"{KEY_VARIABLE}). For this machine alone leave out --host."
        )
    if "*" in settings.origins and settings.api_key is not None:
        raise KitError("With an API key, name each --origin; '*' lets any web page use the key.")
    if settings.parallel < 1 or settings.context < 64:
        raise KitError("At least one conversation in parallel, with 64 tokens of context.")
    base = read_model(settings.model)
    for name, path in settings.adapters.items():
        if not _NAME.fullmatch(name) or name == settings.name:
            raise KitError(
                f"An adapter cannot be called {name!r}: use letters, digits, '.', '_' and '-', and "
                "another name than the model's."
            )
        read_adapter(path, base)
    return base


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(settings: Settings) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        settings: what to serve.

    Raises:
        KitError: see `check`; a busy port, or a model that llama.cpp cannot load.
    """
    base = check(settings)
    if not hasattr(socket, "AF_UNIX"):
        raise KitError("qlora-kit serve needs Linux or macOS; on Windows run it in WSL.")
    if not base.template:
        print("qlora-kit: the model has no chat template; llama.cpp takes ChatML's, which may not "
              "be the one that it was trained with.", file=sys.stderr)  # fmt: skip
    try:
        from aiohttp import web

        from . import routes
    except ImportError as problem:
        raise KitError(_missing("aiohttp")) from problem
    with (
        contextlib.closing(_listen(settings.host, settings.port)) as listener,
        tempfile.TemporaryDirectory(prefix="qlora-kit-") as folder,
    ):
        upstream = Path(folder) / "llama.sock"
        llama = _load(settings, base, upstream)
        if settings.offline:
            from .seccomp import seal

            seal()
        names = tuple(settings.adapters)
        app = routes.build(
            routes.Front(upstream, settings.name, names, settings.api_key, settings.origins)
        )
        if settings.parent:
            threading.Thread(target=_outlive, args=(settings.parent,), daemon=True).start()
        host, port = listener.getsockname()[:2]
        what = " and ".join(filter(None, [settings.name, ", ".join(names)]))
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        print(f"Serving {what} at http://{place}\nCtrl-C stops.", flush=True)
        web.run_app(app, sock=listener, print=None, access_log=None, shutdown_timeout=1.0,
                    handler_cancellation=True)  # fmt: skip
        del llama  # waits until its threads are gone


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before the model is loaded: a busy one is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as problem:
        code = getattr(problem, "errno", None)
        if code == errno.EADDRINUSE:
            said = f"Port {port} on {host} is taken by another program."
        else:
            said = f"The server cannot listen on port {port} of {host}: {problem}."
        raise KitError(f"{said} Choose another with --port; 0 takes a free one.") from problem


def _load(settings: Settings, base: Header, upstream: Path) -> Any:
    try:
        import xllamacpp
    except ImportError as problem:
        raise KitError(_missing("xllamacpp")) from problem
    from .routes import ROOM

    share_freed_memory()
    context = min(settings.context, base.context or settings.context)
    params = xllamacpp.CommonParams()
    params.model.path = str(base.path)
    params.model_alias = {settings.name}  # answers name it; else they tell the file's whole path
    params.hostnames = [str(upstream)]
    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(str(Path(path).expanduser()), 0.0)
        for path in settings.adapters.values()
    ]
    params.n_parallel = settings.parallel
    params.n_ctx = context * settings.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = (
        settings.threads or usable_cores()
    )
    params.n_threads_http = ROOM + 8  # the rest is for health and metrics
    # Prompts that left their slot are kept with no word of their adapter, and take gigabytes.
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.endpoint_metrics = True
    params.endpoint_slots = False
    params.ui = False
    params.verbosity = 3 if settings.verbose else 1  # 1: errors
    try:
        return xllamacpp.Server(params)
    except RuntimeError as problem:
        raise KitError(
            f"llama.cpp cannot load {base.path}; what it says stands above. More with --verbose; "
            "if memory is short, a smaller --context or --parallel helps."
        ) from problem


def _missing(package: str) -> str:
    return f"{package} is needed to serve; install it with: pip install 'qlora-kit[serve]'"


def _outlive(parent: int) -> None:
    """End with the process that wanted this server, however that one ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True)
class Server:
    """A server in a process of its own. log: the file with what it said."""

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
        options: others of `Settings`; by itself the port is a free one, and this process is the
            parent.

    Yields:
        The server.

    Raises:
        KitError: an option that is no setting, or it did not start; with what it said.
    """
    known = [setting.name for setting in dataclasses.fields(Settings)]
    if unknown := sorted(options.keys() - set(known)):
        raise KitError(
            f"A server has no setting {', '.join(unknown)}; there are {', '.join(known)}."
        )
    if api_key is None:
        api_key = os.environ.get(KEY_VARIABLE) or None
    settings = Settings(
        Path(model),
        {name: Path(path) for name, path in (adapters or {}).items()},
        api_key=api_key,
        **{"port": 0, "parent": os.getpid(), **options},
    )
    command = [sys.executable, "-m", "qlora_kit.serve"]
    handle, name = tempfile.mkstemp(prefix="qlora-kit-serve-", suffix=".log")
    # The settings go through a file without a name, so that nobody else can read the key.
    with tempfile.TemporaryFile() as sent, os.fdopen(handle, "wb") as output:
        sent.write(settings.as_json().encode())
        sent.seek(0)
        process = subprocess.Popen(command, stdin=sent, stdout=output, stderr=output)
    try:
        yield Server(_ready(process, Path(name), wait), process.pid, Path(name))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(process: subprocess.Popen[bytes], log: Path, wait: float) -> str:
    """Its address, as soon as it says that it serves."""
    end = time.monotonic() + wait
    while time.monotonic() < end and process.poll() is None:
        if found := _READY.search(log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.05)
    late = "ended" if process.poll() is not None else f"was not ready after {wait:.0f} seconds"
    said = log.read_text(errors="replace").strip()[-2000:].removeprefix("qlora-kit: ")
    raise KitError(f"The server {late}: {said or 'it said nothing'} (log: {log})")
