"""The front of the server: OpenAI's routes, checked, then passed to llama.cpp behind it.

llama.cpp listens on a socket file that only this process reaches. The front adds what it lacks:
an adapter per request by the name of the model, one list of models, and refusals that
OpenAI's clients understand.
"""

import asyncio
import hmac
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

MAX_BODY = 2 << 20  # bytes of one request; a book of 300 pages is half of it
ROOM = 56  # requests that llama.cpp is handed at once; the others wait here
_PUBLIC = ("/health", "/v1/health")


@dataclass(frozen=True)
class Front:
    """What is served, where llama.cpp listens, and who may ask.

    adapters: their names, in the order that llama.cpp loaded them. origins: of web pages that
    may ask. served: (model, outcome) to how often, for the metrics.
    """

    upstream: Path
    base: str
    adapters: tuple[str, ...] = ()
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    started: int = field(default_factory=lambda: int(time.time()))
    served: Counter[tuple[str, str]] = field(default_factory=Counter)

    def scales(self, model: str) -> list[dict[str, float]]:
        """Every adapter with its scale; one left out would keep another request's cache alive.

        Args:
            model: the name asked for.
        """
        return [{"id": i, "scale": float(n == model)} for i, n in enumerate(self.adapters)]


_FRONT = web.AppKey("front", Front)
_SESSION = web.AppKey("session", aiohttp.ClientSession)
_ROOM = web.AppKey("room", asyncio.Semaphore)


def build(front: Front) -> web.Application:
    """The web application; run it with handlers that are canceled when a client hangs up.

    Args:
        front: what it serves.
    """
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_guard])
    app[_FRONT] = front
    app.cleanup_ctx.append(_upstream)
    app.on_response_prepare.append(_name_origin)
    for prefix in ("", "/v1"):
        app.router.add_get(f"{prefix}/health", _health)
        app.router.add_get(f"{prefix}/models", _models)
        app.router.add_post(f"{prefix}/chat/completions", _complete)
        app.router.add_post(f"{prefix}/completions", _complete)
    app.router.add_get("/metrics", _metrics)
    for path in ("/tokenize", "/detokenize", "/apply-template"):
        app.router.add_post(path, _pass_on)
    return app


async def _upstream(app: web.Application) -> AsyncIterator[None]:
    # llama.cpp keeps a thread for each open connection, so none is kept beyond its request.
    connector = aiohttp.UnixConnector(str(app[_FRONT].upstream), limit=0, force_close=True)
    app[_ROOM] = asyncio.Semaphore(ROOM)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        app[_SESSION] = session
        yield


@web.middleware
async def _guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Who may ask; and whatever goes wrong is told in OpenAI's form."""
    front = request.app[_FRONT]
    origin = request.headers.get("Origin")
    if origin and not {origin, "*"} & set(front.origins):
        return _error(403, f"Pages from {origin} may not ask this server.", "origin_not_allowed")
    if origin and request.method == "OPTIONS":
        return web.Response(status=204)
    if front.api_key and request.path not in _PUBLIC:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(errors="replace"), front.api_key.encode()):
            return _error(401, "A valid API key is needed.", "invalid_api_key")
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        return _error(413, f"A request may have {MAX_BODY:,} bytes.", "request_too_large")
    except web.HTTPException as problem:
        return _error(problem.status, f"{problem.reason}: {request.path}", "not_found")
    except aiohttp.ClientError as problem:
        return _error(502, f"llama.cpp does not answer: {problem}", "server_error")


async def _name_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Tell the browser that this page may read the answer; others were refused before."""
    if "Origin" in request.headers and response.status != 403:
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        response.headers["Vary"] = "Origin"


def _error(status: int, message: str, code: str) -> web.Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return web.json_response({"error": error}, status=status)


async def _health(request: web.Request) -> web.StreamResponse:
    async with request.app[_SESSION].get("http://llama/health") as told:
        return web.json_response(await told.json(), status=told.status)


async def _models(request: web.Request) -> web.StreamResponse:
    front = request.app[_FRONT]
    common = {"object": "model", "created": front.started, "owned_by": "qlora-kit"}
    rows = [{"id": front.base, **common}]
    rows += [{"id": name, "parent": front.base, **common} for name in front.adapters]
    return web.json_response({"object": "list", "data": rows})


async def _metrics(request: web.Request) -> web.StreamResponse:
    """llama.cpp's own, and who was asked how often with what outcome."""
    async with request.app[_SESSION].get("http://llama/metrics") as told:
        text = (await told.text()).rstrip()
    name = "qlora_kit:requests_total"
    lines = [text, f"# HELP {name} Requests by model and outcome", f"# TYPE {name} counter"]
    for (model, outcome), count in sorted(request.app[_FRONT].served.items()):
        lines.append(f'{name}{{model={json.dumps(model)},outcome="{outcome}"}} {count}')
    return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")


async def _complete(request: web.Request) -> web.StreamResponse:
    front = request.app[_FRONT]
    body = await _body(request)
    if isinstance(body, web.Response):
        return body
    model = body.get("model") or front.base
    if model not in (front.base, *front.adapters):
        known = ", ".join((front.base, *front.adapters))
        return _error(404, f"There is no model {model!r}; there are: {known}.", "model_not_found")
    body["model"] = model
    body["lora"] = front.scales(model)
    outcome = "hung_up"
    try:
        response = await _send(request, body)
        outcome = str(response.status)
        return response
    finally:
        front.served[model, outcome] += 1


async def _pass_on(request: web.Request) -> web.StreamResponse:
    body = await _body(request)
    return body if isinstance(body, web.Response) else await _send(request, body)


async def _body(request: web.Request) -> dict[str, Any] | web.Response:
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as problem:
        return _error(400, f"The request is not valid JSON: {problem}", "invalid_json")
    if not isinstance(body, dict):
        return _error(400, "The request must be a JSON object.", "invalid_json")
    return body


async def _send(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Hand it to llama.cpp, and each piece of the answer to the client as it comes.

    When the client hangs up this is canceled, the connection behind is closed, and llama.cpp
    stops: in a stream with the next token; without one within a second when nobody else asks,
    else at the end of that answer, since each result for another puts its look off.
    """
    where = f"http://llama{request.path}"
    async with request.app[_ROOM], request.app[_SESSION].post(where, json=body) as told:
        kind = told.headers.get("Content-Type", "application/json")
        response = web.StreamResponse(status=told.status, headers={"Content-Type": kind})
        await response.prepare(request)
        async for piece in told.content.iter_any():
            await response.write(piece)
        await response.write_eof()
    return response
