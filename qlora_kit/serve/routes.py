"""The routes of OpenAI's API: each request is checked, then passed to llama.cpp behind them.

llama.cpp listens on a socket file that only this process reaches. Here it gets what it lacks: an
adapter per request by the name of the model, one list of models, and refusals that OpenAI's
clients understand.
"""

import asyncio
import hmac
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from .config import ServerConfig
from .llama_cpp import CONNECTIONS

MAX_BODY = 2 << 20  # bytes of one request; a book of 300 pages is half of it
_PUBLIC = ("/health", "/v1/health")


class _RefusalError(Exception):
    """args: the HTTP status, a sentence, and OpenAI's code for it."""


class Routes:
    """The handlers of the server.

    Args:
        config: what is served, and who may ask; the adapters are in llama.cpp's order.
        llama_socket: where llama.cpp listens.
    """

    llama: aiohttp.ClientSession  # while the application runs

    def __init__(self, config: ServerConfig, llama_socket: Path):
        self.config, self.llama_socket = config, llama_socket
        self.started = int(time.time())
        self.outcomes: Counter[tuple[str, str]] = Counter()  # (model, outcome) to how often
        # Some of llama.cpp's connections stay free for health and metrics.
        self.slots = asyncio.Semaphore(CONNECTIONS - 8)

    def application(self) -> web.Application:
        """The web application; run it with handlers that are canceled when a client hangs up."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self.guard])
        app.cleanup_ctx.append(self.connect)
        app.on_response_prepare.append(_allow_origin)
        for prefix in ("", "/v1"):
            app.router.add_get(f"{prefix}/health", self.health)
            app.router.add_get(f"{prefix}/models", self.models)
            app.router.add_post(f"{prefix}/chat/completions", self.complete)
            app.router.add_post(f"{prefix}/completions", self.complete)
        app.router.add_get("/metrics", self.metrics)
        for path in ("/tokenize", "/detokenize", "/apply-template"):
            app.router.add_post(path, self.pass_on)
        return app

    async def connect(self, app: web.Application) -> AsyncIterator[None]:
        """Hold the connections to llama.cpp while the application runs."""
        # llama.cpp keeps a thread for each open connection, so none is kept beyond its request.
        connector = aiohttp.UnixConnector(str(self.llama_socket), limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self.llama:
            yield

    @web.middleware
    async def guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Who may ask; and whatever goes wrong is an error in OpenAI's form."""
        origin = request.headers.get("Origin")
        try:
            if origin and not {origin, "*"} & set(self.config.origins):
                reason = f"Pages from {origin} may not ask this server."
                raise _RefusalError(403, reason, "origin_not_allowed")
            if origin and request.method == "OPTIONS":  # a browser asks beforehand, without the key
                return web.Response(status=204)
            self.require_key(request)
            return await handler(request)
        except _RefusalError as problem:
            return _error(*problem.args)
        except web.HTTPRequestEntityTooLarge:
            return _error(413, f"A request may have {MAX_BODY:,} bytes.", "request_too_large")
        except web.HTTPException as problem:
            return _error(problem.status, f"{problem.reason}: {request.path}", "not_found")
        except aiohttp.ClientError as problem:
            return _error(502, f"llama.cpp does not answer: {problem}", "server_error")

    def require_key(self, request: web.Request) -> None:
        api_key = self.config.api_key
        if not api_key or request.path in _PUBLIC:
            return
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(key.encode(errors="replace"), api_key.encode()):
            raise _RefusalError(401, "A valid API key is needed.", "invalid_api_key")

    async def health(self, request: web.Request) -> web.StreamResponse:
        async with self.llama.get("http://llama/health") as health:
            return web.json_response(await health.json(), status=health.status)

    async def models(self, request: web.Request) -> web.StreamResponse:
        config = self.config
        common = {"object": "model", "created": self.started, "owned_by": "qlora-kit"}
        rows = [{"id": config.name, **common}]
        rows += [{"id": name, "parent": config.name, **common} for name in config.adapters]
        return web.json_response({"object": "list", "data": rows})

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """llama.cpp's own, and who was asked how often with what outcome."""
        async with self.llama.get("http://llama/metrics") as metrics:
            text = (await metrics.text()).rstrip()
        name = "qlora_kit:requests_total"
        lines = [text, f"# HELP {name} Requests by model and outcome", f"# TYPE {name} counter"]
        for (model, outcome), count in sorted(self.outcomes.items()):
            lines.append(f'{name}{{model={json.dumps(model)},outcome="{outcome}"}} {count}')
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        config = self.config
        body = await _body(request)
        model = body.get("model") or config.name
        names = (config.name, *config.adapters)
        if model not in names:
            reason = f"There is no model {model!r}; there are: {', '.join(names)}."
            raise _RefusalError(404, reason, "model_not_found")
        body["model"] = model
        # Each adapter has its scale: one left out would keep another request's cache alive.
        body["lora"] = [
            {"id": i, "scale": float(name == model)} for i, name in enumerate(names[1:])
        ]
        outcome = "hung_up"
        try:
            response = await self.send(request, body)
            outcome = str(response.status)
            return response
        finally:
            self.outcomes[model, outcome] += 1

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        return await self.send(request, await _body(request))

    async def send(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """Hand it to llama.cpp, and each piece of the answer to the client as it comes.

        When the client hangs up this is canceled, the connection behind is closed, and llama.cpp
        stops: in a stream with the next token; without one within a second when nobody else asks,
        else at the end of that answer, since each result for another puts its look off.
        """
        url = f"http://llama{request.path}"
        async with self.slots, self.llama.post(url, json=body) as answer:
            kind = answer.headers.get("Content-Type", "application/json")
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": kind})
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
        return response


async def _allow_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Tell the browser that this page may read the answer; others were refused before."""
    if "Origin" in request.headers and response.status != 403:
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        response.headers["Vary"] = "Origin"


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as problem:
        reason = f"The request is not valid JSON: {problem}"
        raise _RefusalError(400, reason, "invalid_json") from problem
    if not isinstance(body, dict):
        raise _RefusalError(400, "The request must be a JSON object.", "invalid_json")
    return body


def _error(status: int, message: str, code: str) -> web.Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return web.json_response({"error": error}, status=status)
