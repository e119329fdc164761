"""Share of captions that name an object that is boxed in the photo, and the recall of each class."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blip.data.sources import SampleList
from blip.metrics.caption import tokenize

SYNONYMS = Path(__file__).parent / "synonyms.json"  # COCO class -> words that name it
MIN_PHOTOS = 3  # classes in fewer photos are left out of the mean recall


def named_objects(photos: SampleList, captions: Sequence[str]) -> dict[str, Any]:
    """Return the share of captions that name a boxed object, and the recall by class with its number of photos.

    photos: with fields `boxes` [x, y, width, height, class]; those without boxes are not counted.
    """
    synonyms: Mapping[str, Sequence[str]] = json.loads(SYNONYMS.read_text(encoding="utf-8"))
    named: list[bool] = []
    of_class: dict[str, list[bool]] = defaultdict(list)
    for sample, caption in zip(photos.samples, captions, strict=True):
        classes = {box[4] for box in sample.fields.get("boxes") or ()}
        if not classes:
            continue
        words = " " + " ".join(tokenize(caption)) + " "
        hits = {name: any(f" {word} " in words for word in synonyms.get(name, [name])) for name in sorted(classes)}
        named.append(any(hits.values()))
        for name, hit in hits.items():
            of_class[name].append(hit)
    frequent = [np.mean(hits) for hits in of_class.values() if len(hits) >= MIN_PHOTOS]
    return {
        "boxed_photos": len(named),
        "names_a_boxed_object": float(np.mean(named)) if named else None,
        "mean_class_recall": float(np.mean(frequent)) if frequent else None,
        "class_recall": {
            name: {"recall": float(np.mean(hits)), "photos": len(hits)} for name, hits in sorted(of_class.items())
        },
    }
