"""Checks of `blip doctor`: results of the bundled model on every device against recorded ones, and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from blip import api
from blip_lite.text_files import load_json_object

PHOTO = Path(__file__).parents[2] / "assets" / "examples" / "chelsea.jpg"
MODEL = api.DEFAULT
BUNDLED = ("tiny", "tiny-vqa")
# results of `tiny` for PHOTO on a CPU in fp32, written by `make renew`: caption, first eight numbers of the vector
RECORDED = Path(__file__).with_name("recorded.json")
_recorded = load_json_object(RECORDED)
CAPTION: str = _recorded["caption"]
VECTOR: tuple[float, ...] = tuple(_recorded["vector"])
TOLERANCE = {
    "fp32": 1e-3,  # JPEG decoders differ by a level
    "bf16": 2e-2,
    "int8": 2e-2,
    "fp16": 5e-3,
}
OK = "ok"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One device and precision; `needed`: a failure means that captions do not work on this machine."""

    device: str
    dtype: str
    needed: bool

    @property
    def name(self) -> str:
        return f"{self.device} {self.dtype}"


def trials() -> Iterator[Trial]:
    """Yield the CPU in every precision that it is fast in, every accelerator in fp32 and that of --dtype auto."""
    import torch

    from blip.model import int8_linear

    yield Trial(device="cpu", dtype="fp32", needed=True)
    yield Trial(device="cpu", dtype="bf16", needed=False)
    if int8_linear.supports():
        yield Trial(device="cpu", dtype="int8", needed=False)
    for i in range(torch.cuda.device_count()):
        fast = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        yield from (Trial(device=f"cuda:{i}", dtype=dtype, needed=True) for dtype in ("fp32", fast))
    if torch.backends.mps.is_available():
        yield Trial(device="mps", dtype="fp32", needed=False)  # used on request only


def parity(trial: Trial) -> str:
    """Compare caption and vector of the photo with the recorded ones."""
    start = time.perf_counter()
    model = api.load(MODEL, device=trial.device, dtype=trial.dtype, offline=True)
    caption = model.caption(PHOTO).text
    vector = model.embed_image([PHOTO]).vectors[0][: len(VECTOR)]
    seconds = time.perf_counter() - start
    difference = max(abs(float(a) - b) for a, b in zip(vector, VECTOR, strict=True))
    result = f"'{caption}' in {seconds:.1f} s, vector differs by {difference:.1e}"
    if trial.dtype == "fp32" and caption != CAPTION:
        return f"wrong: {result}; the caption must be '{CAPTION}'"
    if not difference <= TOLERANCE[trial.dtype]:
        return f"wrong: {result}; at most {TOLERANCE[trial.dtype]:.0e} is rounding"
    return f"{OK}, {result}"


def random_model() -> str:
    """Caption an image with random weights, which need no files."""
    import numpy as np

    start = time.perf_counter()
    api.load("random-tiny", device="cpu", offline=True).caption(np.full((64, 64, 3), 127, np.uint8))
    return f"{OK}, a caption in {time.perf_counter() - start:.1f} s"


def packages() -> str:
    """Compare the installed packages with what this one requires."""
    from packaging.requirements import Requirement

    problems = []
    for text in requires("blip-vlm") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{requirement.name} is {installed}, must be {requirement.specifier}")
    return f"wrong: {'; '.join(problems)}" if problems else f"{OK}, all required versions"


def bundled_files() -> str:
    """Compare the files of the bundled models with their recorded sums."""
    from blip.checkpoint.registry import verify

    for name in BUNDLED:
        verify(name)
    return f"{OK}, {' and '.join(BUNDLED)} as recorded"


def exported() -> str:
    """Compare the caption that onnxruntime computes, the default of `blip caption`, with the recorded one."""
    start = time.perf_counter()
    caption = api.open_model(MODEL, backend="onnx").caption(PHOTO).text
    result = f"'{caption}' in {time.perf_counter() - start:.1f} s"
    return f"{OK}, {result}" if caption == CAPTION else f"wrong: {result}; must be '{CAPTION}'"


CHECKS = {
    "packages": packages,
    "bundled files": bundled_files,
    "random-tiny": random_model,
    "tiny, onnxruntime": exported,
}  # needed on every machine


def outcome(check: Callable[..., str], *args: Any) -> str:  # Any: passed on to `check`
    """Return the result of a check, or the error that it raises: a report must not fail."""
    try:
        return check(*args)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def speed() -> dict[str, str]:
    """Return images per second of the bundled model by batch size."""
    import numpy as np

    model, speeds = api.load(MODEL), {}
    images = list(np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), dtype=np.uint8))
    for size in (1, 4, 16):
        model.caption(images[:size])
        start = time.perf_counter()
        model.caption(images, batch_size=size)
        speeds[f"batches of {size}"] = f"{len(images) / (time.perf_counter() - start):.1f} on {model.backend.device}"
    return speeds
