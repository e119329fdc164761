"""Quality of the filter: precision, recall and AUC of finding corrupted captions, per kind of corruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from blip.capfilt.record import score_files
from experiments.capfilt.corrupt import KINDS, TRUE
from experiments.tiny.calibration import auc


def filter_quality(folder: Path, threshold: float) -> dict[str, Any]:
    """Return the quality of the scores in a folder at a threshold of the match probability.

    kept: shares of web and synthetic captions that are kept. true: precision and recall of the captions that are kept,
    as true ones. Per kind of corruption: recall, the share of its captions that is dropped; precision, the share of
    these in what is dropped of them and of as many true captions; AUC of match probability (itm) and cosine (itc)
    between true captions and those of the kind. "all": the same for all kinds together.
    """
    tables = [pq.read_table(path, columns=["kind", "noise", "itm", "itc"]) for path in score_files(folder)]
    column = {name: np.concatenate([table[name].to_numpy() for table in tables]) for name in ("kind", "noise")}
    score = {name: np.concatenate([table[name].to_numpy() for table in tables]) for name in ("itm", "itc")}
    kept = score["itm"] >= threshold
    web, noise = column["kind"] == "web", column["noise"]
    true = web & (noise == TRUE)
    kinds = {kind: web & (noise == kind) for kind in KINDS} | {"all": web & (noise != TRUE)}
    return {
        "kept": {kind: float(kept[column["kind"] == kind].mean()) for kind in ("web", "synthetic")},
        TRUE: {"precision": share(true, web & kept), "recall": share(kept, true)},
        **{
            name: detection(true, false, kept)
            | {f"auc_{key}": auc(value[true].tolist(), value[false].tolist()) for key, value in score.items()}
            for name, false in kinds.items()
        },
    }


def detection(true: NDArray[np.bool_], false: NDArray[np.bool_], kept: NDArray[np.bool_]) -> dict[str, float]:
    """Precision and recall of dropping the false captions, with true and false ones equally frequent."""
    recall, false_alarms = share(~kept, false), share(~kept, true)
    return {"precision": recall / max(recall + false_alarms, 1e-9), "recall": recall}


def share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    """Share of `whole` that is in `part`; 0 of nothing."""
    return float((part & whole).sum() / max(whole.sum(), 1))
