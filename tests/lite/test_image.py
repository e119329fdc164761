"""Image files are read as RGB or refused with a reason, and prepared as the original does."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from blip.io.image import prepare
from blip_lite.config import CLIP_MEAN, CLIP_STD
from blip_lite.errors import MissingExtra, UnreadableImage
from blip_lite.image import from_pil, read, shrink, to_rgb
from blip_lite.pixel_budget import PixelBudget
from tests.oracle_files import tensors

SHARED_CASES = Path(__file__).parents[1] / "cases"
FORMATS = {
    "a.jpg": "JPEG",
    "a.png": "PNG",
    "a.webp": "WEBP",
    "a.avif": "AVIF",
    "a.tif": "TIFF",
    "a.gif": "GIF",
    "a.bmp": "BMP",
    "a.jp2": "JPEG2000",
}


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    """An image with red rising to the right and green rising downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x + 60], axis=2).astype(np.uint8))


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def reason(source: Any, **options: Any) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read(source, **options)
    return caught.value.reason


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header declares that size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = zlib.crc32(b"IHDR" + head)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", crc)


@pytest.mark.parametrize("file_format", FORMATS.values())
def test_every_format_reads_from_path_bytes_and_file(file_format: str, tmp_path: Path) -> None:
    data = encode(gradient(), file_format)
    (tmp_path / "p").write_bytes(data)  # no extension
    for source in (tmp_path / "p", str(tmp_path / "p"), data, io.BytesIO(data)):
        image = read(source)
        assert image.mode == "RGB" and image.size == (40, 30)
        assert np.abs(np.asarray(image, int) - np.asarray(gradient(), int)).mean() < 8


def test_heic_is_read_with_pillow_heif() -> None:
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(gradient()).save(file)
    assert read(file.getvalue()).size == (40, 30)
    assert "truncated image (read 300 of" in reason(file.getvalue()[:300])


def test_heic_without_pillow_heif_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    with pytest.raises(MissingExtra, match=r"a.heic is HEIC.*pip install pillow-heif"):
        read(data, key="a.heic")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_applied(file_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how the camera turned the image
    rotated = gradient() if orientation == 1 else gradient().transpose(Image.Transpose(undo[orientation]))
    image = read(encode(rotated, file_format, exif=exif))
    assert image.size == (40, 30)
    assert np.abs(np.asarray(image, int) - np.asarray(gradient(), int)).mean() < 8


def test_damaged_exif_is_ignored() -> None:
    data = encode(gradient(), "JPEG", exif=b"Exif\0\0not a TIFF header")
    assert read(data).size == (40, 30)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_alpha_becomes_white(file_format: str, mode: str) -> None:
    image = gradient().convert(mode)
    image.putalpha(Image.new("L", image.size, 0))
    options = {"lossless": True} if file_format == "WEBP" else {}
    assert np.asarray(read(encode(image, file_format, **options))).min() == 255


def test_transparent_palette_becomes_white_and_the_rest_stays() -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1, 0, 1])
    for file_format in ("GIF", "PNG"):
        pixels = np.asarray(read(encode(image, file_format, transparency=1)))
        assert pixels[0].tolist() == [[10, 20, 30], [255] * 3] * 2


def test_transparent_rgb_and_grey_png_levels_become_white() -> None:
    rgb = encode(Image.new("RGB", (2, 2), (9, 8, 7)), "PNG", transparency=(9, 8, 7))
    grey = encode(Image.new("L", (2, 2), 9), "PNG", transparency=9)
    deep = encode(Image.fromarray(np.full((2, 2), 900, np.uint16)), "PNG", transparency=900)
    assert [np.asarray(read(data)).min() for data in (rgb, grey, deep)] == [255] * 3


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG2000"])
def test_sixteen_bits_are_scaled(file_format: str) -> None:
    levels = np.array([[0, 255, 256, 32768, 65535]] * 5, dtype=np.uint16)
    grey = np.asarray(read(encode(Image.fromarray(levels), file_format)))
    assert grey[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("values", [[0, 0.5, 1], [0, 127.5, 255], [0, 32767.5, 65535], [0, 5e6, 1e7]])
def test_float_images_are_scaled_by_their_range(values: list[float]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert np.asarray(read(encode(image, "TIFF")))[0, :, 0].tolist() in ([0, 128, 255], [0, 127, 255])


def test_integer_values_convert() -> None:
    assert np.asarray(to_rgb(Image.fromarray(np.array([[0, 65535]], np.int32))))[0, :, 1].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.array([[0.5, np.nan]], np.float32), "pixels are NaN or infinite"),
        (np.array([[0.5, np.inf]], np.float32), "pixels are NaN or infinite"),
        (np.array([[-1.5, 1.0]], np.float32), "pixels from -1.5 to 1; must not be negative"),
        (np.array([[-3, 7]], np.int32), "pixels from -3 to 7; must not be negative"),
    ],
)
def test_values_without_a_scale_are_refused_in_files_and_pil_images(values: NDArray[Any], problem: str) -> None:
    image = Image.fromarray(values)
    assert reason(encode(image, "TIFF")) == problem
    with pytest.raises(UnreadableImage, match=problem):
        from_pil(image, "0")


def test_cmyk_equals_the_plain_conversion() -> None:
    oracle = tensors("transforms")
    image = Image.fromarray(oracle["src.cmyk_noise_24x18"].numpy(), mode="CMYK")
    assert np.array_equal(np.asarray(read(encode(image, "TIFF"))), oracle["rgb.cmyk_noise_24x18"].numpy())


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(read(data), int)[0, 0] - [255, 0, 0]).max() < 8


def test_paths_and_files_that_are_not_images_have_reasons(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "a.txt").write_text("plain")
    assert reason(tmp_path / "none.jpg") == "no such file"
    assert reason("a\0b.jpg").startswith("not a file name")
    assert reason(tmp_path / "empty.jpg") == "empty file (0 bytes)"
    assert reason(tmp_path) == "is a folder, not an image file"
    assert "mode 'rb'" in reason(io.StringIO("text"))
    assert reason(tmp_path / "a.txt") == "not an image (first bytes: 70 6c 61 69 6e 'plain')"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><p>404", "an HTML page"),
        (b"%PDF-1.7", "a PDF document"),
        (bytes(100), "bytes are zero"),
        (b"\0\0\0\x20ftypisom" + bytes(20), "a video"),
    ],
)
def test_other_files_are_named(data: bytes, words: str) -> None:
    assert words in reason(data)


@pytest.mark.parametrize("file_format", FORMATS.values())
def test_truncated_files_are_reported_as_truncated(file_format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    data = encode(noise, file_format)
    for length in (len(data) // 2, len(data) * 3 // 4):
        message = reason(data[:length], key="k")
        assert message.startswith("truncated image (") or (
            file_format == "TIFF" and message.startswith("damaged TIFF image")
        )


@pytest.mark.parametrize("file_format", FORMATS.values())
def test_damaged_files_are_read_or_refused_with_a_reason(file_format: str) -> None:
    data, random = encode(gradient(), file_format), np.random.default_rng(1)
    for _ in range(40):
        broken = bytearray(data)
        for position in random.integers(4, len(data), 4):
            broken[position] = random.integers(0, 256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert read(bytes(broken[: random.integers(1, len(data))])).mode == "RGB"
            except UnreadableImage as error:
                assert "\n" not in error.reason


@pytest.mark.parametrize("file_format", FORMATS.values())
def test_pixel_limit_holds_for_every_format(file_format: str) -> None:
    assert (
        reason(encode(gradient(), file_format), max_pixels=1199)
        == "40x30 is 0.0012 megapixels; at most 0.001199 allowed"
    )
    assert read(encode(gradient(), file_format), max_pixels=1200).size == (40, 30)


def test_the_pixel_limit_replaces_pillows_global_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "allowed" in reason(png_of_size(20_000, 20_000))
    assert "allowed" in reason(png_of_size(2**31 - 1, 2**31 - 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(encode(gradient(), "PNG")).size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pixel_limit_covers_tiff_tiles() -> None:
    tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: 60_000, 323: 60_000, 324: 200, 325: 20}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(200)
    assert "60000x60000" in reason(data)


def test_large_tiff_is_read_without_pillows_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(encode(gradient(), "TIFF")).size == (40, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert reason(encode(gradient(), "TIFF")).startswith("more pixels than Pillow allows")


def test_pixel_limit_covers_frames_beyond_the_canvas() -> None:
    data = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    at = data.index(b"\x2c", 13)
    data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
    assert "60000x60000" in reason(bytes(data))


def test_pixel_limit_covers_the_jpeg2000_code_stream() -> None:
    data = bytearray(encode(gradient(), "JPEG2000"))
    at = data.index(b"\xff\x4f\xff\x51")
    data[at + 8 : at + 16] = struct.pack(">II", 50_000, 50_000)
    assert "50000x50000" in reason(bytes(data))


def test_huge_files_are_not_loaded(tmp_path: Path) -> None:
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(1 << 40)
    assert reason(tmp_path / "huge.jpg") == "file of 1,048,576 MiB; at most 1,589 MiB are read"


CASES = [
    "rgb_gradient_100x37",
    "rgb_noise_33x65",
    "rgb_checks_120x90",
    "l_noise_50x41",
    "rgba_noise_31x47",
    "la_noise_20x30",
    "cmyk_noise_24x18",
    "rgb_one_pixel",
    "rgb_exact_64x64",
    "rgb_wide_300x5",
]


@pytest.mark.parametrize("name", CASES)
def test_prepare_equals_the_original(name: str) -> None:
    oracle = tensors("transforms")
    mode = name.split("_")[0].upper()
    image = Image.fromarray(oracle[f"src.{name}"].numpy(), mode=mode).convert("RGB")
    values = prepare([image, image], size=48, mean=CLIP_MEAN, std=CLIP_STD)
    assert values.shape == (2, 3, 48, 48) and values.is_contiguous()
    assert torch.equal(values[1], oracle[f"out48.{name}"])
    if f"rgb.{name}" in oracle:
        assert np.array_equal(np.asarray(image), oracle[f"rgb.{name}"].numpy())
    for size in (48, 64):
        if f"resized{size}.{name}" in oracle:
            levels = prepare([image], size=size, mean=(0, 0, 0), std=(1, 1, 1))[0] * 255
            assert torch.equal(levels.round().byte().permute(1, 2, 0), oracle[f"resized{size}.{name}"])


def test_palette_file_equals_the_original() -> None:
    oracle = tensors("transforms")
    image = Image.fromarray(oracle["src.p_palette_36x24"].numpy(), mode="P")
    image.putpalette(oracle["src.p_palette_table"].flatten().tolist())
    values = prepare([read(encode(image, "PNG"))], size=48, mean=CLIP_MEAN, std=CLIP_STD)
    assert torch.equal(values[0], oracle["out48.p_palette_36x24"])


@pytest.mark.parametrize("size", [(384, 384), (1000, 90), (90, 1000), (700, 3000), (3000, 400), (30, 20), (384, 385)])
def test_a_shrunk_image_is_prepared_like_the_image_itself(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    options: dict[str, Any] = {"size": 384, "mean": CLIP_MEAN, "std": CLIP_STD}
    small = shrink(image, 384)
    assert small.width * small.height <= 384 * 384
    assert torch.equal(prepare([small], **options), prepare([image], **options))


def test_preparing_no_images_returns_an_empty_batch() -> None:
    assert prepare([], size=32, mean=CLIP_MEAN, std=CLIP_STD).shape == (0, 3, 32, 32)


def test_png_with_large_text_and_profile_chunks_is_read() -> None:
    info = PngInfo()
    info.add_text("comment", "a" * 3_000_000, zip=True)
    info.add_itxt("more", "b" * 3_000_000, zip=True)
    data = encode(gradient(), "PNG", pnginfo=info, icc_profile=bytes(3_000_000))
    assert np.array_equal(read(data), gradient())
    assert np.array_equal(read(SHARED_CASES / "big_ztxt.png"), read(SHARED_CASES / "cat.png"))


def test_orientation_in_a_text_chunk_of_png_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes().hex()
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(raw) // 2:8}\n{raw}\n")
    assert read(encode(gradient(), "PNG", pnginfo=info)).size == (30, 40)


@pytest.mark.parametrize("alpha", [0, 0xFF000000])
def test_bmp_with_an_empty_alpha_channel_is_opaque(alpha: int) -> None:
    pixels = np.asarray(gradient().convert("RGBA"))[::-1, :, [2, 1, 0, 3]].copy()
    pixels[..., 3] = 0
    head = struct.pack("<IiiHHIIiiII4I", 124, 40, 30, 1, 32, 3, 4800, 0, 0, 0, 0, 0xFF0000, 0xFF00, 0xFF, alpha)
    data = b"BM" + struct.pack("<IHHI", 138 + 4800, 0, 0, 138) + head.ljust(124, b"\0") + pixels.tobytes()
    assert np.array_equal(read(data), gradient())
    assert np.array_equal(from_pil(Image.open(io.BytesIO(data)), ""), gradient())


def test_an_empty_first_frame_of_gif_is_passed_over() -> None:
    empty = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    data = encode(empty, "GIF", save_all=True, append_images=[gradient().convert("RGBA")], disposal=2)
    assert np.abs(np.asarray(read(data), int) - np.asarray(gradient(), int)).mean() < 10
    opened = Image.open(io.BytesIO(data))
    assert np.array_equal(from_pil(opened, ""), read(data)) and opened.tell() == 0


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_fewer_bits_in_sixteen_are_scaled_by_their_range(bits: int, file_format: str) -> None:
    eight = np.asarray(gradient().convert("L")).astype(np.uint16)
    values = eight << (bits - 8)
    values[0, 0] = (1 << bits) - 1
    grey = np.asarray(read(encode(Image.fromarray(values), file_format)))[..., 0]
    assert np.array_equal(grey.ravel()[1:], eight.ravel()[1:])


def wide_png(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits per value, which Pillow does not write: [H, W, C] of grey and alpha, RGB or RGBA."""
    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def wide_tiff(values: NDArray[np.uint16], order: str, compressed: bool = False) -> bytes:
    """A TIFF of 16 bits per value [H, W, 3]."""
    height, width, channels = values.shape
    pixels = values.astype(order + "u2").tobytes()
    pixels = zlib.compress(pixels) if compressed else pixels
    end = 8 + len(pixels)
    short = {256: width, 257: height, 259: 8 if compressed else 1, 262: 2, 277: channels, 278: height}
    long = {258: end, 273: 8, 279: len(pixels)}  # 258 refers to the three depths
    directory = struct.pack(order + "H", 9)
    for tag, value in sorted({**short, **long}.items()):
        kind, count = (3, channels) if tag == 258 else (3, 1) if tag in short else (4, 1)
        field = struct.pack(order + "HH", value, 0) if tag in short else struct.pack(order + "I", value)
        directory += struct.pack(order + "HHI", tag, kind, count) + field
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, end + 2 * channels)
    return head + pixels + struct.pack(order + "HHH", 16, 16, 16) + directory + bytes(4)


TIFFS = ("tiff <", "tiff >", "compressed tiff <", "compressed tiff >")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["png", "png with alpha", "png grey with alpha", *TIFFS])
def test_fewer_bits_in_sixteen_of_colours_are_scaled_like_grey(bits: int, form: str) -> None:
    eight = np.asarray(gradient()).astype(np.uint16)
    values = (eight << (bits - 8)) + (1 if bits > 8 else 0)
    values[0, 0] = (1 << bits) - 1
    opaque = np.full((*values.shape[:2], 1), (1 << bits) - 1, np.uint16)
    expected = np.asarray(gradient()).copy()
    if form == "png":
        data = wide_png(values)
    elif form == "png with alpha":
        data = wide_png(np.concatenate([values, opaque], axis=2))
    elif form == "png grey with alpha":
        data = wide_png(np.concatenate([values[:, :, :1], opaque], axis=2))
        expected = expected[:, :, :1].repeat(3, axis=2)
    else:
        data = wide_tiff(values, form[-1], "compressed" in form)
    assert np.array_equal(np.asarray(read(data))[1:], expected[1:])


def test_a_pil_image_without_its_low_bytes_is_refused() -> None:
    values = np.asarray(gradient()).astype(np.uint16) << 2
    with pytest.raises(UnreadableImage, match="16-bit colours, of which Pillow keeps 8 bits; pass the file instead"):
        from_pil(Image.open(io.BytesIO(wide_png(values))), "0")
    bright = Image.open(io.BytesIO(wide_png(values << 6)))
    assert np.array_equal(from_pil(bright, "0"), gradient())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipes_and_devices_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert reason(tmp_path / "a.jpg") == "is not a regular file; pass its contents on standard input"
    assert "not a regular file" in reason("/dev/zero")


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_process_substitution_is_read() -> None:
    reader, writer = os.pipe()
    data = encode(gradient(), "PNG")
    with ThreadPoolExecutor(1) as pool, open(writer, "wb") as pipe:
        image = pool.submit(read, f"/dev/fd/{reader}")
        pipe.write(data)
        pipe.close()
        assert np.array_equal(image.result(), gradient())
    os.close(reader)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_reading_reserves_no_more_memory_than_the_file_needs(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    code = (
        "import resource, sys; from blip_lite.image import read; "
        "used = int(open('/proc/self/statm').read().split()[0]);"
        "limit = used * 4096 + (200 << 20); resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); read(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True, timeout=60)


def test_large_images_are_decoded_one_at_a_time() -> None:
    budget = PixelBudget(100)
    order: list[str] = []
    with ThreadPoolExecutor(2) as pool, budget.admit(60):
        large = pool.submit(lambda: admitted(budget, 500, order, "large"))
        small = pool.submit(lambda: admitted(budget, 40, order, "small"))
        small.result(timeout=10)
        assert not large.done()
        order.append("first")
    large.result(timeout=10)
    assert order == ["small", "first", "large"]


def admitted(budget: PixelBudget, pixels: int, order: list[str], name: str) -> None:
    with budget.admit(pixels):
        order.append(name)
