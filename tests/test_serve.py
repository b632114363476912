"""`lvlm-fix serve`: a real process on a loopback port, the real client, and a hostile one."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

import lvlm_fix as lf
from lvlm_fix.ask.calibration import shipped
from lvlm_fix.ask.sentences import sentences
from lvlm_fix.errors import ImageError
from lvlm_fix.models import DESCRIBE, sample_photos
from lvlm_fix.tools.serve import Server, listen
from lvlm_fix.tools.serve_pictures import bytes_of, picture
from lvlm_fix.tools.serve_worker import Choice, Limits, Worker
from lvlm_fix.tools.serve_writer import steady

KEY = "sk-a-key"
PROMPT = "Describe."
# the server, with every file and address that it opens written to a log
WATCHED = """
import os, sys
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def hook(event, args):
    if event in ("open", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.exec"):
        os.write(log, f"{event} {args!r}\\n".encode(errors="replace"))
sys.addaudithook(hook)
from lvlm_fix.tools.cli import main
main()
"""

pytestmark = pytest.mark.xdist_group("serve")  # they share what takes long


@dataclass
class Running:
    """A server process."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0)

    def text(self, model: str, photo: Path, prompt: str = PROMPT, **more: Any) -> str:
        asked = {"model": model, "messages": turn(photo, prompt), "max_tokens": 16} | more
        found = self.client().chat.completions.create(**asked)
        return found.choices[0].message.content


@contextlib.contextmanager
def started(log: Path, *options: str) -> Generator[Running]:
    words = ["serve", "tiny", "--method", "vhr", "--method", "pai", "--port", "0", *options]
    words += ["--ask", "rewrite", "--set", "ask.threshold=100"]
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(log), *words],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"LVLM_FIX_API_KEY": KEY, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"http://\S+", line):
                yield Running(process, found[0], log)
                break
        else:
            pytest.fail("the server ended before it was ready")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with started(tmp_path_factory.mktemp("serve") / "opened.log") as running:
        yield running


def data_url(data: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def turn(photo: Path | str, prompt: str = PROMPT) -> list[Any]:
    url = photo if isinstance(photo, str) else data_url(photo.read_bytes())
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [image, {"type": "text", "text": prompt}]}]


def test_models_answer_by_name_and_as_the_library_does(server: Running, tiny, photos) -> None:
    every = [model.id for model in server.client().models.list()]
    names = ["tiny", "tiny+vhr", "tiny+pai"]
    assert every == names + [f"{name}+ask:rewrite" for name in names]
    assert server.client().models.retrieve("tiny+vhr").id == "tiny+vhr"
    texts = {name: [server.text(name, photo) for photo in photos] for name in names}
    for name, method in zip(names, ("none", "vhr", "pai"), strict=True):
        with lf.fix(tiny[0], method) if method != "none" else contextlib.nullcontext():
            opened = [lf.open_image(photo) for photo in photos]
            assert texts[name] == [
                lf.answer(*tiny, [image], [PROMPT], max_new_tokens=16)[0] for image in opened
            ]
    assert texts["tiny"] != texts["tiny+vhr"] != texts["tiny+pai"]


def test_a_checked_name_answers_as_the_library_does(server: Running, tiny, photos) -> None:
    check = lf.asked(threshold=100, processor=tiny[1])
    opened = lf.open_image(photos[0])
    with lf.fix(tiny[0], "vhr"):
        (text,) = lf.answer(*tiny, [opened], [PROMPT], max_new_tokens=48, custom_generate=check)
    assert server.text("tiny+vhr+ask:rewrite", photos[0], max_tokens=48) == text
    assert text != server.text("tiny+vhr", photos[0], max_tokens=48)


@pytest.mark.parametrize("use", ["mark", "drop", "rewrite"])
def test_a_checked_text_is_told_by_sentences(tiny, photos, use: str) -> None:
    coffee = next(photo for photo in photos if photo.stem == "coffee")
    check, curve = lf.asked(use=use, processor=tiny[1]), shipped("tiny")
    (wanted,) = lf.answer(
        *tiny, [lf.open_image(coffee)], [DESCRIBE], max_new_tokens=64, custom_generate=check
    )
    if use == "mark":
        wanted = check.checked[0].marked(curve)
        assert " %)" in wanted
    page = Server(Worker(*tiny, Limits()), {"tiny": Choice((), check, curve)})
    asked = {"model": "tiny", "messages": turn(coffee, DESCRIBE), "max_tokens": 64}
    with TestClient(page.app()) as client:

        def told(**more: Any) -> tuple[list[str], str]:
            """Pieces of a stream, and the whole text of an answer that is no stream."""
            lines = client.post("/v1/chat/completions", json=asked | more | {"stream": True}).text
            events = [json.loads(line[6:]) for line in lines.split("\n\n") if line[6:7] == "{"]
            deltas = [event["choices"][0]["delta"].get("content") for event in events]
            whole = client.post("/v1/chat/completions", json=asked | more).json()
            return [part for part in deltas if part], whole["choices"][0]["message"]["content"]

        parts, whole = told()
        assert "".join(parts) == whole == wanted
        assert len(parts) == len(sentences(wanted)) > (use != "drop")
        assert all(part.strip().endswith(".") for part in parts[:-1])
        word = wanted.split()[3]
        parts, whole = told(stop=[word])
        assert "".join(parts) == whole == wanted.split(word)[0].strip()


def test_a_stream_is_the_same_text_and_ends_in_done(server: Running, photos) -> None:
    asked = {"model": "tiny", "messages": turn(photos[0]), "max_tokens": 16}
    client = server.client()
    whole = client.chat.completions.create(**asked)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**asked, **options))
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(parts) == whole.choices[0].message.content
    assert len([part for part in parts if part]) > 1
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    head = {"authorization": f"Bearer {KEY}".encode()}
    body = asked | {"stream": True}
    raw = httpx.post(f"{server.url}/chat/completions", json=body, headers=head, timeout=60).text
    assert raw.endswith("data: [DONE]\n\n")


def test_stop_length_and_several_texts(server: Running, tiny, photos) -> None:
    full = server.text("tiny", photos[0])
    word = " ".join(full.split()[3:6])
    for stream in (False, True):
        made = server.client().chat.completions.create(
            model="tiny", messages=turn(photos[0]), stop=[word, "zzz"], n=2, stream=stream
        )
        texts, ends = ["", ""], ["", ""]
        for chunk in made if stream else [made]:
            for choice in chunk.choices:
                said = choice.delta if stream else choice.message
                texts[choice.index] += said.content or ""
                ends[choice.index] = choice.finish_reason or ""
        assert texts == [full.split(word)[0].strip()] * 2
        assert ends == ["stop"] * 2
    short = server.client().chat.completions.create(
        model="tiny", messages=turn(photos[0]), max_tokens=3
    )
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)


def test_sampling_follows_the_seed(server: Running, photos) -> None:
    more = {"temperature": 1.9, "n": 3, "max_tokens": 8}

    def drawn(seed: int, **extra: Any) -> list[str]:
        made = server.client().chat.completions.create(
            model="tiny", messages=turn(photos[0]), seed=seed, extra_body=extra, **more
        )
        return [choice.message.content for choice in made.choices]

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) > 1
    assert len(set(drawn(1, top_k=1))) == 1  # one token to choose from is greedy


def test_what_vlmevalkit_sends_is_taken(server: Running, photos) -> None:
    url = data_url(photos[0].read_bytes())
    content = [
        {"type": "text", "text": "Is there a cat?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    said = [{"type": "text", "text": "No."}]  # every turn of a conversation is a list of parts
    again = [{"type": "text", "text": "Are you sure?"}]
    talk = [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": again}]
    payload = {"model": "tiny+vhr", "messages": messages, "n": 1, "temperature": 0}
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}".encode()}
    texts: list[str] = []
    for asked in (
        payload | {"max_tokens": 2048},
        payload | {"max_tokens": 2048, "messages": talk},
        {k: v for k, v in payload.items() if k != "n"} | {"max_tokens": 2048},  # as packaged
        # names that hold "o1" or "o3" are taken for models that have no temperature
        {k: v for k, v in payload.items() if k != "temperature"} | {"max_completion_tokens": 2048},
        payload | {"max_tokens": 1024, "temperature": 0.0, "dataset": "POPE"},  # for LMDeploy
    ):
        answer = httpx.post(
            f"{server.url}/chat/completions", headers=headers, content=json.dumps(asked), timeout=60
        )
        assert answer.status_code == 200, answer.text
        texts.append(json.loads(answer.text)["choices"][0]["message"]["content"].strip())
    assert texts[0] and texts[0] == texts[2] == texts[3] == texts[4]


def test_vlmevalkits_own_client_gets_its_answers(
    server: Running, photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `ms-vlmeval` (its wheel alone will do) on the path, and what its client imports."""
    found = importlib.util.find_spec("vlmeval")
    if found is None or found.origin is None:
        pytest.skip("VLMEvalKit is not installed")
    for name in ("vlmeval", "vlmeval.api"):  # what they import are models and data sets
        bare = types.ModuleType(name)
        bare.__path__ = [str(Path(found.origin).parent / Path(*name.split(".")[1:]))]
        monkeypatch.setitem(sys.modules, name, bare)
    client = pytest.importorskip("vlmeval.api.gpt", exc_type=ImportError).OpenAIWrapper
    message = [{"type": "image", "value": str(photos[0])}, {"type": "text", "value": PROMPT}]
    texts = {
        name: client(
            model=name, key=KEY, api_base=f"{server.url}/chat/completions", retry=1, wait=1,
            timeout=60, max_tokens=16, img_size=-1,
        ).generate(message)
        for name in ("tiny", "tiny+vhr")
    }  # fmt: skip
    assert all(texts.values()) and texts["tiny"] != texts["tiny+vhr"]


def test_no_file_and_no_address_is_opened(server: Running, photos, tmp_path: Path) -> None:
    secret = tmp_path / "canary.png"
    Image.new("RGB", (8, 8)).save(secret)
    server.text("tiny", photos[0])  # what is loaded once is loaded
    start = server.log.stat().st_size
    with socket.create_server(("127.0.0.1", 0)) as trap:
        at = f"127.0.0.1:{trap.getsockname()[1]}/canary.png"
        urls = [
            str(secret), f"file://{secret}", f"FILE:{secret}", f"http://{at}", f"https://{at}",
            f"//{at}", f"ftp://{at}", secret.name, "", "data:", f" data:image/png;base64,{secret}",
            data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image/eps"),
            data_url(f'<svg><image href="http://{at}"/></svg>'.encode(), "image/svg+xml"),
            data_url(str(secret).encode()), "data:text/plain," + str(secret),
        ]  # fmt: skip
        for url in urls:
            for stream in (False, True):
                with pytest.raises(openai.APIStatusError) as refused:
                    server.client().chat.completions.create(
                        model="tiny", messages=turn(url), stream=stream
                    )
                assert refused.value.status_code == 400
        trap.settimeout(0.2)
        with pytest.raises(TimeoutError):
            trap.accept()
    opened = server.log.read_bytes()[start:].decode()
    assert "canary" not in opened
    assert not re.search("^(socket|subprocess|os.exec)", opened, re.MULTILINE), opened


def test_many_at_once_are_the_texts_of_one_by_one(server: Running, tiny, photos) -> None:
    names, opened = ("tiny", "tiny+vhr", "tiny+pai"), [lf.open_image(path) for path in photos]
    count = int(os.environ.get("LVLM_FIX_REQUESTS", "40"))
    prompts = [f"Describe. {n}" for n in range(count)]

    def ask(n: int) -> str:
        return server.text(names[n % 3], photos[n // 3 % len(photos)], prompts[n], max_tokens=5)

    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(ask, range(count)))
    for n, text in enumerate(found):
        method = ("none", "vhr", "pai")[n % 3]
        with lf.fix(tiny[0], method) if method != "none" else contextlib.nullcontext():
            image = opened[n // 3 % len(photos)]
            assert lf.answer(*tiny, [image], [prompts[n]], max_new_tokens=5) == [text], n


def test_a_kill_under_load_loses_nothing_that_was_answered(tmp_path: Path, photos) -> None:
    """Ten: LVLM_FIX_KILLS=10 python -m pytest tests/test_serve.py -k loses_nothing"""
    answered: dict[tuple[str, int], str] = {}
    kills = int(os.environ.get("LVLM_FIX_KILLS", "2"))
    for kill in range(kills):
        with started(tmp_path / "opened.log") as running, ThreadPoolExecutor(8) as pool:

            def ask(n: int, running: Running = running) -> None:
                key = (("tiny", "tiny+vhr")[n % 2], n // 2 % 3)
                text = running.text(key[0], photos[key[1]], max_tokens=6)
                assert answered.setdefault(key, text) == text

            work = [pool.submit(ask, n) for n in range(40)]
            for done in work[: 5 + 3 * kill]:
                done.result()
            running.process.send_signal(signal.SIGKILL)
            lost = [error for one in work if (error := one.exception())]
            assert lost
            assert all(isinstance(error, openai.APIConnectionError) for error in lost)
    assert len(answered) > 1


def test_the_key_is_asked_for_and_health_is_not(server: Running) -> None:
    for key in ("", "wrong", KEY[:-1], KEY + "x"):
        for path in ("/models", "/models/tiny"):
            head = {"authorization": f"Bearer {key}".encode()} if key else {}
            answer = httpx.get(server.url + path, headers=head)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    head = {"authorization": b"Bearer wrong"}
    assert httpx.post(f"{server.url}/chat/completions", headers=head).status_code == 401
    assert httpx.get(server.url.removesuffix("/v1") + "/health").json()["status"] == "ok"


@pytest.fixture(scope="module")
def worker() -> Worker:
    """A model that never ends a text by itself."""
    model, processor = lf.load("tiny")
    model.generation_config.eos_token_id = None
    return Worker(model, processor, Limits(tokens=1500))


@pytest.fixture(scope="module")
def page(worker: Worker) -> Iterator[TestClient]:
    app = Server(worker, {"tiny": Choice(), "tiny+vhr": Choice(lf.parse_methods("vhr"))}).app()
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def body(photo: Path | str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": turn(photo), "max_tokens": 2} | more


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(worker: Worker, photos, stream: bool) -> None:
    ready, port, steps = threading.Event(), list[int](), list[int]()
    server = Server(replace_limits(worker, queue=1), {"tiny": Choice()})

    def at(number: int) -> None:
        port.append(number)
        ready.set()

    def run() -> None:
        with contextlib.suppress(SystemExit):
            listen(server, "127.0.0.1", 0, at)

    hook = worker.model.register_forward_hook(lambda *_: steps.append(1))
    threading.Thread(target=run, daemon=True).start()
    assert ready.wait(60)
    url = f"http://127.0.0.1:{port[0]}"
    long = body(photos[0], max_tokens=1500, stream=stream)
    try:
        with socket.create_connection(("127.0.0.1", port[0])) as client:
            data = json.dumps(long).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}"
            client.sendall(head.encode() + b"\r\n\r\n" + data)
            while len(steps) < 3:
                time.sleep(0.01)
            full = httpx.post(f"{url}/v1/chat/completions", json=body(photos[0]))
            assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
            assert full.headers["retry-after"] == "1"
        while httpx.get(f"{url}/health").json()["waiting"]:
            time.sleep(0.01)
        answer = httpx.post(f"{url}/v1/chat/completions", json=body(photos[0]), timeout=60)
        assert answer.status_code == 200
        assert len(steps) < 1500
    finally:
        hook.remove()


def replace_limits(worker: Worker, **limits: int) -> Worker:
    return Worker(worker.model, worker.processor, replace(worker.limits, **limits))


def test_limits_are_clear_errors(worker: Worker, photos) -> None:
    limited = replace_limits(worker, size=300_000, pixels=100, tokens=4, pictures=1)
    with TestClient(Server(limited, {"tiny": Choice()}).app()) as client:

        def refused(asked: dict[str, Any]) -> tuple[int, str]:
            answer = client.post("/v1/chat/completions", json=asked)
            return answer.status_code, answer.json()["error"]["message"]

        assert refused(body("x" * 400_000)) == (413, "the body is larger than 300,000 bytes")
        status, message = refused(body(small("PNG", size=(11, 10))))
        assert (status, "11 x 10 pixels; at most 100" in message) == (400, True)
        assert refused(body(small("PNG"), max_tokens=5))[0] == 400
        two = turn(small("PNG")) * 2
        assert refused(body("", messages=two)) == (400, "2 pictures; at most 1 are taken")
        assert client.post("/v1/chat/completions", json=body(small("PNG"))).status_code == 200


def small(kind: str, size: tuple[int, int] = (10, 10), mode: str = "RGB", color: Any = 0) -> str:
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, kind)
    return data_url(out.getvalue(), f"image/{kind.lower()}")


def test_a_prompt_beyond_the_context_is_refused_and_a_text_ends_with_it(page, photos) -> None:
    long = page.post(
        "/v1/chat/completions", json=body(photos[0], messages=turn(photos[0], "a " * 3000))
    )
    assert (long.status_code, "this model takes 2048" in long.text) == (400, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"foo": 1}, {"n": 0}, {"n": True}, {"temperature": 2.1}, {"temperature": "1"}, {"top_p": 0},
        {"stop": ""}, {"stop": ["a", 1]}, {"logprobs": True}, {"frequency_penalty": 0.5},
        {"tools": [{}]}, {"messages": []}, {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "tool", "content": "x"}]}, {"max_tokens": 0}, {"seed": 2**70},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"response_format": {"type": "json"}},
        {"messages": [{"role": "user", "content": "a <image> here"}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
    ],
)  # fmt: skip
def test_what_cannot_be_answered_rightly_is_one_clear_4xx(page, wrong: dict[str, Any]) -> None:
    for stream in (False, True):
        answer = page.post("/v1/chat/completions", json=body(small("PNG"), stream=stream) | wrong)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert len(error["message"]) > 10


def test_errors_are_json_whatever_is_in_them(page) -> None:
    for name in ('a"b', "a\nb", "\u2028", "{}"):
        answer = page.post("/v1/chat/completions", json=body(small("PNG"), model=name))
        assert answer.status_code == 404
        assert repr(name) in answer.json()["error"]["message"]
    assert page.get("/nowhere").json()["error"]["message"] == "Not Found"
    assert page.delete("/v1/models").status_code == 405
    for raw in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"model": NaN}'):
        answer = page.post("/v1/chat/completions", content=raw)
        assert (answer.status_code, "message" in answer.json()["error"]) == (400, True)


def test_a_failure_of_the_server_says_nothing_of_its_inside(page, worker, monkeypatch) -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError('out of "memory"')

    monkeypatch.setattr(worker.model, "generate", broken)
    answer = page.post("/v1/chat/completions", json=body(small("PNG")))
    assert answer.status_code == 500
    assert "memory" not in answer.text
    streamed = page.post("/v1/chat/completions", json=body(small("PNG"), stream=True)).text
    assert (
        json.loads(streamed.splitlines()[-2].removeprefix("data: "))["error"]["type"]
        == "server_error"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("model", "messages", "max_tokens", "n", "stop", "stream", "stream_options", "seed",
        "temperature", "top_p", "top_k", "tools", "user", "metadata", "logit_bias")  # fmt: skip
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "x"])},
    optional={
        "text": st.text() | JSON,
        "image_url": st.sampled_from([small("PNG"), "data:,", "x"])
        | st.builds(lambda u: {"url": u}, JSON),
    },
)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant"]), "content": st.lists(PARTS) | JSON}
)


@given(
    st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4),
    st.lists(TURNS, max_size=3) | st.none(),
)
@settings(max_examples=150, deadline=None)
def test_any_body_is_answered_or_refused(page, changed: dict[str, Any], turns: Any) -> None:
    asked = body(small("PNG"), max_tokens=1) | changed
    if turns is not None:
        asked["messages"] = turns
    answer = page.post("/v1/chat/completions", content=json.dumps(asked))
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]


@given(st.binary(max_size=300), st.text(max_size=30))
@settings(deadline=None)
def test_any_bytes_are_a_picture_or_refused(data: bytes, kind: str) -> None:
    for url in (data_url(data, "image/png"), f"data:{kind},{data!r}", kind):
        with contextlib.suppress(ImageError):
            picture(bytes_of(url), 10_000)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_damaged_pictures_are_refused_or_read(data: Any) -> None:
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        raw = bytearray(bytes_of(small(kind)))
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(ImageError):
            picture(bytes(raw), 10_000)


def test_data_urls_in_every_dress() -> None:
    raw = Path(sample_photos()[0]).read_bytes()[:400] + b"\xfb\xff\xbe"
    plain = base64.b64encode(raw).decode()
    for url in (
        f"data:image/jpeg;base64,{plain}", f"DATA:IMAGE/JPEG;BASE64,{plain}",
        f"data:application/octet-stream;base64,{plain}", f"data:;base64,{plain}",
        f"data:image/jpeg;base64,{base64.urlsafe_b64encode(raw).decode()}",
        f"data:image/jpeg;base64,{plain.rstrip('=')}", f"data:image/jpeg;name=a.jpg;base64,{plain}",
        "data:image/jpeg;base64," + plain.replace("+", "%2B").replace("/", "%2F"),
        "data:image/jpeg;base64," + "\r\n".join(plain[i : i + 9] for i in range(0, 999, 9)),
        "data:image/jpeg," + "".join(f"%{byte:02x}" for byte in raw),
    ):  # fmt: skip
        assert bytes_of(url) == raw
    for url in ("data:image/png;base64,@@@@", "data:image/png;base64,AAAAA", "data:image/png"):
        with pytest.raises(ImageError):
            bytes_of(url)


def test_transparent_pictures_lie_on_white() -> None:
    data = bytes_of(small("PNG", mode="RGBA", color=(0, 0, 0, 0)))
    assert picture(data, 100).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ImageError, match="none of PNG"):
        picture(b"no picture", 100)
    with pytest.raises(ImageError, match="cannot be read"):
        picture(sample_photos()[0].read_bytes()[:3000], 10**7)


def test_whole_words_are_steady() -> None:
    assert [steady(text) for text in ("a do", "a do ", "a", "", "a\nb c", "犬と猫")] == [
        "a", "a do", "", "", "a\nb", "犬と猫",
    ]  # fmt: skip


def test_the_command_line_refuses_what_it_cannot_do(lvlm) -> None:
    for words, said in (
        (("--continuous-batching",), "where no method acts"),
        (("--method", "nix"), "there is no method 'nix'"),
        (("--api-key", " "), "--api-key takes"),
        (("--api-key", "schlüssel"), "--api-key takes"),
    ):
        code, _, err = lvlm("serve", "tiny", *words)
        assert (code, said in err) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = lvlm("serve", "tiny", "--port", taken.getsockname()[1])
    assert (code, "take another --port" in err) == (2, True)


def test_a_missing_extra_is_named(lvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lvlm_fix.tools.serve")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = lvlm("serve", "tiny")
    assert (code, "uvicorn" in err, "lvlm-fix[serve]" in err) == (2, True, True)
