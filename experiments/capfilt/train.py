"""Training runs of the experiment, and the scores of a trained model. All runs read the cached features of the stem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blip.checkpoint.load import load
from blip.eval.caption import CaptionEval
from blip.eval.retrieval import RetrievalEval
from blip.eval.run import run
from blip.tasks import build_task
from blip.train import TrainConfig, fit
from experiments.capfilt.data import DEV, CachedPhotos, Files, dev_set

MAX_LENGTH = 20
BATCH, LR = 128, 1e-3
TUNED: dict[str, tuple[str, int, float]] = {  # task, steps and learning rate of a model that is fine-tuned
    "captioner": ("caption", 100, 5e-4),
    "filter": ("retrieval", 100, 5e-4),
    "shared": ("pretrain", 100, 5e-4),  # one model for both
}
# In a few hundred steps the features change so fast that those in a queue differ by their age, and the model learns
# to recognise just that: contrast is within the batch, without momentum.
WITHIN_BATCH = {"queue_size": 1, "momentum": 0.0, "alpha": 0.0}
RECALLS = ("txt_r1", "txt_r10", "img_r1", "img_r10")


def pretrain(files: Files, data: Sequence[Path], seed: int, steps: int, output: Path) -> None:
    """Pre-train from the starting model of a seed on lists of pairs; a selection may be empty."""
    lists = [path for path in data if path.stat().st_size]
    _fit("pretrain", files, files.init / str(seed), lists, output, steps=steps, batch_size=BATCH, lr=LR, seed=seed)


def fine_tune(files: Files, name: str, init: Path, seed: int, output: Path) -> None:
    """Fine-tune a pre-trained model on the human pairs: one of TUNED."""
    task, steps, lr = TUNED[name]
    data = [files.pairs("human")]
    _fit(task, files, init, data, output, steps=steps, batch_size=BATCH, lr=lr, seed=seed)


def _fit(task: str, files: Files, init: Path, data: Sequence[Path], output: Path, *, steps: int, **loop: Any) -> None:
    options: dict[str, Any] = {
        "data": [str(path) for path in data],
        "start": {"init": str(init), "dropout": 0.0},
        "tune": {"freeze": ["vision.stem"]},
        "max_length": MAX_LENGTH,
        "augment": {"cached_features": str(files.features)},
    }
    if task != "caption":
        options |= {"negatives": {"floor": 0.02}, **WITHIN_BATCH}
    if task == "pretrain":
        options["same_image_ids"] = True
    config = TrainConfig(
        steps=steps,
        min_lr=1e-5,
        warmup_lr=1e-5,
        warmup_steps=steps // 12,
        schedule="cosine_step",
        max_grad_norm=2.0,
        dtype="bf16",
        ema=0.98,
        eval_every=steps,
        log_every=50,
        keep=1,
        workers=0,
        threads=1,
        **loop,
    )
    fit(build_task(task, options), config, output, quiet=True)


def measure(files: Files, model: Path, limit: int | None = None) -> dict[str, dict[str, float]]:
    """CIDEr and BLEU-4 of captions by beam search, and recalls by cosine in percent, for each dev set."""
    loaded, scores = load(model), dict[str, dict[str, float]]()
    for name in DEV:
        source = dev_set(files, name, limit)
        reports = [
            run(evaluation, loaded.model, loaded.tokenizer, source, photos=CachedPhotos(files))
            for evaluation in (CaptionEval(), RetrievalEval(k=0))
        ]
        metrics = {name: value for report in reports for name, value in report.metrics.items()}
        scores[name] = {key: metrics[key] for key in ("cider", "bleu4", *RECALLS)}
    return scores
