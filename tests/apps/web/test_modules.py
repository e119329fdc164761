"""The page's image preparation, tokenizer and beam search equal Python's."""

from __future__ import annotations

import base64
import io
import json
import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blip_lite import ASSETS
from blip_lite.beam_search import Floats, Ids, generate
from blip_lite.config import BlipConfig, TextConfig
from blip_lite.decoding import Beam
from blip_lite.image import prepare, read
from blip_lite.tokenizer import Tokenizer
from tests.apps.web.conftest import EXAMPLES, Run
from tests.oracle_files import values

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# (width, height): smaller, equal, larger, wide, and so tall that the order of passes changes
SIZES = ((50, 40), (224, 224), (224, 300), (300, 224), (1, 1), (3, 500), (900, 31), (640, 427), (427, 1400), (5, 224))

RESIZE = """
import { normalise, resizeToSquare } from "./resize.js";
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
answer(value.images.map(({ rgba, width, height }) => {
  const data = bytes(rgba);
  const read = (left, top, w, h) => {
    const part = new Uint8Array(w * h * 4);
    for (let y = 0; y < h; y++) {
      const from = ((top + y) * width + left) * 4;
      part.set(data.subarray(from, from + w * 4), y * w * 4);
    }
    return part;
  };
  const pixels = normalise(resizeToSquare(read, width, height, value.size), value.mean, value.std);
  return Buffer.from(pixels.buffer).toString("base64");
}));
"""
TOKENIZE = """
import { Tokenizer } from "./tokenizer.js";
const tokenizer = new Tokenizer(readFileSync(value.vocabulary, "utf8"), value.text);
answer({ ids: value.texts.map((text) => tokenizer.encode(text, value.text.cls_id, value.limit)),
         decoded: value.rows.map((ids) => tokenizer.decode(ids)) });
"""
SEARCH = """
import { beamSearch } from "./beam_search.js";
const indexOf = (ids, size) => ids.reduce((hash, id) => (hash * 31 + id) % size, 7);
const scores = (table, rows) => Float32Array.from(rows.flatMap((ids) => table[indexOf(ids, table.length)]));
const results = [];
for (const table of value.tables) {
  let rows = [];
  const stepper = {
    start: async (prompt) => { rows = [prompt]; return scores(table, rows); },
    step: async (ids, from) => { rows = ids.map((id, i) => [...rows[from[i]], id]); return scores(table, rows); },
  };
  results.push(await beamSearch(stepper, value.prompt, { end: value.end }));
}
answer(results);
"""
INSPECT = """
import { inspect } from "./sniff.js";
answer(value.map((text) => {
  try { return inspect(new Uint8Array(Buffer.from(text, "base64"))); } catch (error) { return error.message; }
}));
"""


def pixels(node: Run, images: list[Image.Image], size: int = 224) -> list[np.ndarray[Any, Any]]:
    rows = [
        {"rgba": to_base64(image.convert("RGBA").tobytes()), "width": image.width, "height": image.height}
        for image in images
    ]
    encoded = node(RESIZE, {"images": rows, "size": size, "mean": MEAN, "std": STD})
    return [np.frombuffer(base64.b64decode(text), np.float32).reshape(3, size, size) for text in encoded]


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_pixels_equal_pythons_for_all_shapes(node: Run) -> None:
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]
    expected = prepare(images, size=224, mean=MEAN, std=STD)
    for size, result, expected_pixels in zip(SIZES, pixels(node, images), expected, strict=True):
        assert np.array_equal(result, expected_pixels), size


def test_pixels_of_hard_edges_are_clipped_like_pythons(node: Run) -> None:
    edges = np.zeros((301, 400, 3), np.uint8)
    edges[::7], edges[:, ::5] = 255, 255
    image = Image.fromarray(edges)
    assert np.array_equal(pixels(node, [image], 64)[0], prepare([image], size=64, mean=MEAN, std=STD)[0])


def test_pixels_of_the_example_photos_equal_pythons(node: Run) -> None:
    images = [read(path) for path in EXAMPLES]
    assert np.array_equal(np.stack(pixels(node, images)), prepare(images, size=224, mean=MEAN, std=STD))


TEXTS = (
    "",
    "   ",
    "Ein Café in Zürich — naïve façade, garçon!",
    "ΟΔΥΣΣΕΥΣ στην ΙΘΑΚΗ ς",
    "Ещё одна фотография с ёлкой",
    "猫が寝ています",
    "一只猫 on a 桌子",
    "고양이",
    "قطة على الطاولة",
    "हिन्दी में एक बिल्ली",
    "İstanbul'da bir KEDİ",
    "ﬁne ﬂower",
    "a\tman\nwith\u00a0a\u3000hat\u200b!",
    "e\u0301te\u0301",
    "🐱 on a 🛋️",
    "$5 + 3% = <b>`x`|~^",
    "don't can't it's we're i'm",
    "x" * 100,
    "x" * 101,
    "a\x00b\ufffdc\u0085d\x7f",
    "Straße STRASSE ẞ",
    "[CLS] a cat [SEP]",
    "it ' s",
    "word" * 40,
)


def fuzz() -> list[str]:
    """Return random texts in many scripts, without characters newer than the tokenizer's Unicode tables."""
    blocks = (
        range(0x20, 0x250),
        range(0x300, 0x530),
        range(0x590, 0x610),
        range(0x620, 0x780),
        range(0x900, 0x980),
        range(0xE00, 0xE60),
        range(0x1E00, 0x2070),
        range(0x3000, 0x3100),
        range(0x4E00, 0x4F00),
        range(0xAC00, 0xAD00),
    )
    letters = [chr(i) for block in blocks for i in block]
    generator = random.Random(0)
    return ["".join(generator.choices([*letters, *" " * 500], k=30)) for _ in range(500)]


@pytest.mark.parametrize("name", ["bert-base-uncased-vocab.txt", "tiny/vocab.txt"])
def test_ids_and_texts_equal_pythons(node: Run, name: str) -> None:
    tiny = BlipConfig.from_dict(json.loads((ASSETS / "tiny" / "config.json").read_text("utf-8")))
    config = tiny if name.startswith("tiny") else BlipConfig()
    tokenizer = Tokenizer.from_config(config, ASSETS / "tiny")
    texts = [*(row["text"] for row in values("tokenizer")["rows"]), *TEXTS, *fuzz()]
    rows = [tokenizer.word_ids(text) for text in texts]
    result = node(
        TOKENIZE,
        {"vocabulary": str(ASSETS / name), "text": config.to_dict()["text"], "texts": texts, "limit": 35, "rows": rows},
    )
    for text, ids, decoded, row in zip(texts, result["ids"], result["decoded"], rows, strict=True):
        arrays = tokenizer.arrays([text], max_length=35)
        assert ids == arrays.input_ids[0].tolist(), text
        assert decoded == tokenizer.decode(row), text


class Table:
    """Scores looked up by the whole text so far: any row that is mixed up gets others."""

    def __init__(self, scores: Floats) -> None:
        self.scores = scores

    def start(self, prompt: Ids, max_length: int) -> Floats:
        self.rows: list[list[int]] = prompt.tolist()
        return self.read()

    def read(self) -> Floats:
        return np.stack([self.scores[self.index(row)] for row in self.rows])

    def index(self, row: list[int]) -> int:
        result = 7
        for i in row:
            result = (result * 31 + i) % len(self.scores)
        return result

    def expand(self, times: int) -> None:
        self.rows = [row for row in self.rows for _ in range(times)]

    def step(self, ids: Ids) -> Floats:
        self.rows = [[*row, i] for row, i in zip(self.rows, ids.tolist(), strict=True)]
        return self.read()

    def reorder(self, rows: Ids) -> None:
        self.rows = [self.rows[i] for i in rows.tolist()]

    def keep(self, images: Ids, rows: Ids) -> None:
        self.reorder(rows)


@pytest.mark.parametrize("prompt", [[22], [22, 7, 8, 9]])
def test_beam_search_equals_pythons(node: Run, prompt: list[int]) -> None:
    text = TextConfig(
        vocab_size=24,
        width=8,
        num_heads=2,
        max_length=32,
        unk_id=1,
        cls_id=2,
        sep_id=3,
        mask_id=4,
        dec_id=22,
        enc_id=23,
    )
    generator, tables = np.random.default_rng(0), []
    for i in range(60):
        table = generator.normal(size=(61, 24)).astype(np.float32) * 2
        table[:, text.sep_id] += i % 6 - 2  # texts that end early, late and never
        tables.append(table)
    results = node(SEARCH, {"tables": [t.tolist() for t in tables], "prompt": prompt, "end": text.sep_id})
    lengths = set()
    for table, result in zip(tables, results, strict=True):
        expected = generate(Table(table), np.array([prompt]), Beam(), text)[0][0]
        assert tuple(result["ids"]) == expected.ids
        assert result["score"] == pytest.approx(expected.score, abs=1e-5)
        lengths.add(len(expected.ids))
    assert len(lengths) > 3


def image_bytes(image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 20, 20)).save(buffer, image_format, **options)
    return buffer.getvalue()


def jpeg_with_thumbnail() -> bytes:
    thumbnail = image_bytes("JPEG")
    return image_bytes("JPEG", exif=b"Exif\0\0II*\0" + bytes(20) + thumbnail)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
def test_image_formats_are_detected(node: Run, kind: str) -> None:
    names = {"WEBP": "WebP"}
    assert node(INSPECT, [to_base64(image_bytes(kind))]) == [names.get(kind, kind)]


@pytest.mark.parametrize("data", [image_bytes("JPEG"), jpeg_with_thumbnail(), image_bytes("PNG"), image_bytes("WEBP")])
def test_truncated_images_are_rejected(node: Run, data: bytes) -> None:
    truncated = [data[: len(data) * share // 10] for share in (3, 5, 7, 9)]
    assert all("truncated image" in reason for reason in node(INSPECT, [to_base64(part) for part in truncated]))


def test_complete_jpegs_are_accepted_whatever_follows(node: Run) -> None:
    complete = (image_bytes("JPEG", progressive=True), image_bytes("JPEG") + bytes(500), jpeg_with_thumbnail())
    assert node(INSPECT, [to_base64(data) for data in complete]) == ["JPEG"] * 3


def test_other_files_are_rejected_by_name(node: Run) -> None:
    files = {
        b"": "empty file (0 bytes)",
        b"%PDF-1.7": "not an image but a PDF document",
        b"\n <svg/>": "not an image but an SVG drawing",
        b"\0\0\0\x18ftypmp42\0\0\0\0": "not an image but a video",
        b"hello": "not an image",
        b"\xff": "not an image",
        b"PK\x03\x04": "not an image but a ZIP archive",
    }
    assert node(INSPECT, [to_base64(data) for data in files]) == list(files.values())
