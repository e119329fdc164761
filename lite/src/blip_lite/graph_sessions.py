"""The graphs of an exported folder, run by onnxruntime: opened on first use, with weights shared through one file.

Inputs and outputs, all numpy arrays:

    vision   pixel_values -> image_embeds, image_features
    text     input_ids, attention_mask -> states, text_features
    fuse     input_ids, attention_mask, image_embeds -> states
    match    input_ids, attention_mask, image_embeds -> logits
    reason   input_ids, attention_mask, first, second -> logits
    cross    source -> cross-attention keys and values of every layer
    decoder  ids, rows, past keys and values, cross-attention keys and values, mask -> scores, keys and values
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blip_lite.arrays import Floats, Ids
from blip_lite.errors import CheckpointError, MissingExtra
from blip_lite.fork import notify_after_fork
from blip_lite.weights_sniff import check_values

WEIGHTS = "model.safetensors"
Feeds = Mapping[str, NDArray[Any]]


class GraphSessions:
    """onnxruntime sessions by graph name. Several threads may use them; copies and forked processes open their own."""

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        """threads: number of threads per graph; None = the physical cores."""
        self.folder, self.threads = folder, threads
        self.graphs = frozenset(path.stem for path in folder.glob("*.onnx"))
        self._close()

    def _close(self) -> None:
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        notify_after_fork(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "threads": self.threads, "graphs": self.graphs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._close()

    def after_fork(self) -> None:
        """Forget the sessions, whose threads exist in the parent only."""
        for session in self._sessions.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))  # closing it would wait for those threads forever
        self._close()

    def run(self, graph: str, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Run a graph. Return the named outputs, or all of them in the graph's order."""
        values: list[NDArray[Any]] = self.session(graph).run(outputs, dict(feeds))
        return values

    def input_names(self, graph: str, prefix: str) -> list[str]:
        """Names of a graph's inputs that start with a prefix."""
        return [x.name for x in self.session(graph).get_inputs() if x.name.startswith(prefix)]

    def session(self, graph: str) -> Any:  # Any: onnxruntime has no types
        """The onnxruntime session of a graph (untyped there). Raises CheckpointError if the file is damaged."""
        with self._lock:
            if graph not in self._sessions:
                if not self._sessions and (self.folder / WEIGHTS).is_file():
                    check_values(self.folder / WEIGHTS)
                self._sessions[graph] = self._open(self.folder / f"{graph}.onnx")
            return self._sessions[graph]

    def _open(self, path: Path) -> Any:
        if not (self.folder / WEIGHTS).is_file():
            raise CheckpointError(f"{self.folder}: no {WEIGHTS}, which the graphs read; export the model again")
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra(f"onnxruntime cannot be imported ({error}): pip install onnxruntime") from error
        onnxruntime.disable_telemetry_events()  # some builds send them
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads or 0
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not spin
        try:
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a damaged file raises one of many types
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path}: cannot be opened; export the model again ({reason[:200]})") from error


class GraphStepper:
    """A `blip_lite.beam_search.Stepper` over the graph `decoder`, which selects the rows of its past itself."""

    def __init__(self, sessions: GraphSessions, cross: Sequence[Floats], mask: Ids | None = None) -> None:
        """cross: outputs of the graph `cross` for I sources; mask [I, N]: 1 = attend to this position."""
        self.sessions = sessions
        values: list[NDArray[Any]] = [*cross, *([] if mask is None else [mask])]
        self.cross: dict[str, NDArray[Any]] = dict(zip(sessions.input_names("decoder", "cross_"), values, strict=True))
        self.past: dict[str, Floats] = {}
        self.rows: Ids = np.empty(0, dtype=np.int64)

    def fork(self) -> GraphStepper:
        """An independent copy in the same state."""
        return copy(self)  # attributes are replaced, never modified in place

    def start(self, prompt: Ids, max_length: int) -> Floats:
        heads, width = self.cross["cross_keys_0"].shape[1::2]
        empty = np.empty((len(prompt), heads, 0, width), dtype=np.float32)
        self.past = dict.fromkeys(self.sessions.input_names("decoder", "past_"), empty)
        self.rows = np.arange(len(prompt))
        return self._scores(prompt)

    def _scores(self, ids: Ids) -> Floats:
        images = len(self.cross["cross_keys_0"])
        feeds = {"ids": ids.reshape(images, -1, ids.shape[1]), "rows": self.rows.reshape(images, -1)}
        scores, *past = self.sessions.run("decoder", {**feeds, **self.past, **self.cross})
        self.past = dict(zip(self.past, past, strict=True))
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
