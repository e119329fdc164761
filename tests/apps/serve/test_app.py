"""The application over an engine in this process: API keys, CORS, admission, time limits, readiness."""

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
from blip.apps.serve.admission import AdmissionControl
from blip.apps.serve.app import build_app
from blip.apps.serve.jobs import Job, JobResult, ModelInfo, Problem
from blip.apps.serve.models import Models
from blip.apps.serve.settings import Settings, read_keys
from blip_lite.errors import UsageError
from tests.apps.serve.conftest import error_of, png

TEXT = base64.b64encode(png()).decode()
JSON = {"Content-Type": "application/json"}
MODELS = Models({"random-tiny": blip.load_random()})


class DirectEngine:
    """An engine without processes or batches. seconds: minimum duration of a job."""

    def __init__(self, seconds: float = 0.0, models: Sequence[ModelInfo] = MODELS.info()) -> None:
        self.models, self.seconds = models, seconds

    def ready(self) -> bool:
        return True

    async def submit(self, job: Job, seconds: float) -> JobResult:
        await asyncio.sleep(self.seconds)
        return MODELS.run([job])[0]


def responses(settings: Settings, engine: DirectEngine, *calls: Callable[[httpx2.AsyncClient], Any]) -> list[Any]:
    """Responses to concurrent calls."""

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


def post(content: Any, headers: dict[str, str]) -> Callable[[httpx2.AsyncClient], Coroutine[Any, Any, Any]]:
    return lambda client: client.post("/v1/caption", content=content, headers=headers)


def test_requests_without_a_valid_key_get_401(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# comment\n0123456789abcdef\n\nfedcba9876543210\n")
    settings = Settings(key_digests=read_keys(tmp_path / "keys"))
    wrong = ({}, {"X-API-Key": "0123456789abcdeF"}, {"Authorization": "Bearer x"}, {"X-API-Key": "# comment"})
    for response in responses(settings, DirectEngine(), *map(caption, wrong), get("/metrics"), get("/v1/models")):
        assert error_of(response) == (401, "unauthorized", None) and response.headers["www-authenticate"] == "Bearer"
    right = ({"X-API-Key": "fedcba9876543210"}, {"Authorization": "Bearer 0123456789abcdef"})
    results = responses(settings, DirectEngine(), *map(caption, right), get("/healthz"), get("/openapi.json"))
    assert [response.status_code for response in results] == [200] * 4


@pytest.mark.parametrize("text", ["", "# none\n", "short\n"])
def test_key_file_without_valid_keys_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(UsageError, match="at least one key, of at least 16 characters"):
        read_keys(tmp_path / "keys")


def test_keys_may_be_non_ascii_and_follow_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes("\ufeff0123456789abcdef\nschlüssel-für-alle\n".encode())
    settings = Settings(key_digests=read_keys(tmp_path / "keys"))
    with_umlaut = lambda client: client.post(  # noqa: E731
        "/v1/caption", json={"image": TEXT, "beams": 1}, headers={b"X-API-Key": "schlüssel-für-alle".encode()}
    )
    results = responses(settings, DirectEngine(), caption({"X-API-Key": "0123456789abcdef"}), with_umlaut)
    assert [response.status_code for response in results] == [200, 200]


def test_cors_allows_configured_origins_only() -> None:
    settings = Settings(origins=("https://page.example",))
    preflight = [
        {"Origin": f"https://{name}.example", "Access-Control-Request-Method": "POST"} for name in ("page", "other")
    ]
    calls = [lambda client, headers=headers: client.options("/v1/caption", headers=headers) for headers in preflight]
    allowed, other = responses(settings, DirectEngine(), *calls)
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    assert "access-control-allow-origin" not in other.headers


def test_requests_beyond_the_queue_get_429_and_the_others_are_answered() -> None:
    results = responses(Settings(queue=4), DirectEngine(0.2), *[caption() for _ in range(10)])
    assert [response.status_code for response in results].count(200) == 4
    refused = [response for response in results if response.status_code != 200]
    assert {error_of(response) for response in refused} == {(429, "busy", None)}
    assert all(1 <= int(response.headers["retry-after"]) <= 60 for response in refused)


def test_each_image_of_a_list_counts_as_in_flight() -> None:
    many = [lambda client, n=n: client.post("/v1/caption", json={"images": [TEXT] * n, "beams": 1}) for n in (4, 5)]
    (four,) = responses(Settings(queue=4), DirectEngine(), many[0])
    (five,) = responses(Settings(queue=4), DirectEngine(), many[1])
    assert len(four.json()) == 4
    assert error_of(five) == (413, "too_many", None)
    results = responses(Settings(queue=4), DirectEngine(0.2), many[0], caption())
    assert sorted(response.status_code for response in results) == [200, 429]


def test_requests_that_cannot_be_answered_in_time_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    admission = AdmissionControl(Settings(queue=100, timeout=10.0))
    clock = iter([0.0, 1.0, 2.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock, 2.0))
    with admission.admit(9), admission.working():
        admission.record_answer()
        admission.record_answer()  # one per second
        with admission.admit(1), pytest.raises(Problem, match="10 images are in flight") as caught, admission.admit(1):
            pass
    assert admission.jobs == 0 and caught.value.headers() == {"Retry-After": "5"}
    with admission.admit(30):  # allowed to try: nothing else is in flight
        pass


def test_slow_uploads_do_not_slow_the_measured_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    admission, now = AdmissionControl(Settings(timeout=10.0)), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with admission.admit(1):  # a request whose body takes a minute
        for _ in range(3):
            with admission.admit(1), admission.working():
                now[0] += 0.5
                admission.record_answer()
            now[0] += 20.0
            with admission.admit(1), admission.working():
                assert admission.expected_wait() == 0.0


def test_more_texts_than_the_queue_holds_get_413() -> None:
    many = lambda client: client.post("/v1/embed", json={"kind": "text", "texts": ["a"] * 5})  # noqa: E731
    (response,) = responses(Settings(queue=4), DirectEngine(), many)
    assert error_of(response) == (413, "too_many", None)


def test_lone_surrogates_and_duplicate_fields_are_refused_in_one_line() -> None:
    form = {"Content-Type": "multipart/form-data; boundary=X; charset=utf-7"}
    part = (
        b'--X\r\nContent-Disposition: form-data; name="NAME"; filename="+2AA-.png"\r\n\r\n' + png() + b"\r\n--X--\r\n"
    )
    requests = [
        (b'{"image": "%s", "model": "\\ud800"}' % TEXT.encode(), JSON),
        (b'{"image": "%s", "beams": 1, "beams": 2}' % TEXT.encode(), JSON),
        (part.replace(b"NAME", b"+2AA-"), form),
        (part.replace(b"NAME", b"image"), form),
    ]
    *refused, named = responses(Settings(), DirectEngine(), *(post(*request) for request in requests))
    assert [error_of(response)[:2] for response in refused] == [
        (422, "bad_field"),
        (400, "bad_request"),
        (422, "bad_field"),
    ]
    assert named.json()["key"] == "?.png"


def test_late_answers_are_504_and_no_longer_in_flight() -> None:
    async def in_turn(client: httpx2.AsyncClient) -> Any:
        return await caption()(client), await get("/metrics")(client)

    ((late, metrics),) = responses(Settings(timeout=0.2), DirectEngine(600.0), in_turn)
    assert error_of(late) == (504, "timeout", None)
    assert "blip_queue_images 0.0" in metrics.text and "blip_buffered_bytes 0.0" in metrics.text


def slow_body(seconds: float, pieces: int = 1000) -> Callable[[httpx2.AsyncClient], Any]:
    """A request whose body arrives in small pieces, one per `seconds`."""

    async def body() -> AsyncIterator[bytes]:
        for piece in [b'{"image": "', *[b" "] * pieces, TEXT.encode(), b'", "beams": 1}']:
            yield piece
            await asyncio.sleep(seconds)

    return post(body(), JSON)


def test_slow_bodies_get_408_and_close_the_connection() -> None:
    for settings in (Settings(stall=0.2), Settings(timeout=0.2)):
        for seconds in (0.05, 600):
            (slow,) = responses(settings, DirectEngine(), slow_body(seconds))
            assert error_of(slow) == (408, "slow_body", None) and slow.headers["connection"] == "close"
    settings = Settings(min_rate=0.1, stall=1.0)
    assert responses(settings, DirectEngine(), slow_body(0.01, 5))[0].status_code == 200


def test_bodies_on_their_way_do_not_count_as_in_flight() -> None:
    slow = [slow_body(0.01, 50) for _ in range(20)]
    results = responses(Settings(queue=2), DirectEngine(), *slow, caption())
    assert results[-1].status_code == 200 and results[0].status_code in (200, 429)


def test_refused_clients_can_finish_sending() -> None:
    sent = []

    async def body() -> AsyncIterator[bytes]:
        for i in range(20):
            sent.append(i)
            yield b"x" * 1000

    (refused,) = responses(Settings(), DirectEngine(), post(body(), {"Content-Type": "text/plain"}))
    assert error_of(refused) == (415, "unsupported_type", None) and len(sent) == 20


def test_all_bodies_in_memory_are_limited_together() -> None:
    settings = Settings(max_upload=100_000_000)  # the limit is four times that

    async def body() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"x" * 10_000_000
            await asyncio.sleep(0.02)

    calls = [post(body(), JSON) for _ in range(5)]
    codes = [error_of(response)[:2] for response in responses(settings, DirectEngine(), *calls)]
    assert (429, "busy") in codes and (400, "bad_request") in codes


def test_urls_are_fetched_if_allowed() -> None:
    async def run() -> list[Any]:
        app = build_app(Settings(allow_urls=True), DirectEngine())
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
            body = {"urls": ["http://127.0.0.1:1/a.png", "file:///etc/passwd"], "beams": 1}
            return [await client.post("/v1/caption", json=b) for b in (body, {"url": "http://[::1]/a.png"})]

    many, single = asyncio.run(run())
    assert [row["key"] for row in many.json()] == ["http://127.0.0.1:1/a.png", "file:///etc/passwd"]
    assert all(row["error"]["type"] == "UnreadableImage" for row in many.json())
    assert error_of(single) == (422, "bad_url", "url") and "not a public address" in single.text


def test_before_models_are_loaded_only_health_checks_and_descriptions_work() -> None:
    calls = (caption(), get("/readyz"), get("/healthz"), get("/v1/models"))
    results = responses(Settings(), DirectEngine(models=()), *calls)
    assert error_of(results[0]) == error_of(results[1]) == (503, "not_ready", None)
    assert "retry-after" in results[0].headers
    assert [response.status_code for response in results[2:]] == [200, 200]


def test_a_failing_job_does_not_fail_its_batch(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_the_log_has_no_control_characters_of_requests(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(DirectEngine):
        async def submit(self, job: Job, seconds: float) -> JobResult:
            raise RuntimeError(job.key)

    (response,) = responses(Settings(), Failing(), caption(keys=["\x1b]0;title\x07\nforged line"]))
    log = capsys.readouterr().err
    assert error_of(response) == (500, "internal", None) and "RuntimeError" in log and r"\x1b]0;title\x07" in log
    assert "\x1b" not in log and "\x07" not in log


def test_the_default_minimum_length_follows_a_small_maximum() -> None:
    short, refused = responses(
        Settings(), DirectEngine(), caption(max_length=4, prompt=""), caption(max_length=4, min_length=5)
    )
    assert short.status_code == 200, short.text
    assert short.json()["params"]["min_length"] == 4
    assert refused.json()["error"]["message"] == "min_length 5: must be at most max_length (4)"
