"""Captions of images and their scores (original: train_caption.py and eval_nocaps.py, with pycocoevalcap)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from blip import inference
from blip.data.sources import Reading, Source, Spec
from blip.data.task_rows import first_of_each, merged_by_image
from blip.eval import meteor_spice
from blip.eval.base import Measure, Predictions, Report, Row, Tick, measure
from blip.eval.photos import Photos
from blip.io.records import image_id as number_in
from blip.io.samples import Sample
from blip.metrics.caption import SET_SCORES, caption_scores, caption_statistics
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer
from blip_lite.decoding import Beam, Decoding
from blip_lite.errors import BadRecord

COCO_BEAM = Beam(num_beams=3, max_length=20, min_length=5)
UNITS = {**dict.fromkeys(SET_SCORES, "share"), "cider": "0 to 10"}


@dataclass(frozen=True, kw_only=True)
class CaptionEval:
    """Captions of all images against all references of each; without references, predictions only.

    meteor_spice: "auto" adds METEOR and SPICE if the reference package and Java are installed.
    """

    decoding: Decoding = COCO_BEAM
    prompt: str | None = None
    meteor_spice: Literal["auto", "never"] = "never"
    name: str = "caption"

    capability: ClassVar[str] = "caption"

    def open(self, spec: Spec | Sequence[Spec], reading: Reading) -> Source:
        return reading.open(spec, need_text=self.name != "nocaps")  # NoCaps has no public references

    @torch.inference_mode()
    def predict(
        self, model: BlipModel, tokenizer: Tokenizer, source: Source, photos: Photos, tick: Tick | None = None
    ) -> list[Row]:
        """Return `{"image_id", "caption"}`, COCO's result format."""
        model.require("decoder")
        merged = merged_by_image(source)
        ids, rows = image_ids(merged), list[Row]()
        for numbers, pixels in photos.batches(merged, model):
            embeds = model.encode_image(pixels)
            captions = inference.caption(model, tokenizer, embeds, self.decoding, prompt=self.prompt)
            rows += [{"image_id": ids[i], "caption": best[0].text} for i, best in zip(numbers, captions, strict=True)]
            if tick:
                tick(len(rows), len(merged))
        return rows

    def score(self, source: Source, predictions: Predictions) -> Report:
        unique = first_of_each(predictions, "image_id")
        captions = {str(p["image_id"]): str(p["caption"]) for p in unique}
        merged = merged_by_image(source)
        samples = {key: merged[i] for i, key in enumerate(map(str, image_ids(merged))) if key in captions}
        rows: list[Row] = [
            {"task": self.name, "key": key, "prediction": captions[key], "references": list(sample.texts), "scores": {}}
            for key, sample in samples.items()
        ]
        measures, skipped = self._measures(list(samples.values()), rows)
        return Report(
            measures=measures,
            rows=rows,
            predictions=[dict(p) for p in unique],
            skipped=skipped,
            images=[(sample.image,) for sample in samples.values()],
        )

    def _measures(self, samples: Sequence[Sample], rows: list[Row]) -> tuple[dict[str, Measure], dict[str, str]]:
        """Return metrics of the set and the reasons for missing ones; fills in the scores of each row."""
        if not any(sample.texts for sample in samples):
            return {}, {"all metrics": "the data have no reference captions"}
        _check_references(samples)
        references, captions = [list(sample.texts) for sample in samples], [row["prediction"] for row in rows]
        statistics = caption_statistics(references, captions)
        each = caption_scores(statistics)
        for i, row in enumerate(rows):
            row["scores"] = {name: float(each[name][i]) for name in ("cider", "bleu4", "rouge_l")}
        measures = {name: measure(statistics[name], of, unit=UNITS[name]) for name, of in SET_SCORES.items()}
        if self.meteor_spice == "never":
            return measures, {}
        scores, skipped = meteor_spice.scores(references, captions)
        return measures | {name: Measure(value=value) for name, value in scores.items()}, skipped


def image_ids(source: Source) -> list[Any]:
    """Ids of images in predictions: `image_id` or `img_id`, else the final digits of the file name, else the key.

    If two images would have the same id, all get their keys.
    """
    samples = [source[i] for i in range(len(source))]
    ids = [_image_id(sample) for sample in samples]
    return ids if len(set(map(str, ids))) == len(ids) else [sample.key for sample in samples]


def _image_id(sample: Sample) -> Any:
    value = sample.fields.get("image_id", sample.fields.get("img_id"))
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int | str) else number_in(sample.key)


def _check_references(samples: Sequence[Sample]) -> None:
    missing = next((sample for sample in samples if not sample.texts), None)
    if missing is not None:
        raise BadRecord(
            missing.where or missing.key, "no reference caption, although other rows have some; remove the row"
        )
