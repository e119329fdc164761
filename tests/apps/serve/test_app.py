"""The application over an engine in this process: keys, origins, places, time, and a server that is not ready."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

import blip
from blip.apps.serve.app import build_app
from blip.apps.serve.jobs import Job, JobResult, ModelInfo, Problem
from blip.apps.serve.models import Models
from blip.apps.serve.service import AdmissionControl
from blip.apps.serve.settings import Settings, read_keys
from blip_lite.errors import UsageError
from tests.apps.serve.conftest import error_of, png

TEXT = base64.b64encode(png()).decode()
MODELS = Models({"random-tiny": blip.load_random()})


class Direct:
    """An engine without processes or batches. `seconds`: how long a job takes at least."""

    def __init__(self, seconds: float = 0.0, models: Sequence[ModelInfo] = MODELS.info()) -> None:
        self.models, self.seconds = models, seconds

    def ready(self) -> bool:
        return True

    async def submit(self, job: Job, seconds: float) -> JobResult:
        await asyncio.sleep(self.seconds)
        return MODELS.run([job])[0]


def asked(settings: Settings, engine: Direct, *calls: Callable[[httpx2.AsyncClient], Any]) -> list[Any]:
    """The answers to calls made at the same time."""

    async def run() -> list[Any]:
        transport = httpx2.ASGITransport(build_app(settings, engine))
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await asyncio.gather(*(call(client) for call in calls))

    return asyncio.run(run())


def caption(
    headers: dict[str, str] | None = None, **body: Any
) -> Callable[[httpx2.AsyncClient], Coroutine[Any, Any, Any]]:
    return lambda client: client.post("/v1/caption", json={"image": TEXT, "beams": 1} | body, headers=headers)


def get(path: str) -> Callable[[httpx2.AsyncClient], Coroutine[Any, Any, Any]]:
    return lambda client: client.get(path)


def test_without_a_key_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\n0123456789abcdef\n\nfedcba9876543210\n")
    settings = Settings(key_digests=read_keys(tmp_path / "keys"))
    wrong = ({}, {"X-API-Key": "0123456789abcdeF"}, {"Authorization": "Bearer x"}, {"X-API-Key": "# ours"})
    for answer in asked(settings, Direct(), *map(caption, wrong), get("/metrics"), get("/v1/models")):
        assert error_of(answer) == (401, "unauthorized", None) and answer.headers["www-authenticate"] == "Bearer"
    right = ({"X-API-Key": "fedcba9876543210"}, {"Authorization": "Bearer 0123456789abcdef"})
    found = asked(settings, Direct(), *map(caption, right), get("/healthz"), get("/openapi.json"))
    assert [answer.status_code for answer in found] == [200] * 4


@pytest.mark.parametrize("text", ["", "# none\n", "short\n"])
def test_a_file_without_good_keys_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(UsageError, match="at least one key, of at least 16 characters"):
        read_keys(tmp_path / "keys")


def test_a_key_of_any_letters_opens_and_so_does_the_first_behind_a_mark(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes("\ufeff0123456789abcdef\nschlüssel-für-alle\n".encode())
    settings = Settings(key_digests=read_keys(tmp_path / "keys"))
    with_umlaut = lambda client: client.post(  # noqa: E731
        "/v1/caption", json={"image": TEXT, "beams": 1}, headers={b"X-API-Key": "schlüssel-für-alle".encode()}
    )
    answers = asked(settings, Direct(), caption({"X-API-Key": "0123456789abcdef"}), with_umlaut)
    assert [answer.status_code for answer in answers] == [200, 200]


def test_only_named_origins_may_call() -> None:
    settings = Settings(origins=("https://page.example",))
    ask = [{"Origin": f"https://{name}.example", "Access-Control-Request-Method": "POST"} for name in ("page", "other")]
    calls = [lambda client, headers=headers: client.options("/v1/caption", headers=headers) for headers in ask]
    mine, other = asked(settings, Direct(), *calls)
    assert mine.headers["access-control-allow-origin"] == "https://page.example"
    assert "access-control-allow-origin" not in other.headers


def test_more_than_the_queue_holds_is_refused_and_the_rest_answered() -> None:
    answers = asked(Settings(queue=4), Direct(0.2), *[caption() for _ in range(10)])
    assert [answer.status_code for answer in answers].count(200) == 4
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {error_of(answer) for answer in refused} == {(429, "busy", None)}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)


def test_a_list_takes_as_many_places_as_it_has_images() -> None:
    many = [lambda client, n=n: client.post("/v1/caption", json={"images": [TEXT] * n, "beams": 1}) for n in (4, 5)]
    four, five = asked(Settings(queue=4), Direct(), many[0]), asked(Settings(queue=4), Direct(), many[1])
    assert len(four[0].json()) == 4
    assert error_of(five[0]) == (413, "too_many", None)
    answers = asked(Settings(queue=4), Direct(0.2), many[0], caption())
    assert sorted(answer.status_code for answer in answers) == [200, 429]


def test_what_cannot_be_answered_in_time_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    admission = AdmissionControl(Settings(queue=100, timeout=10.0))
    clock = iter([0.0, 1.0, 2.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock, 2.0))
    with admission.admit(9), admission.working():
        admission.record_answer()
        admission.record_answer()  # one a second
        with admission.admit(1), pytest.raises(Problem, match="10 images are in flight") as caught, admission.admit(1):
            pass
    assert admission.jobs == 0 and caught.value.headers() == {"Retry-After": "5"}
    with admission.admit(30):  # nobody is before it: it may try
        pass


def test_a_client_that_sends_slowly_makes_no_slow_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    admission, now = AdmissionControl(Settings(timeout=10.0)), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with admission.admit(1):  # its body takes a minute
        for _ in range(3):
            with admission.admit(1), admission.working():
                now[0] += 0.5
                admission.record_answer()
            now[0] += 20.0
            with admission.admit(1), admission.working():
                assert admission.expected_wait() == 0.0


def test_more_texts_than_there_are_places_will_never_fit() -> None:
    many = lambda client: client.post("/v1/embed", json={"kind": "text", "texts": ["a"] * 5})  # noqa: E731
    (answer,) = asked(Settings(queue=4), Direct(), many)
    assert error_of(answer) == (413, "too_many", None)


def test_half_characters_and_fields_given_twice_are_refused_in_one_line() -> None:
    kind = {"Content-Type": "application/json"}
    form = {"Content-Type": "multipart/form-data; boundary=X; charset=utf-7"}
    part = (
        b'--X\r\nContent-Disposition: form-data; name="NAME"; filename="+2AA-.png"\r\n\r\n' + png() + b"\r\n--X--\r\n"
    )
    sent = [
        (b'{"image": "%s", "model": "\\ud800"}' % TEXT.encode(), kind),
        (b'{"image": "%s", "beams": 1, "beams": 2}' % TEXT.encode(), kind),
        (part.replace(b"NAME", b"+2AA-"), form),
        (part.replace(b"NAME", b"image"), form),
    ]
    calls = [lambda c, body=body, head=head: c.post("/v1/caption", content=body, headers=head) for body, head in sent]
    *refused, named = asked(Settings(), Direct(), *calls)
    assert [error_of(answer)[:2] for answer in refused] == [
        (404, "unknown_model"),
        (400, "bad_request"),
        (422, "bad_field"),
    ]
    assert named.json()["key"] == "?.png"


def test_a_late_answer_is_504_and_gives_its_place_back() -> None:
    late, figures = asked(Settings(timeout=0.2), Direct(5.0), caption(), _after(0.4, get("/metrics")))
    assert error_of(late) == (504, "timeout", None)
    assert "blip_queue_images 0.0" in figures.text and "blip_buffered_bytes 0.0" in figures.text


def test_a_body_that_never_ends_is_504() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"image": "'
        await asyncio.sleep(2)

    headers = {"Content-Type": "application/json"}
    (late,) = asked(Settings(timeout=0.2), Direct(), lambda c: c.post("/v1/caption", content=body(), headers=headers))
    assert error_of(late) == (504, "timeout", None)


def test_a_refused_client_may_finish_sending() -> None:
    sent = []

    async def body() -> AsyncIterator[bytes]:
        for i in range(20):
            sent.append(i)
            yield b"x" * 1000

    headers = {"Content-Type": "text/plain"}
    (refused,) = asked(Settings(), Direct(), lambda c: c.post("/v1/caption", content=body(), headers=headers))
    assert error_of(refused) == (415, "unsupported_type", None) and len(sent) == 20


def test_bodies_in_memory_are_bounded_together() -> None:
    settings = Settings(max_upload=100_000_000)  # four of these may be in memory

    async def body() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"x" * 10_000_000
            await asyncio.sleep(0.02)

    headers = {"Content-Type": "application/json"}
    call = [lambda c: c.post("/v1/caption", content=body(), headers=headers)]
    codes = [error_of(answer)[:2] for answer in asked(settings, Direct(), *(call * 5))]
    assert (429, "busy") in codes and (400, "bad_request") in codes


def test_addresses_are_fetched_where_that_is_allowed() -> None:
    async def run() -> list[Any]:
        app = build_app(Settings(allow_urls=True), Direct())
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
            body = {"urls": ["http://127.0.0.1:1/a.png", "file:///etc/passwd"], "beams": 1}
            return [await client.post("/v1/caption", json=b) for b in (body, {"url": "http://[::1]/a.png"})]

    many, one = asyncio.run(run())
    assert [row["key"] for row in many.json()] == ["http://127.0.0.1:1/a.png", "file:///etc/passwd"]
    assert all(row["error"]["type"] == "UnreadableImage" for row in many.json())
    assert error_of(one) == (422, "bad_url", "url") and "not a public address" in one.text


def _after(seconds: float, call: Callable[[httpx2.AsyncClient], Any]) -> Callable[[httpx2.AsyncClient], Any]:
    async def later(client: httpx2.AsyncClient) -> Any:
        await asyncio.sleep(seconds)
        return await call(client)

    return later


def test_before_the_models_are_loaded_everything_but_life_is_503() -> None:
    answers = asked(Settings(), Direct(models=()), caption(), get("/readyz"), get("/healthz"), get("/v1/models"))
    assert error_of(answers[0]) == error_of(answers[1]) == (503, "not_ready", None)
    assert "retry-after" in answers[0].headers
    assert [answer.status_code for answer in answers[2:]] == [200, 200]


def test_a_job_that_breaks_leaves_its_batch_unharmed(capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    from blip_lite.image import read

    params = (("kind", "image"), ("projected", True))
    good = Job("embed", "random-tiny", "a", read(png()), params=params)
    closed = Image.new("RGB", (9, 9))
    closed.close()
    broken = replace(good, key="b", image=closed)
    results = MODELS.run([good, broken, good])
    assert [result.problem and result.problem[0] for result in results] == [None, "internal", None]
    assert results[0].records == results[2].records and results[0].batch == 3
    assert "ValueError" in capsys.readouterr().err
