"""The application on a Ray cluster of this machine. Slow: starting a cluster takes half a minute."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import blip
from tests.apps.serve.conftest import RANDOM, error_of, low_port, png, serving


@pytest.mark.slow
def test_ray_returns_the_same_records_in_batches_and_exits_with_0(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve")
    model = blip.load_random()
    photos = [png(i) for i in range(8)]
    bodies = [{"image": base64.b64encode(photo).decode(), "keys": [str(i)]} for i, photo in enumerate(photos)]
    with (
        serving(tmp_path, *RANDOM, "--engine", "ray", "--max-wait-ms", "50", port=low_port()) as served,
        ThreadPoolExecutor(8) as pool,
    ):
        responses = list(pool.map(lambda body: served.post("caption", body), bodies))
        assert [response.json()["text"] for response in responses] == [c.text for c in model.caption(photos)]
        assert error_of(served.post("caption", {"image": "?"})) == (422, "bad_image", "image")
        metrics = served.client.get("/metrics").text
        batches = next(line for line in metrics.splitlines() if line.startswith("blip_batch_size_count"))
        assert float(batches.split()[1]) < 8
        assert served.stop() == 0
