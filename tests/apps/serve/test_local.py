"""The server over HTTP: every endpoint, JSON and forms, every refusal, and crashes."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import blip
from tests.apps.serve.conftest import RANDOM, TIMEOUT, Served, all_gone, error_of, png, serving
from tests.record_schemas import problem

PHOTO = png()
TEXT = base64.b64encode(PHOTO).decode()
BAD = base64.b64encode(b"no image").decode()


def test_caption_equals_that_of_the_library(server: Served) -> None:
    record = server.post("caption", {"image": TEXT}).json()
    expected = blip.load_random().caption(PHOTO)
    assert problem(record) is None
    assert record["text"] == expected.text
    assert record["score"] == pytest.approx(expected.score, rel=1e-5)
    assert (record["key"], record["model"], record["width"], record["height"]) == ("0", "random-tiny", 40, 48)


def test_form_and_json_are_equivalent(server: Served) -> None:
    form = server.client.post(
        "/v1/caption", files={"image": ("a.png", PHOTO)}, data={"beams": "2", "sample": "false", "max_length": "9"}
    ).json()
    body = server.post("caption", {"image": TEXT, "keys": ["a.png"], "beams": 2, "max_length": 9}).json()
    assert form == body and form["key"] == "a.png"


def test_a_bad_image_in_a_list_does_not_fail_the_others(server: Served) -> None:
    records = server.post("caption", {"images": [TEXT, BAD, "!", TEXT], "keys": list("abcd")}).json()
    assert [record["key"] for record in records] == list("abcd")
    errors = [record.get("error", {}).get("type") for record in records]
    assert errors == [None, "UnreadableImage", "UnreadableImage", None]
    assert records[0]["text"] == records[3]["text"]
    assert all(problem(record) is None for record in records)


def test_several_files_in_a_form_return_a_list(server: Served) -> None:
    files = [("image", ("a.png", PHOTO)), ("image", ("b.txt", b"no image")), ("image", ("a.png", png(1)))]
    records = server.client.post("/v1/caption", files=files).json()
    assert [record["key"] for record in records] == ["a.png", "b.txt", "a.png (2)"]
    assert ["error" in record for record in records] == [False, True, False]


def test_answers_and_match_scores_of_all_pairs(server: Served) -> None:
    answers = server.post("answer", {"images": [TEXT, TEXT], "questions": ["what?", "who?"]}).json()
    assert [(record["key"], record["question"]) for record in answers] == [
        ("0", "what?"),
        ("0", "who?"),
        ("1", "what?"),
        ("1", "who?"),
    ]
    assert all(record["model"] == "random-tiny-vqa" and problem(record) is None for record in answers)
    body = {"image": TEXT, "question": "what?", "answers": ["yes", "no"], "top": 2}
    ranked = server.post("answer", body).json()
    assert {ranked["text"], ranked["alternatives"][0]["text"]} == {"yes", "no"} and ranked["mode"] == "rank"
    matches = server.post("match", {"image": TEXT, "texts": ["a cat", "a dog"]}).json()
    assert [(record["text"], record["text_index"]) for record in matches] == [("a cat", 0), ("a dog", 1)]
    single = server.post("match", {"image": TEXT, "text": "a dog", "head": "itc"}).json()
    assert single["itc"] == pytest.approx(matches[1]["itc"], abs=1e-4) and "itm" not in single


def test_vectors_of_images_texts_and_pairs(server: Served) -> None:
    model = blip.load_random()
    image = server.post("embed", {"image": TEXT}).json()
    assert image["vector"] == pytest.approx(model.embed_image(PHOTO).vectors[0].tolist(), abs=1e-4)
    texts = server.post("embed", {"kind": "text", "texts": ["a cat", "a dog"]}).json()
    assert [record["key"] for record in texts] == ["a cat", "a dog"]
    assert texts[1]["vector"] == pytest.approx(model.embed_text("a dog").vectors[0].tolist(), abs=1e-4)
    pair = server.post("embed", {"kind": "multimodal", "image": TEXT, "text": "a cat"}).json()
    assert pair["dim"] == len(pair["vector"]) and pair["projected"] is False
    assert all(problem(record) is None for record in (image, *texts, pair))


def test_heat_map_overlays_have_the_size_of_the_image(server: Served) -> None:
    from blip_lite.image import read

    record = server.post("explain", {"image": TEXT, "text": "a cat", "overlay": "words"}).json()
    assert record["tokens"] == ["a", "cat"] and len(record["maps"]) == 2
    assert [overlay["token"] for overlay in record["overlays"]] == ["a", "cat"]
    assert read(base64.b64decode(record["overlays"][0]["png"])).size == (40, 48)


def test_results_do_not_depend_on_the_batch(server: Served) -> None:
    bodies = [{"image": base64.b64encode(png(i)).decode(), "beams": 1 + i % 2} for i in range(12)]
    single = [server.post("caption", body).json()["text"] for body in bodies]
    with ThreadPoolExecutor(12) as pool:
        batched = list(pool.map(lambda body: server.post("caption", body).json()["text"], bodies))
    assert batched == single
    sizes = [line for line in server.client.get("/metrics").text.splitlines() if line.startswith("blip_batch_size_")]
    count, total = (float(line.split()[1]) for line in sizes if "_count" in line or "_sum" in line)
    assert total > count  # some batches hold several images


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        ("caption", {"image": BAD}, (422, "bad_image", "image")),
        ("caption", {"image": "?"}, (422, "bad_image", "image")),
        ("caption", {"image": ""}, (422, "bad_field", "image")),
        ("caption", {"image": 3}, (422, "bad_field", "image")),
        ("caption", {"image": BAD, "keys": ["x", "y"]}, (422, "bad_field", None)),
        ("caption", {}, (422, "bad_field", None)),
        ("caption", [], (422, "bad_field", None)),
        ("caption", {"image": TEXT, "images": [TEXT]}, (422, "bad_field", None)),
        ("caption", {"image": TEXT, "beems": 3}, (422, "bad_field", "beems")),
        ("caption", {"image": TEXT, "beams": 0}, (422, "bad_field", "beams")),
        ("caption", {"image": TEXT, "beams": "3"}, (422, "bad_field", "beams")),
        ("caption", {"image": TEXT, "prompt": None}, (422, "bad_field", None)),
        ("caption", {"image": TEXT, "prompt": "\ud800"}, (422, "bad_field", "prompt")),
        ("caption", {"image": TEXT, "model": "other"}, (404, "unknown_model", "model")),
        ("caption", {"image": TEXT, "model": "random-tiny-vqa"}, (404, "no_model", "model")),
        ("caption", {"images": [TEXT] * 65}, (413, "too_many", None)),
        ("caption", {"url": "http://127.0.0.1/a.png"}, (422, "bad_url", "url")),
        ("answer", {"image": TEXT}, (422, "bad_field", None)),
        ("match", {"image": TEXT, "text": "a", "texts": ["b"]}, (422, "bad_field", None)),
        ("explain", {"image": TEXT, "text": "a cat", "layer": 40}, (422, "bad_field", None)),
        ("embed", {"image": TEXT, "text": "a cat"}, (422, "bad_field", None)),
    ],
)
def test_invalid_requests_get_one_line_and_the_field(
    server: Served, endpoint: str, body: object, expected: tuple[int, str, str | None]
) -> None:
    content = json.dumps(body)
    response = server.client.post(f"/v1/{endpoint}", content=content, headers={"Content-Type": "application/json"})
    assert error_of(response) == expected


@pytest.mark.parametrize(
    ("content", "media", "expected"),
    [
        (b"{", "application/json", (400, "bad_request", None)),
        (b'{"image": NaN}', "application/json", (400, "bad_request", None)),
        (b"\xff\xfe", "application/json", (400, "bad_request", None)),
        (b"[" * 100_000, "application/json", (400, "bad_request", None)),
        (b"--x\r\n", "multipart/form-data", (400, "bad_request", None)),
        (b"nonsense", "multipart/form-data; boundary=x", (400, "bad_request", None)),
        (PHOTO, "image/png", (415, "unsupported_type", None)),
        (b"x=1", "application/x-www-form-urlencoded", (415, "unsupported_type", None)),
        (b"x" * 1_000_001, "application/json", (413, "too_large", None)),
    ],
)
def test_invalid_bodies(server: Served, content: bytes, media: str, expected: tuple[int, str, None]) -> None:
    assert error_of(server.client.post("/v1/caption", content=content, headers={"Content-Type": media})) == expected


def test_a_body_of_unknown_length_is_refused_at_the_limit(server: Served) -> None:
    sent = 0

    def endless() -> object:
        nonlocal sent
        for _ in range(30):
            sent += 100_000
            yield b"x" * 100_000

    response = server.client.post("/v1/caption", content=endless(), headers={"Content-Type": "application/json"})
    assert error_of(response) == (413, "too_large", None)


def test_images_with_too_many_pixels_are_refused_before_decoding(server: Served) -> None:
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk + b"\0" * 100).decode()
    response = server.post("caption", {"image": bomb})
    assert error_of(response) == (422, "bad_image", "image") and "3600 megapixels" in response.text


def test_unknown_paths_and_methods(server: Served) -> None:
    assert error_of(server.client.get("/v2/caption")) == (404, "not_found", None)
    assert error_of(server.client.get("/v1/caption")) == (405, "method_not_allowed", None)


def test_models_health_and_metrics(server: Served) -> None:
    models = server.client.get("/v1/models").json()
    assert [(model["name"], model["image_size"]) for model in models] == [("random-tiny", 32), ("random-tiny-vqa", 32)]
    assert server.client.get("/healthz").json() == {"status": "ok"}
    assert server.client.get("/readyz").json() == {"status": "ready"}
    metrics = server.client.get("/metrics").text
    assert 'blip_requests_total{endpoint="readyz",status="200"}' in metrics and "blip_queue_images 0.0" in metrics


def test_disconnected_clients_do_not_stay_in_flight(server: Served) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for cut in (b"", b'{"image": "'):
        with socket.create_connection((host, int(port))) as raw:
            head = (
                b"POST /v1/caption HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
            )
            raw.sendall(head + cut)
    assert server.post("caption", {"image": TEXT}).status_code == 200
    _wait_in_flight(server, 0)


SLOW = {"images": [TEXT] * 64, "beams": 8, "max_length": 60, "min_length": 60}  # seconds of CPU time


def test_a_crashed_worker_is_replaced_and_sigterm_drains(tmp_path: Path) -> None:
    with serving(tmp_path, *RANDOM, "--timeout", "600") as served, ThreadPoolExecutor(2) as pool:
        started = served.processes()
        worker = _worker(served)
        idle = worker.cpu_times().user
        lost_request = pool.submit(served.post, "caption", SLOW)
        _wait(lambda: worker.cpu_times().user > idle + 0.2)  # now it runs a batch
        worker.kill()
        lost = lost_request.result()
        assert error_of(lost)[:2] == (503, "worker_lost") and "retry-after" in lost.headers
        assert served.post("caption", {"image": TEXT}).status_code == 200  # by the new worker

        started += served.processes()
        requests = [pool.submit(served.post, "caption", SLOW | {"images": [TEXT] * 16}) for _ in range(2)]
        _wait_in_flight(served, 32)
        assert served.stop() == 0
        assert [len(request.result().json()) for request in requests] == [16, 16]
        assert all_gone(started)
        assert served.log.read_text().count("\n") == 1  # the address only


def test_a_worker_that_is_starting_ends_with_its_server(tmp_path: Path) -> None:
    with serving(tmp_path, *RANDOM) as served:
        first = _worker(served)
        first.kill()
        second = _worker(served, after=first)
        second.kill()
        assert served.stop() == 0
        assert not psutil.pid_exists(served.process.pid) and all_gone([first, second])


def test_a_killed_server_leaves_no_process(tmp_path: Path) -> None:
    with serving(tmp_path, *RANDOM) as served:
        started = served.processes()
        served.process.kill()
        assert all_gone(started)


def _worker(served: Served, after: psutil.Process | None = None) -> psutil.Process:
    """The worker process. after: a crashed worker, to wait for its replacement."""
    end = time.monotonic() + TIMEOUT
    while True:
        assert time.monotonic() < end
        for process in served.processes()[1:]:
            with suppress(psutil.NoSuchProcess):
                if process != after and "spawn_main" in " ".join(process.cmdline()):
                    return process
        time.sleep(0.01)


def test_header_size_is_limited(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=TIMEOUT) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Large: " + b"a" * 100_000)
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")


def _wait_in_flight(served: Served, images: int) -> None:
    _wait(lambda: f"blip_queue_images {images}.0" in served.client.get("/metrics").text)


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
