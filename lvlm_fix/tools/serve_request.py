"""What a client may send to `serve`, checked; and what it is told when it may not."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lvlm_fix.tools.serve_pictures import bytes_of
from lvlm_fix.tools.serve_worker import Asked, Choice, Limits

__all__ = ["Body", "Refused"]

Zero = Annotated[float, Field(ge=0, le=0)] | None  # a setting that only its neutral value fits
Stop = Annotated[str, Field(min_length=1, max_length=200)]


class Refused(Exception):
    """A request that is answered with an error: its message, HTTP status and OpenAI's code."""

    def __init__(self, message: str, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.code = message, status, code

    @staticmethod
    def of(error: ValidationError) -> Refused:
        """The first thing that is wrong with a body."""
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        if first["type"] == "extra_forbidden":
            return Refused(f"{where}: this server has no such setting; leave it out")
        return Refused(f"{where}: {first['msg']}")


class Strict(BaseModel):
    """Nothing unknown is passed over in silence."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Address(Strict):
    """Where a picture is: in the address itself."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class Words(Strict):
    """A part of a turn: text."""

    type: Literal["text"]
    text: str


class Picture(Strict):
    """A part of a turn: a picture."""

    type: Literal["image_url"]
    image_url: Address | str


Part = Annotated[Words | Picture, Field(discriminator="type")]


class Turn(Strict):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None
    refusal: None = None  # comes with an answer that is sent back

    def parts(self) -> list[Words | Picture]:
        """The content as parts."""
        text = self.content
        return [Words(type="text", text=text)] if isinstance(text, str) else text


class StreamOptions(Strict):
    """What a stream holds besides text."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextFormat(Strict):
    """The one form of an answer."""

    type: Literal["text"]


class Body(Strict):
    """The body of a chat completion. A setting that is not here is refused, never passed over."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    # neutral values only
    frequency_penalty: Zero = None
    presence_penalty: Zero = None
    logprobs: Literal[False] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    response_format: TextFormat | None = None
    # of no effect on a text
    user: str | None = None
    dataset: str | None = None  # what VLMEvalKit asks for, told by its client for LMDeploy
    metadata: dict[str, Any] | None = None
    store: Literal[False] | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def asked(self, choice: Choice, limits: Limits) -> Asked:
        """The request as the writer takes it. Raises `Refused`."""
        tokens = self.max_completion_tokens or self.max_tokens
        if tokens is not None and tokens > limits.tokens:
            raise Refused(f"max_tokens is {tokens}; at most {limits.tokens} are taken")
        if self.messages[-1].role != "user":
            raise Refused(f"the last message must be the user's, not {self.messages[-1].role}'s")
        chat, pictures = list[dict[str, Any]](), list[bytes]()
        for turn in self.messages:
            content = list[dict[str, Any]]()
            for part in turn.parts():
                if isinstance(part, Words):
                    content.append({"type": "text", "text": part.text})
                    continue
                if turn.role != "user":
                    raise Refused(f"pictures belong in the user's messages, not the {turn.role}'s")
                at = part.image_url
                pictures.append(bytes_of(at if isinstance(at, str) else at.url))
                content.append({"type": "image"})
            role = "system" if turn.role == "developer" else turn.role
            chat.append({"role": role, "content": content})
        if len(pictures) > limits.pictures:
            raise Refused(f"{len(pictures)} pictures; at most {limits.pictures} are taken")
        if not any(part["type"] == "image" or part["text"].strip() for part in chat[-1]["content"]):
            raise Refused("the last message is empty")
        stop = self.stop or []
        return Asked(
            choice=choice,
            chat=chat,
            pictures=pictures,
            max_tokens=tokens or limits.tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            n=self.n or 1,
            seed=secrets.randbits(62) if self.seed is None else self.seed % 2**62,
            options=self.options(),
        )

    def options(self) -> dict[str, Any]:
        """What the stock generate is given: greedy at temperature 0, and where nothing is said."""
        out: dict[str, Any] = {"do_sample": False, "num_beams": 1}
        if self.repetition_penalty is not None:
            out["repetition_penalty"] = self.repetition_penalty
        narrowed = self.top_p is not None or self.top_k is not None
        temperature = (1.0 if narrowed else 0.0) if self.temperature is None else self.temperature
        if temperature > 0:
            top = {"top_p": self.top_p or 1.0, "top_k": max(self.top_k or 0, 0)}
            out |= {"do_sample": True, "temperature": temperature} | top
        return out
