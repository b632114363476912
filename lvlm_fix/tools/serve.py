"""`lvlm-fix serve`: one model behind an OpenAI-style endpoint, plain, by method, and checked.

Pictures come inside the request, as `data:` URLs; no file and no address that a request names is
ever opened. See docs/design/serve.md for what is taken from transformers' own server.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lvlm_fix.errors import LvlmFixError, SettingError
from lvlm_fix.tools.serve_answer import Answer, told
from lvlm_fix.tools.serve_request import Body, Refused
from lvlm_fix.tools.serve_worker import Choice, Worker

__all__ = ["Server", "listen"]

READING = 60  # seconds in which a body must have come


def listen(server: Server, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve until the process is told to end; `ready` is told the port. Raises `SettingError`."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise SettingError(
            f"cannot listen on {host}:{port}: {error}; take another --port"
        ) from error
    with listening:
        ready(listening.getsockname()[1])
        config = uvicorn.Config(
            server.app(), log_level="warning", timeout_graceful_shutdown=5, lifespan="on"
        )
        uvicorn.Server(config).run(sockets=[listening])


class Server:
    """The routes. `choices` are the models that a client may name, and what acts in each."""

    def __init__(
        self, worker: Worker, choices: Mapping[str, Choice], key: str | None = None
    ) -> None:
        self.worker, self.choices, self.key = worker, choices, key
        self.began = int(time.time())

    def app(self) -> Starlette:
        """The application, as uvicorn takes it."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncGenerator[None]:
            yield
            self.worker.close()

        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ],
            exception_handlers=dict.fromkeys(
                (HTTPException, Refused, LvlmFixError, Exception), told
            ),
            lifespan=lifespan,
        )

    async def health(self, _: Request) -> Response:
        """Whether the server is up, and how many requests it has."""
        return JSONResponse({"status": "ok", "waiting": self.worker.waiting})

    async def models(self, request: Request) -> Response:
        """Every name that a client may choose, or the one it asks for."""
        self.admit(request)
        rows = [
            {"id": name, "object": "model", "created": self.began, "owned_by": "lvlm-fix"}
            for name in self.choices
        ]
        if name := request.path_params.get("name"):
            self.choice_of(name)
            return JSONResponse(next(row for row in rows if row["id"] == name))
        return JSONResponse({"object": "list", "data": rows})

    async def chat(self, request: Request) -> Response:
        """A text about pictures, whole or as it is written."""
        self.admit(request)
        try:
            body = Body.model_validate_json(await self.read(request))
        except ValidationError as error:
            raise Refused.of(error) from None
        asked = body.asked(self.choice_of(body.model), self.worker.limits)
        answer, events = Answer(body), self.worker.write(asked)
        work = answer.streamed(events) if body.stream else answer.whole(events)
        return await unless_gone(request, work)

    def admit(self, request: Request) -> None:
        """Raise `Refused` where the API key is wrong."""
        if self.key is None:
            return
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, f"Bearer {self.key}".encode()):
            raise Refused("the API key is missing or wrong", 401, "invalid_api_key")

    def choice_of(self, name: str) -> Choice:
        """What is behind a model's name. Raises `Refused`."""
        if name not in self.choices:
            names = ", ".join(self.choices)
            raise Refused(f"there is no model {name!r}; there are: {names}", 404, "model_not_found")
        return self.choices[name]

    async def read(self, request: Request) -> bytes:
        """The body, no larger than may be. Raises `Refused`."""
        most, size, parts = self.worker.limits.size, 0, list[bytes]()
        try:
            async with asyncio.timeout(READING):
                async for part in request.stream():
                    size += len(part)
                    if size <= most:
                        parts.append(part)
                    elif size > 8 * most:  # so far it is read, so that the client hears of it
                        break
        except TimeoutError:
            raise Refused(f"the body did not arrive within {READING} seconds", 408) from None
        if size > most:
            raise Refused(f"the body is larger than {most:,} bytes", 413)
        return b"".join(parts)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """What `work` gives. A client that leaves ends it, so that its place is free again."""
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(left(request))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else Response(status_code=499)
    finally:
        for task in tasks:
            task.cancel()


async def left(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
