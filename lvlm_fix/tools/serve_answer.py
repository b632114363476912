"""What `serve` answers: texts and errors in OpenAI's shape."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from lvlm_fix.errors import LvlmFixError
from lvlm_fix.tools.serve_request import Body, Refused
from lvlm_fix.tools.serve_worker import Busy
from lvlm_fix.tools.serve_writer import Begun, Ended, Event, Piece

__all__ = ["Answer", "told"]

LOG = logging.getLogger(__name__)


class Answer:
    """The answer to one request, in OpenAI's shape."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time())}

    async def whole(self, events: AsyncGenerator[Event]) -> Response:
        """One JSON document."""
        texts: dict[int, str] = dict.fromkeys(range(self.body.n or 1), "")
        ends: dict[int, Ended] = {}
        prompt = 0
        async with aclosing(events):
            async for event in events:
                match event:
                    case Begun(prompt):
                        pass
                    case Piece(index, text):
                        texts[index] += text
                    case Ended(index):
                        ends[index] = event
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "finish_reason": ends[index].reason,
                "logprobs": None,
            }
            for index, text in texts.items()
        ]
        usage = self.usage(prompt, sum(end.tokens for end in ends.values()))
        kind = {"object": "chat.completion", "model": self.body.model}
        return JSONResponse(self.head | kind | {"choices": choices, "usage": usage})

    async def streamed(self, events: AsyncGenerator[Event]) -> Response:
        """A stream, once there is text: what is wrong before that is an error of its own."""
        begun = await anext(events)
        return StreamingResponse(self.lines(begun, events), media_type="text/event-stream")

    async def lines(self, begun: Event, events: AsyncGenerator[Event]) -> AsyncGenerator[str]:
        """Server-sent events, and `[DONE]` behind the last."""
        tokens = 0
        async with aclosing(events):
            for index in range(self.body.n or 1):
                yield self.chunk([choice(index, {"role": "assistant", "content": ""})])
            try:
                async for event in events:
                    match event:
                        case Piece(index, text):
                            yield self.chunk([choice(index, {"content": text})])
                        case Ended(index, reason, count):
                            tokens += count
                            yield self.chunk([choice(index, {}, reason)])
                        case Begun():
                            pass
            except Exception as error:
                yield line(shaped(error)[1])
                return
        if self.body.wants_usage and isinstance(begun, Begun):
            yield self.chunk([], self.usage(begun.prompt_tokens, tokens))
        yield "data: [DONE]\n\n"

    def chunk(self, choices: list[Any], usage: dict[str, int] | None = None) -> str:
        """One event of a stream."""
        kind = {"object": "chat.completion.chunk", "model": self.body.model, "choices": choices}
        return line(self.head | kind | ({"usage": usage} if self.body.wants_usage else {}))

    def usage(self, prompt: int, tokens: int) -> dict[str, int]:
        """Counts of tokens."""
        return {
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
        }


def choice(index: int, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    """The one choice of an event."""
    return {"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}


def line(document: Mapping[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(document)}\n\n"


def shaped(error: Exception) -> tuple[int, dict[str, Any]]:
    """An error as HTTP status and OpenAI's JSON."""
    match error:
        case Refused():
            status, message, code = error.status, error.message, error.code
        case HTTPException():
            status, message, code = error.status_code, str(error.detail), None
        case Busy():
            status, message, code = 429, str(error), "queue_full"
        case LvlmFixError():
            status, message, code = 400, str(error), None
        case _:
            LOG.error("a request failed", exc_info=error)
            status, message, code = 500, "the server failed; its log says why", None
    kind = "invalid_request_error" if status < 500 else "server_error"
    return status, {"error": {"message": message, "type": kind, "param": None, "code": code}}


async def told(_: Request, error: Exception) -> Response:
    """The answer to a request that failed."""
    status, document = shaped(error)
    headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}}.get(status)
    return JSONResponse(document, status, headers=headers)
