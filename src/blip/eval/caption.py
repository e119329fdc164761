"""Captions of photos and their scores (original: train_caption.py and eval_nocaps.py, with pycocoevalcap)."""

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
        """`{"image_id", "caption"}`, COCO's result format."""
        model.require("decoder")
        merged = merged_by_image(source)
        ids, rows = image_ids(merged), list[Row]()
        for numbers, pixels in photos.batches(merged, model):
            found = inference.caption(model, tokenizer, model.encode_image(pixels), self.decoding, prompt=self.prompt)
            rows += [{"image_id": ids[i], "caption": best[0].text} for i, best in zip(numbers, found, strict=True)]
            if tick:
                tick(len(rows), len(merged))
        return rows

    def score(self, source: Source, predictions: Predictions) -> Report:
        kept = first_of_each(predictions, "image_id")
        said = {str(p["image_id"]): str(p["caption"]) for p in kept}
        merged = merged_by_image(source)
        known = {key: merged[i] for i, key in enumerate(map(str, image_ids(merged))) if key in said}
        rows: list[Row] = [
            {"task": self.name, "key": key, "prediction": said[key], "references": list(record.texts), "scores": {}}
            for key, record in known.items()
        ]
        records = list(known.values())
        measures, skipped = self._measures(records, rows)
        return Report(
            measures=measures,
            rows=rows,
            predictions=[dict(p) for p in kept],
            skipped=skipped,
            images=[(record.image,) for record in records],
        )

    def _measures(self, records: Sequence[Sample], rows: list[Row]) -> tuple[dict[str, Measure], dict[str, str]]:
        """Metrics of the set and reasons for those left out; each row gets its own scores."""
        if not any(record.texts for record in records):
            return {}, {"all metrics": "the data have no reference captions"}
        _check_references(records)
        references, captions = [list(record.texts) for record in records], [row["prediction"] for row in rows]
        statistics = caption_statistics(references, captions)
        each = caption_scores(statistics)
        for i, row in enumerate(rows):
            row["scores"] = {name: float(each[name][i]) for name in ("cider", "bleu4", "rouge_l")}
        measures = {name: measure(statistics[name], of, unit=UNITS[name]) for name, of in SET_SCORES.items()}
        if self.meteor_spice == "never":
            return measures, {}
        found, skipped = meteor_spice.scores(references, captions)
        return measures | {name: Measure(value=value) for name, value in found.items()}, skipped


def image_ids(source: Source) -> list[Any]:
    """What names each image in predictions: its row's `image_id` or `img_id`, else the digits that end its file's name
    (COCO's), else its key; keys for all where two images would have the same name."""
    records = [source[i] for i in range(len(source))]
    ids = [_image_id(record) for record in records]
    return ids if len(set(map(str, ids))) == len(ids) else [record.key for record in records]


def _image_id(record: Sample) -> Any:
    given = record.fields.get("image_id", record.fields.get("img_id"))
    if isinstance(given, str) and given.isdecimal():
        return int(given)
    return given if isinstance(given, int | str) else number_in(record.key)


def _check_references(records: Sequence[Sample]) -> None:
    bare = next((record for record in records if not record.texts), None)
    if bare is not None:
        raise BadRecord(bare.where or bare.key, "no reference caption, where other rows have some; remove the row")
