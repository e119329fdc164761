"""The graphs of an exported folder, run by onnxruntime: opened when first used, weights shared through one file.

What each graph takes and gives stands in `blip.apps.export.graphs`. Arrays in, arrays out.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blip_lite.beam_search import Floats, Ids
from blip_lite.errors import CheckpointError, MissingExtra

WEIGHTS = "model.safetensors"
Feeds = Mapping[str, NDArray[Any]]


class Engine:
    """Sessions by graph name. Safe to use from several threads."""

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        """threads: of each graph; None = the physical cores."""
        self.folder, self.threads = folder, threads
        self.graphs = frozenset(path.stem for path in folder.glob("*.onnx"))
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    def run(self, graph: str, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """The outputs of a graph: all of them in its order, or those named."""
        found: list[NDArray[Any]] = self.session(graph).run(outputs, dict(feeds))
        return found

    def names(self, graph: str, start: str = "") -> list[str]:
        """The inputs of a graph whose names begin so."""
        return [one.name for one in self.session(graph).get_inputs() if one.name.startswith(start)]

    def session(self, graph: str) -> Any:
        """The onnxruntime session of a graph. Raises CheckpointError for one that is damaged or does not fit."""
        with self._lock:
            if graph not in self._sessions:
                self._sessions[graph] = self._open(self.folder / f"{graph}.onnx")
            return self._sessions[graph]

    def _open(self, path: Path) -> Any:
        if not (self.folder / WEIGHTS).is_file():
            raise CheckpointError(f"{self.folder}: no {WEIGHTS}, which the graphs read; export the model anew")
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra('exported models need an extra: pip install "blip-vlm[onnx]"') from error
        onnxruntime.disable_telemetry_events()  # which some builds send
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads or 0
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads burn no cores
        try:
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a damaged file raises one of many types
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path}: cannot be opened; export the model anew ({reason[:200]})") from error


class GraphStepper:
    """A `blip_lite.beam_search.Stepper` over the decoder's graph: rows are picked inside it, nothing is copied here."""

    def __init__(self, engine: Engine, cross: Sequence[Floats], mask: Ids | None = None) -> None:
        """cross: what the graph `cross` gave of I sources; mask [I, N], 1 = look there."""
        self.engine = engine
        given: list[NDArray[Any]] = [*cross, *([] if mask is None else [mask])]
        self.cross: dict[str, NDArray[Any]] = dict(zip(engine.names("decoder", "cross_"), given, strict=True))
        self.past: dict[str, Floats] = {}
        self.rows: Ids = np.empty(0, dtype=np.int64)

    def fork(self) -> GraphStepper:
        """Another that goes on from here by itself."""
        return copy(self)  # attributes are replaced, never changed

    def start(self, prompt: Ids, max_length: int) -> Floats:
        heads, width = self.cross["cross_keys_0"].shape[1::2]
        nothing = np.empty((len(prompt), heads, 0, width), dtype=np.float32)
        self.past = dict.fromkeys(self.engine.names("decoder", "past_"), nothing)
        self.rows = np.arange(len(prompt))
        return self._scores(prompt)

    def _scores(self, ids: Ids) -> Floats:
        images = len(self.cross["cross_keys_0"])
        feeds = {"ids": ids.reshape(images, -1, ids.shape[1]), "rows": self.rows.reshape(images, -1)}
        scores, *seen = self.engine.run("decoder", {**feeds, **self.past, **self.cross})
        self.past = dict(zip(self.past, seen, strict=True))
        self.rows = np.arange(len(ids))
        return np.reshape(scores, (len(ids), -1))

    def expand(self, times: int) -> None:
        self.rows = self.rows.repeat(times)

    def step(self, ids: Ids) -> Floats:
        return self._scores(ids[:, None])

    def reorder(self, rows: Ids) -> None:
        self.rows = self.rows[rows]

    def keep(self, images: Ids, rows: Ids) -> None:
        self.reorder(rows)
        self.cross = {name: x[images] for name, x in self.cross.items()}
