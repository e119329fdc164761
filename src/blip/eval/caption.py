"""Captions of images and their scores (original: train_caption.py and eval_nocaps.py, with pycocoevalcap)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from blip import inference
from blip.data.sources import Reading, Source, Spec
from blip.data.task_rows import merged_by_image, unique_keys
from blip.eval import meteor_spice
from blip.eval.base import Measure, Predictions, Report, Row, Tick, measure
from blip.eval.meteor_spice import SCORERS
from blip.eval.photos import Photos
from blip.eval.predictions import CAPTION, Form, match
from blip.io.records import image_id as number_in
from blip.io.samples import Sample
from blip.metrics.caption import SET_SCORES, caption_scores, caption_statistics
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer
from blip_lite.decoding import Beam, Decoding

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
    form: ClassVar[Form] = CAPTION
    metric_names: ClassVar[tuple[str, ...]] = (*SET_SCORES, *SCORERS)

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

    def score(self, source: Source, predictions: Predictions, *, allow_missing: bool = False) -> Report:
        merged = merged_by_image(source)
        ids = list(map(str, image_ids(merged)))
        other = {merged[i].key: name for i, name in enumerate(ids)}

        def id_of(row: Row) -> str:
            name = str(row["image_id"])
            return name if name in known else other.get(name, str(number_in(name)))

        known = set(ids)
        matched = match(ids, self.form.parse(predictions), id_of, allow_missing=allow_missing)
        samples = {name: merged[i] for i, name in enumerate(ids) if name in matched.rows}
        rows: list[Row] = [
            {
                "task": self.name,
                "key": name,
                "prediction": matched.rows[name]["caption"],
                "references": list(sample.texts),
                "scores": {},
            }
            for name, sample in samples.items()
        ]
        measures, skipped = self._measures(list(samples.values()), rows)
        return Report(
            measures=measures,
            rows=rows,
            predictions=[matched.rows[name] for name in samples],
            skipped=skipped,
            images=[(sample.image,) for sample in samples.values()],
            coverage=matched.coverage,
        )

    def _measures(self, samples: Sequence[Sample], rows: list[Row]) -> tuple[dict[str, Measure], dict[str, str]]:
        """Return metrics of the set and the reasons for missing ones; fills in the scores of each row."""
        scored = [i for i, sample in enumerate(samples) if sample.texts]
        if not scored:
            return {}, {"all metrics": "the data have no reference captions"}
        missing = len(samples) - len(scored)
        skipped = {"images without references": f"{missing} of {len(samples)}, not scored"} if missing else {}
        references, captions = [list(samples[i].texts) for i in scored], [rows[i]["prediction"] for i in scored]
        statistics = caption_statistics(references, captions)
        each = caption_scores(statistics)
        for i, row in enumerate(rows[n] for n in scored):
            row["scores"] = {name: float(each[name][i]) for name in ("cider", "bleu4", "rouge_l")}
        measures = {name: measure(statistics[name], of, unit=UNITS[name]) for name, of in SET_SCORES.items()}
        if self.meteor_spice == "never":
            return measures, skipped
        scores, reasons = meteor_spice.scores(references, captions)
        return measures | {name: Measure(value=value) for name, value in scores.items()}, skipped | reasons


def image_ids(source: Source) -> list[Any]:
    """Ids of images in predictions: `image_id` or `img_id`, else the final digits of the file name, else the key.

    If two images would have the same id, all get their keys; if these are equal, too, their places in the data.
    """
    samples = [source[i] for i in range(len(source))]
    ids = [_image_id(sample) for sample in samples]
    return ids if len(set(map(str, ids))) == len(ids) else list(unique_keys(samples))


def _image_id(sample: Sample) -> Any:
    value = sample.fields.get("image_id", sample.fields.get("img_id"))
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int | str) else number_in(sample.key)
