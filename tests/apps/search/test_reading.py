"""Reading of files and video frames at a model's input size."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blip
from blip.apps.search.index import Index
from blip.apps.search.reading import Reader
from blip.apps.search.scan import ScannedFile
from blip_lite.image import MAX_PIXELS, square


def scanned(path: Path) -> ScannedFile:
    status = path.stat()
    return ScannedFile(os.fsencode(path), status.st_size, status.st_mtime_ns)


def test_resized_picture_has_the_same_vector(model: blip.Model) -> None:
    image = Image.fromarray(np.random.RandomState(1).randint(0, 256, (90, 31, 3), dtype=np.uint8))
    small = square(image, model.config.vision.image_size)
    assert (model.embed_image([small]).vectors == model.embed_image([image]).vectors).all()


def test_files_keep_their_order_and_known_ones_are_not_decoded(photos: Path) -> None:
    paths = sorted(photos.glob("*.png"))
    reader = Reader(sizes=[16, 32], max_pixels=MAX_PIXELS, workers=2)
    contents = list(reader.read_all((scanned(path), False) for path in paths))
    assert [os.fsdecode(content.file.path) for content in contents] == [str(path) for path in paths]
    assert contents[0].pictures[0].images[16].size == (16, 16)
    skipping = Reader(sizes=[16], max_pixels=MAX_PIXELS, skip={contents[0].hash}.__contains__)
    assert not skipping.read(scanned(paths[0])).pictures and skipping.read(scanned(paths[0]), True).pictures


def test_file_changed_during_reading_is_left_for_the_next_update(photos: Path) -> None:
    path = photos / "0.png"
    old = scanned(path)
    with path.open("ab") as file:
        file.write(b"more")
    content = Reader(sizes=[16], max_pixels=MAX_PIXELS).read(old)
    assert content.error == "changed while it was being read" and not content.permanent


def test_video_frames_are_found_with_their_time(index: Index, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    (tmp_path / "photos").mkdir()
    with av.open(str(tmp_path / "photos" / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            colour = np.full((48, 64, 3), (250 if i < 10 else 0, 0, 0 if i < 10 else 250), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(colour, format="rgb24")))
        container.mux(stream.encode())
    (tmp_path / "photos" / "broken.mp4").write_bytes(b"nothing")
    assert index.add_dir(tmp_path / "photos").new == 0
    report = index.add_dir(tmp_path / "photos", video=True, frames=2)
    assert report.new == 1 and len(report.failed) == 1
    red, blue = sorted(index.search("a cat", rerank=2), key=lambda hit: hit.path)
    assert red.path.endswith("v.mp4#t=0.500") and blue.path.endswith("v.mp4#t=1.500") and red.itm is not None
    hit = index.search(Image.new("RGB", (64, 48), (250, 0, 0)), top=1)[0]
    assert hit.path == red.path
    assert index.update().unchanged == 2 and index.status().frames == 2
