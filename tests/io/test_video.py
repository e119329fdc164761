"""Frames of a clip: numbers, rotation, and the errors of damaged clips."""

from __future__ import annotations

import os
import pickle
import random
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from blip.io import video
from blip.io.video import Frame, frame_inputs, frame_numbers, frames_of, read_frames
from blip_lite.errors import ConfigError, MissingExtra, UnreadableImage
from tests.oracle_files import values

STEP = 4  # grey levels from one frame to the next
CONTAINERS = [
    ("v.mp4", "libx264"),
    ("v.mov", "mpeg4"),
    ("v.avi", "mpeg4"),
    ("v.mkv", "libx264"),
    ("v.webm", "libvpx"),
    ("v.mpg", "mpeg2video"),
    ("v.wmv", "wmv2"),
    ("v.flv", "flv"),
    ("v.ts", "libx264"),
]


def grey(number: int) -> Image.Image:
    return Image.new("RGB", (64, 48), (STEP * number,) * 3)


def write_clip(
    path: Path, codec: str = "libx264", *, frames: int = 60, options: dict[str, str] | None = None, **how: Any
) -> Path:
    """Write a clip of 25 (or `rate`) frames per second, a key frame every 12, of rising brightness or `pictures`."""
    with av.open(str(path), "w", format=how.get("format"), options=options or {}) as file:
        file.metadata["title"] = "TITLE"
        stream: Any = file.add_stream(codec, rate=how.get("rate", 25))
        pictures = how.get("pictures") or [grey(i) for i in range(frames)]
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt, stream.gop_size, stream.bit_rate = "yuv420p", 12, 2_000_000
        stream.options = {
            "libx264": {"bf": "2", "qp": "0", "sc_threshold": "0"},
            "libvpx": {"deadline": "realtime", "cpu-used": "8"},
        }.get(codec, {})
        if "turn" in how:
            stream.set_display_rotation(how["turn"], hflip=how["mirror"])
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_image(picture)))
        file.mux(stream.encode(None))
    return path


def damage(path: Path) -> Path:
    """Damage a frame or two between the second and the third key frame."""
    with av.open(str(path)) as file:
        packet = [p for p in file.demux(video=0) if p.size][14]
    data = bytearray(path.read_bytes())
    place = data.index(bytes(packet), packet.pos)
    data[place : place + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    return path


def number(image: Image.Image) -> int:
    """Return the number of a frame of `write_clip`."""
    return round(float(np.asarray(image).mean()) / STEP)


def seen(path: Path, *args: Any) -> list[int]:
    return [number(sample.read()) for sample in frame_inputs(path, *args)]


def reason(path: Path) -> str:
    """Return the reason why a clip cannot be read, which is the same by number and as the only input."""
    with pytest.raises(UnreadableImage) as by_number:
        read_frames(path, 8)
    (sample,) = frame_inputs(path)
    with pytest.raises(UnreadableImage) as by_time:
        sample.read()
    assert by_number.value.key == by_time.value.key == sample.key == str(path)
    assert by_number.value.reason == by_time.value.reason and "\n" not in by_time.value.reason
    return by_time.value.reason


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """60 frames in 2.4 s."""
    return write_clip(tmp_path / "v.mp4")


@pytest.fixture(autouse=True)
def _silence(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Check that messages of the decoder do not reach the terminal."""
    yield
    assert capfd.readouterr().err == ""


def test_uniform_numbers_equal_the_original() -> None:
    for length, count, numbers in values("video")["uniform_frames"]:
        assert frame_numbers(length, count) == numbers


def test_linspace_goes_from_the_first_frame_to_the_last() -> None:
    assert frame_numbers(60, 8, "linspace") == [0, 8, 17, 25, 34, 42, 51, 59]
    assert frame_numbers(3, 5, "linspace") == [0, 0, 1, 2, 2] and frame_numbers(9, 1, "linspace") == [0]


def test_other_strategies_are_errors() -> None:
    for count, frame_sampling in ((8, "headtail"), (0, "uniform")):
        with pytest.raises(ConfigError, match=r"must be at least 1, uniform or linspace"):
            frame_numbers(60, count, frame_sampling)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
def test_frames_of_every_container_have_the_requested_numbers(name: str, codec: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / name, codec)
    assert [number(image) for image in read_frames(path, 8)] == [0, 7, 14, 21, 28, 35, 42, 49]
    assert [number(image) for image in read_frames(path, 4, frame_sampling="linspace")] == [0, 20, 39, 59]


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
def test_frames_are_the_same_in_any_order(name: str, codec: str, tmp_path: Path) -> None:
    frames = frames_of(write_clip(tmp_path / name, codec), fps=25)
    in_order = [frame.read_image() for frame in frames]
    if name != "v.mpg":  # which has a time for every few frames only
        assert [number(image) for image in in_order] == list(range(60))
    order = random.Random(0).sample(range(60), 60)
    assert [frames[i].read_image() for i in order] == [in_order[i] for i in order]


def test_short_clips_repeat_the_first_frame_as_in_the_original(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "v.mp4", frames=3)
    assert [number(image) for image in read_frames(path, 8)] == [0] * 8
    assert [number(image) for image in read_frames(path, 3, frame_sampling="linspace")] == [0, 1, 2]
    sample = write_clip(tmp_path / "one.mkv", frames=1)
    assert [number(image) for image in read_frames(sample, 2, frame_sampling="linspace")] == [0, 0]


def test_inputs_have_the_time_in_their_keys(clip: Path) -> None:
    times = ("0.300", "0.900", "1.500", "2.100")
    assert [sample.key for sample in frame_inputs(clip, 4)] == [f"{clip}#t={time}" for time in times]
    assert [sample.key for sample in frame_inputs(clip, fps=1, key="k")] == ["k#t=0.000", "k#t=1.000", "k#t=2.000"]


def test_inputs_are_the_middles_of_equal_parts_or_at_a_rate(clip: Path) -> None:
    assert seen(clip, 4) == [7, 22, 37, 52]
    assert seen(clip, 8, 5) == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55]
    assert seen(clip, 8, 12.5)[:4] == [0, 2, 4, 6]


def test_the_clips_own_rate_yields_all_frames(tmp_path: Path) -> None:
    assert seen(write_clip(tmp_path / "v.mp4", rate=30), 8, 30) == list(range(60))


def test_times_after_the_end_are_errors(clip: Path) -> None:
    assert number(Frame(clip, 2399).read_image()) == 59
    with pytest.raises(UnreadableImage, match=r"no frame at 9.000 s, the last ends at 2.400 s"):
        Frame(clip, 9000).read_image()


def test_a_clip_with_few_frames_has_few_inputs(tmp_path: Path) -> None:
    assert seen(write_clip(tmp_path / "v.mp4", frames=3)) == [0, 1, 2]
    assert seen(write_clip(tmp_path / "v.mkv", frames=1)) == [0]


def test_slow_clips_have_frames_of_several_seconds(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "v.avi", "mpeg4", frames=20, rate=Fraction(1, 4))
    times = [sample.key.partition("#t=")[2] for sample in frame_inputs(path, 4)]
    assert times == ["10.000", "30.000", "50.000", "70.000"]
    assert seen(path, 4) == [2, 7, 12, 17] and seen(path, 8, 0.1) == [0, 2, 5, 7, 10, 12, 15, 17]


def test_inputs_can_be_sent_to_another_process(clip: Path) -> None:
    sample = frame_inputs(clip, 1)[0]
    assert pickle.loads(pickle.dumps(sample)).read().tobytes() == sample.read().tobytes() and sample.path is None


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_frames_are_rotated_by_the_display_matrix(turn: int, mirror: bool, tmp_path: Path) -> None:
    stored = Image.new("RGB", (64, 48), "blue")
    stored.paste("yellow", (0, 0, 32, 48))
    stored.paste("red", (0, 0, 32, 24))
    path = write_clip(tmp_path / "v.mov", pictures=[stored] * 3, turn=turn, mirror=mirror)
    expected = stored.rotate(turn, expand=True)
    expected = ImageOps.mirror(expected) if mirror else expected
    for image in (read_frames(path, 1)[0], frame_inputs(path)[1].read()):
        assert image.size == expected.size
        assert np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean() < 8


def test_a_damaged_part_fails_its_own_frames(clip: Path) -> None:
    good, failed = [], []
    for frame in frames_of(damage(clip), fps=25):
        try:
            good.append(number(frame.read_image()))
        except UnreadableImage as error:
            failed.append(error.reason)
    assert good == [*range(len(good) - 36), *range(24, 60)] and 12 < len(good) - 36 < 24
    assert all(text.startswith("cannot be decoded at ") for text in failed) and len(failed) == 60 - len(good)
    with pytest.raises(UnreadableImage, match=rf"^{clip}: cannot be decoded"):
        read_frames(clip, 60)


def test_damage_before_a_later_key_frame_does_not_matter(tmp_path: Path) -> None:
    path = damage(write_clip(tmp_path / "v.mkv"))
    assert [number(Frame(path, time).read_image()) for time in (0, 2000)] == [0, 50]
    with pytest.raises(UnreadableImage, match="cannot be decoded"):
        read_frames(path, 8)


def test_frames_that_the_decoder_invents_are_errors(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "v.flv", "flv")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8] = b"\xaa" * 8
    path.write_bytes(data)
    with pytest.raises(UnreadableImage, match=r"cannot be decoded \(its data is damaged\)"):
        read_frames(path, 60)


def test_a_truncated_clip_ends_at_its_last_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "v.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    numbers = [number(image) for image in read_frames(path, 3, frame_sampling="linspace")]
    assert numbers[0] == 0 and 24 < numbers[-1] < 50
    assert all(n <= numbers[-1] for n in seen(path))


def test_damaged_clips_have_a_reason_of_one_line(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "v.mp4").read_bytes()
    path = tmp_path / "w.mp4"
    for data, expected in (
        (b"", "empty file (0 bytes)"),
        (b"no video" * 99, "damaged or not a video (Invalid data"),
        (whole[: len(whole) // 2], "damaged or not a video ("),
    ):
        path.write_bytes(data)
        assert reason(path).startswith(expected)
    assert reason(tmp_path / "none.mp4") == "no such file"


def test_a_header_with_too_many_frames_does_not_lose_the_existing_ones(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "v.mp4", options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UnreadableImage, match=rf"^{path}: cannot be decoded"):
        read_frames(path, 8)
    inputs = frame_inputs(path)
    shown = [number(sample.read()) for sample in inputs[:6]]
    assert len(inputs) == 8 and shown == sorted(set(shown)) and 6 <= shown[-1] < 40


def test_files_without_usable_frames_have_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        sound = file.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        file.mux(sound.encode(silence))
        file.mux(sound.encode(None))
    assert reason(tmp_path / "sound.mp4") == "contains no video"
    bare = write_clip(tmp_path / "bare.mp4", format="h264")
    assert reason(bare).startswith("a bare stream without times")
    path = write_clip(tmp_path / "v.mkv")
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_XXXX4/ISO/AVC"))
    assert reason(path) == "its codec is not known"
    monkeypatch.setattr(video, "MAX_PIXELS", 1000)
    assert reason(write_clip(tmp_path / "v.mp4")) == "frames of 64x48 pixels; too large"


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_odd_names_and_titles_do_not_matter(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip.write_bytes(clip.read_bytes().replace(b"TITLE", b"\xff\xfe\xe9LE"))
    monkeypatch.chdir(clip.parent)
    odd = clip.rename("a:b %d\n.mp4")
    assert number(read_frames(odd, 1, frame_sampling="linspace")[0]) == 0 and len(seen(odd)) == 8


def test_without_the_extra_the_install_command_is_shown(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (read_frames, frame_inputs):
        with pytest.raises(MissingExtra, match=r'v.mp4 is a video; video input needs an extra: pip install "blip-vlm'):
            call(clip, 8)
