"""Frames of video files, by number as in the original or by time (PyAV, the extra `video`).

A clip is decoded from the key frame before each requested frame, or from the last frame read if that is shorter; two
frames are held at a time. The container's rotation by quarter turns and mirroring are applied.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args

from PIL.Image import Image, Transpose

from blip.io.byte_sources import MissingSource
from blip.io.paths import key_of
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import ConfigError, MissingExtra, UnreadableImage
from blip_lite.image import MAX_PIXELS, check_size

if TYPE_CHECKING:
    from av import VideoFrame

FrameSampling = Literal["uniform", "linspace"]

_NO_FRAME = "contains no frame"
_DECODE_SECONDS = 10  # in a file without index: nearer frames are reached by decoding, farther ones by seeking
_INEXACT = "mpeg"  # container (.mpg) in which frames have the times of their neighbours after a seek
_NO_TIMES = 0x80  # AVFMT_NOTIMESTAMPS
_TURNS = {  # by the images of the axes under the display matrix: x to (a, b), y to (c, d)
    (-1, 0, 0, -1): Transpose.ROTATE_180,
    (0, 1, -1, 0): Transpose.ROTATE_270,
    (0, -1, 1, 0): Transpose.ROTATE_90,
    (-1, 0, 0, 1): Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Transpose.TRANSPOSE,
    (0, -1, -1, 0): Transpose.TRANSVERSE,
}
_local = threading.local()  # .reader: the reader of the clip that this thread read last


@dataclass(frozen=True, slots=True)
class Frame:
    """The frame that a clip shows at a time after its start."""

    clip: Path
    milliseconds: int

    def read_image(self, *, max_pixels: int = MAX_PIXELS) -> Image:
        """Decode the frame, upright and RGB. A thread that reads frames in order decodes the clip once."""
        reader = _local.__dict__.pop("reader", None)
        with _failures(self.clip, f"cannot be decoded at {self.milliseconds / 1000:.3f} s"):
            if reader is None or reader.path != self.clip:
                reader = _Reader(self.clip)
            image = _upright(reader.shown_at(self.milliseconds))
        _local.reader = reader
        check_size(key_of(os.fspath(self.clip)), image.size, max_pixels)
        return image


def frame_inputs(
    path: str | os.PathLike[str], frames: int = 8, fps: float | None = None, *, key: str | None = None
) -> list[Sample]:
    """Return a sample for each frame of `frames_of`; keys are the clip's key and the time: `v.mp4#t=12.480`.

    A clip that cannot be opened is one sample, which fails when it is read. Raises MissingExtra.
    """
    key = key_of(os.fspath(path)) if key is None else key
    try:
        clip_frames = frames_of(path, frames, fps)
    except UnreadableImage as error:
        return [Sample(key=key, images=(ImageRef(MissingSource(key, error.reason)),))]
    return [Sample(key=f"{key}#t={frame.milliseconds / 1000:.3f}", images=(ImageRef(frame),)) for frame in clip_frames]


def frames_of(path: str | os.PathLike[str], count: int = 8, fps: float | None = None) -> list[Frame]:
    """Return the middle frames of `count` equal parts of a clip, or `fps` frames per second, without decoding them.

    A clip with fewer frames returns all of them. Raises UnreadableImage, MissingExtra.
    """
    path = Path(path)
    with _failures(path):
        reader = _Reader(path)
        seconds, frames, rate = reader.seconds(), reader.stream.frames, reader.stream.average_rate
    if fps is not None:
        step = 1 / Fraction(str(fps))
        return [Frame(path, ceil(1000 * i * step)) for i in range(ceil(seconds / step))]
    count = min(count, frames or (ceil(seconds * rate) if rate else count))
    return [Frame(path, int(1000 * seconds * (2 * i + 1) / (2 * count))) for i in range(count)]


def read_frames(path: str | os.PathLike[str], count: int, *, frame_sampling: FrameSampling = "uniform") -> list[Image]:
    """Return `count` upright RGB frames of a clip, those of `frame_numbers`.

    Raises UnreadableImage if the clip or one of these frames cannot be decoded, MissingExtra.
    """
    path = Path(path)
    with _failures(path):
        reader = _Reader(path)
        for list_stamps in (reader.packet_stamps, reader.frame_stamps):
            stamps = list_stamps()
            numbers = frame_numbers(len(stamps), count, frame_sampling)
            frames = {n: reader.at(stamps[n]) for n in sorted(set(numbers))} if stamps else {}
            if frames and all(frame.pts == stamps[n] for n, frame in frames.items()):
                images = {n: _upright(frame) for n, frame in frames.items()}
                return [images[n] for n in numbers]
    raise UnreadableImage(key_of(os.fspath(path)), _NO_FRAME)


def frame_numbers(length: int, count: int, frame_sampling: FrameSampling = "uniform") -> list[int]:
    """Return the numbers of the frames of a clip to use.

    uniform: as the original. Its step is a whole number, so the end is left out, and a clip shorter than `count` is
    represented by its first frame (blip-spec 5.7). linspace: evenly from the first frame to the last.
    """
    if count < 1 or frame_sampling not in get_args(FrameSampling):
        raise ConfigError(
            f"{count} frames, '{frame_sampling}'; must be at least 1, {' or '.join(get_args(FrameSampling))}"
        )
    if frame_sampling == "uniform":
        return [i * (length // count) for i in range(count)]
    return [round(i * (length - 1) / max(1, count - 1)) for i in range(count)]


class _Reader:
    """An open clip and its current frame. Stamps are times in units of `stream.time_base`."""

    def __init__(self, path: Path) -> None:
        self.path, self._key = path, key_of(os.fspath(path))
        self._av = _av(path)
        if path.stat().st_size == 0:
            raise UnreadableImage(self._key, "empty file (0 bytes)")
        self._open()

    def _open(self) -> None:
        """Open the clip at its beginning, for the first time or again."""
        # "file:" for names with a colon; the whitelist keeps files from opening sockets
        with _failures(self.path, "damaged or not a video"):
            self._container = self._av.open(
                f"file:{os.fspath(self.path)}", metadata_errors="replace", options={"protocol_whitelist": "file"}
            )
        self.stream = _video_stream(self._container, self._key)
        self._start: int = self.stream.start_time or 0
        self._begin(self._decode(sought=False))

    def _begin(self, frames: Iterator[VideoFrame]) -> None:
        self._frames = frames
        self._shown: VideoFrame | None = None
        self._next: VideoFrame | None = None

    def _decode(self, *, sought: bool) -> Iterator[VideoFrame]:
        """Yield frames from the container's position. After a seek, damage before the first whole frame is skipped."""
        for packet in self._container.demux(self.stream):
            try:
                frames = packet.decode()
            except self._av.FFmpegError:
                if not sought:
                    raise
                continue
            for frame in frames:
                if frame.pts is not None:
                    sought = False
                    yield frame

    def _units(self, seconds: Fraction) -> int:
        return int(seconds / self.stream.time_base)

    def seconds(self) -> Fraction:
        """Return the time from the start to the end of the last frame, by the packets near the end."""
        claimed = self.stream.duration or self._units(Fraction(self._container.duration or 0, 10**6))
        self._seek(self._start + claimed)
        ends = self._ends()
        if not ends:
            self._open()
            ends = self._ends()
        if not ends:
            raise UnreadableImage(self._key, _NO_FRAME)
        unit: Fraction = self.stream.time_base
        return max(1, max(ends) - self._start) * unit

    def _ends(self) -> list[int]:
        return [p.pts + (p.duration or 0) for p in self._container.demux(self.stream) if p.pts is not None]

    def packet_stamps(self) -> list[int]:
        """Return the stamp of each frame in display order, by packets; none if the header has another count."""
        packets = self._container.demux(self.stream)
        stamps = sorted(p.pts for p in packets if p.pts is not None and p.size and not p.is_discard)
        self._open()
        return stamps if len(stamps) == self.stream.frames else []

    def frame_stamps(self) -> list[int]:
        """Return the same by decoding the whole clip."""
        self._open()
        stamps = [frame.pts or 0 for frame in self._frames]
        self._open()
        return stamps

    def shown_at(self, milliseconds: int) -> VideoFrame:
        """Return the frame displayed at a time after the start."""
        stamp = self._start + self._units(Fraction(milliseconds, 1000))
        frame = self.at(stamp)
        length = max(frame.duration or 0, self._units(1 / Fraction(self.stream.average_rate or 1)))
        end = (frame.pts or 0) + length
        if self._next is None and stamp > end + length:
            at, last = milliseconds / 1000, float((end - self._start) * self.stream.time_base)
            raise UnreadableImage(self._key, f"no frame at {at:.3f} s, the last ends at {last:.3f} s")
        return frame

    def at(self, stamp: int) -> VideoFrame:
        """Return the last frame that does not begin after a stamp, or the first frame."""
        if self._is_near(stamp):
            with contextlib.suppress(self._av.FFmpegError):  # damage that a seek may avoid
                return self._forward(stamp)
        back = 0
        while stamp - back > self._start and self._seek(stamp - back):
            with contextlib.suppress(UnreadableImage):  # no frame after that position
                frame = self._forward(stamp)
                if (frame.pts or 0) <= stamp:
                    return frame
            back = 2 * back + max(1, self._units(Fraction(1)))  # a seek only lands near the preceding key frame
        self._open()
        return self._forward(stamp)

    def _is_near(self, stamp: int) -> bool:
        """Whether to reach a stamp by decoding: no key frame is known in between, and it is near."""
        begin = None if self._shown is None else self._shown.pts
        if begin is None or begin > stamp:
            return False
        if self._container.format.name == _INEXACT:
            return True
        index = self.stream.index_entries
        key = index.search_timestamp(stamp)
        known = key >= 0 and index[key].timestamp > begin
        return not known and stamp - begin <= self._units(Fraction(_DECODE_SECONDS))

    def _seek(self, stamp: int) -> bool:
        if self._container.format.name == _INEXACT:
            return False
        try:
            self._container.seek(stamp, stream=self.stream)
        except self._av.FFmpegError:
            return False
        self._begin(self._decode(sought=True))
        return True

    def _forward(self, stamp: int) -> VideoFrame:
        """Return the last of the following frames that does not begin after a stamp, else the first of them."""
        if self._shown is None:
            self._shown, self._next = next(self._frames, None), next(self._frames, None)
        while self._next is not None and (self._next.pts or 0) <= stamp:
            self._shown, self._next = self._next, next(self._frames, None)
        if self._shown is None:
            raise UnreadableImage(self._key, _NO_FRAME)
        return self._shown


def _video_stream(container: Any, key: str) -> Any:
    """Return the stream to decode."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & stream.disposition.attached_pic:
        raise UnreadableImage(key, "contains no video")
    if container.format.flags & _NO_TIMES:
        raise UnreadableImage(key, "a bare stream without times; put it into a container such as mp4 first")
    codec = stream.codec_context
    if codec is None:
        raise UnreadableImage(key, "its codec is not known")
    if codec.width * codec.height > MAX_PIXELS:
        raise UnreadableImage(key, f"frames of {codec.width}x{codec.height} pixels; too large")
    return stream


def _upright(frame: Any) -> Image:
    """Return a decoded frame as RGB, rotated by its display matrix."""
    if frame.is_corrupt:
        raise ValueError("its data is damaged")  # the decoder invented the rest
    image: Image = frame.to_image()
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    least = max(abs(x) for x in (a, b, c, d)) / 2  # a scaled or slightly rotated matrix counts as straight
    turn = _TURNS.get(tuple((x > least) - (x < -least) for x in (a, b, c, d)))
    return image if turn is None else image.transpose(turn)


def _av(path: Path) -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise MissingExtra(f'{path} is a video; video input needs an extra: pip install "blip-vlm[video]"') from error
    return av


@contextlib.contextmanager
def _failures(path: Path, what: str = "cannot be decoded") -> Iterator[None]:
    """Turn every failure of a clip into `UnreadableImage`; `what` describes a decoder error."""
    key = key_of(os.fspath(path))
    try:
        yield
    except (UnreadableImage, MissingExtra):
        raise
    except FileNotFoundError as error:
        raise UnreadableImage(key, "no such file") from error
    except Exception as error:  # decoders raise almost any type on damaged files
        what = "cannot be read" if isinstance(error, OSError) else what
        raise UnreadableImage(key, f"{what} ({getattr(error, 'strerror', None) or error})") from error
