"""Makes the questions that `tiny-vqa` is trained and measured on.

    python -m experiments.vqa.make --data ../shared/data -o runs/vqa

To train: questions generated from the captions of Flickr8k, COCO and Pascal photos, DAQUAR's questions, and VQA v2's
questions without photos (`text_questions.py`). To measure: questions generated from the captions of flickr8k-dev and
coco-dev, DAQUAR's about a tenth of its photos, and the real COCO questions of coco-qa (to choose by) and coco-mini.
Writes NAME.jsonl for each, photos/train and photos/dev, and prints counts. Generated yes/no questions are drawn so that
each text has as many yes as no; "no" needs that no caption names the thing or anything close.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from PIL import Image

from experiments.vqa.closed_questions import draw
from experiments.vqa.open_questions import open_questions
from experiments.vqa.photo import Photo, read_shards
from experiments.vqa.real_questions import Real, daquar_questions, vqa_questions
from experiments.vqa.rows import Row, even, frequent, limit, taught, write
from experiments.vqa.text_questions import GREY, text_questions
from experiments.vqa.thing_questions import thing_questions

TRAIN = ("flickr8k-train-*.tar", "coco-train-*.tar", "pascal-train-*.tar")
DEV = {"flickr-dev": "flickr8k-dev-*.tar", "coco-dev": "coco-dev-*.tar"}
DEV_ROWS = 2500  # of each generated set
TWO_TEXTS = ("color", "count")  # kinds with two wordings
DAQUAR_COPIES, TEXT_COPIES = 2, 3  # how often real questions are put
HELD_OUT = 10  # one DAQUAR photo of this many is kept to measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data, output = args.data, args.output
    rng = random.Random(args.seed)
    photos = read_photos(data, TRAIN, output / "photos" / "train")
    generated = even([*closed_rows(photos, rng), *open_rows(photos, rng)], rng)
    forms, answers = frequent(generated)
    generated = limit(generated, forms, answers)
    daquar = list(real_rows(data / "daquar-qa-00000.tar", daquar_questions, output / "photos" / "train"))
    kept = [row for row in daquar if not is_held_out(row.key)]
    texts = [
        Row(key, *row) for key, row in text_questions(data / "vqa-v2-questions.jsonl.gz", photos, TEXT_COPIES, rng)
    ]
    Image.new("RGB", (224, 224), (128, 128, 128)).save(output / "photos" / "train" / f"{GREY}.jpg")
    sets = {"train": [row._replace(answers=taught(row.answers)) for row in [*generated, *kept * DAQUAR_COPIES, *texts]]}
    rng.shuffle(sets["train"])
    for name, shards in DEV.items():
        photos = read_photos(data, (shards,), output / "photos" / "dev")
        rows = limit(even([*closed_rows(photos, rng), *open_rows(photos, rng)], rng), forms, answers)
        sets[name] = rows[:DEV_ROWS]
    sets["daquar-dev"] = [row for row in daquar if is_held_out(row.key)]
    for name in ("coco-qa", "coco-mini"):
        sets[name] = list(real_rows(data / f"{name}-00000.tar", vqa_questions, output / "photos" / "dev"))
    for name, rows in sets.items():
        folder = "train" if name in ("train", "daquar-dev") else "dev"
        write(output / f"{name}.jsonl", rows, f"photos/{folder}")
        print(
            f"{name}: {len(rows)} questions on {len({row.key for row in rows})} photos", Counter(r.kind for r in rows)
        )
    print("real texts without a photo that fits:", Counter(row.kind for row in texts if row.key == GREY))


def read_photos(data: Path, patterns: Sequence[str], folder: Path) -> list[Photo]:
    """The photos with captions of the shards; also writes them to the folder."""
    shards = [shard for pattern in patterns for shard in sorted(data.glob(pattern))]
    return [Photo(key, values["captions"]) for key, values in read_shards(shards, folder) if values["captions"]]


def closed_rows(photos: Sequence[Photo], rng: random.Random) -> Iterator[Row]:
    """The yes/no questions."""
    for key, text, answer, form in draw(photos, rng):
        yield Row(key, text, {answer: 1}, "yes/no", form)


def open_rows(photos: Sequence[Photo], rng: random.Random) -> Iterator[Row]:
    """All others, some in two ways."""
    for photo in photos:
        for kind, form, answers, texts in (*open_questions(photo), *thing_questions(photo)):
            times = 2 if kind in TWO_TEXTS else 1
            for text in rng.sample(texts, min(times, len(texts))) if answers else ():
                yield Row(photo.key, text, dict(answers), kind, form)


def real_rows(shard: Path, questions: Callable[[Mapping[str, Any]], Iterator[Real]], folder: Path) -> Iterator[Row]:
    """The real questions of a shard; also writes its photos to the folder."""
    for key, values in read_shards([shard], folder):
        for question in questions(values):
            yield Row(key, *question)


def is_held_out(key: str) -> bool:
    """Whether a DAQUAR photo is kept to measure."""
    return crc32(key.encode()) % HELD_OUT == 0


if __name__ == "__main__":
    main()
