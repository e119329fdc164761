"""Models can be pickled and copied, and work in a forked process, on both backends."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

import blip
import blip_lite
from blip_lite import errors
from blip_lite.model import Model

PHOTO = Path(__file__).parents[1] / "examples/chelsea.png"
LOADERS: dict[str, Callable[[], Model]] = {
    "onnx": lambda: blip_lite.load(threads=2),
    "torch": lambda: blip.load("tiny"),
}
fork_only = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork"
)


@pytest.fixture(scope="module", params=LOADERS)
def model(request: pytest.FixtureRequest) -> Model:
    return LOADERS[request.param]()


def test_pickled_and_copied_models_caption_alike(model: Model) -> None:
    expected = model.caption(PHOTO)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert other.caption(PHOTO) == expected
    assert model.caption(PHOTO) == expected


def _send_caption(model: Model, sender: Connection) -> None:
    sender.send(model.caption(PHOTO).text)


@fork_only
def test_models_caption_in_a_forked_process(model: Model) -> None:
    """Threads of the parent have computed before, and one holds the lock: they do not exist in the child."""
    context = multiprocessing.get_context("fork")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = model.caption(PHOTO).text
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_send_caption, args=(model, sender))
        lock = getattr(model.backend, "_lock", None) or model.backend.sessions._lock
        with lock:
            process.start()
        try:
            assert receiver.poll(60), "the process hangs"
            assert receiver.recv() == expected
            process.join(20)
            assert process.exitcode == 0
        finally:
            process.kill()
    finally:
        torch.set_num_threads(threads)


@fork_only
def test_a_model_on_a_gpu_is_refused_in_a_forked_process(monkeypatch: pytest.MonkeyPatch) -> None:
    model = blip.load_random()
    monkeypatch.setattr(type(model.backend), "device", torch.device("cuda"))
    model.backend.after_fork()
    with pytest.raises(errors.EnvironmentProblem, match="does not work in a forked process; load it there"):
        model.embed_text("a cat")


@pytest.mark.parametrize(
    "error",
    [
        errors.UnknownKey("train.stesp", ["steps", "seed"]),
        errors.MissingPart("model 'x' cannot answer", "answer"),
        errors.UnreadableImage("a.jpg", "empty file"),
        errors.BadRecord("a.jsonl:3", "no image", "key"),
        *(kind("message") for kind in (errors.UsageError, errors.ConfigError, errors.MissingExtra)),
    ],
)
def test_errors_cross_processes(error: errors.BlipError) -> None:
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))
