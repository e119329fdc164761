"""Does CapFilt help? The paper's tables 1, 2 and 4 in miniature: real photos, noise that is known, a small model.

    python -m experiments.capfilt.run --data ../shared/data -o runs/capfilt

Photos are 12,156 of Flickr8k, COCO and Pascal with human captions. 1,500 are the human data; the others have one
caption each, half of them corrupted (`corrupt.py`). Per seed, the same starting model is trained for the same number of
steps on different selections of captions (`Experiment`), and measured on Flickr8k dev and COCO dev. A step whose output
exists is skipped, so the command can be repeated; once the photos are prepared (--parts photos), several processes can
do different --seeds. Writes `results.json` and prints the tables; `results.py` also writes the plot.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from blip.io.atomic import write_text
from blip_lite.decoding import Decoding
from experiments.capfilt import data, model, results, scoring, train
from experiments.capfilt.data import Files

STEM = "mobilenet_edgetpu_1.0_224.safetensors"
THRESHOLD = 0.5  # the paper's
THRESHOLDS: tuple[float | str, ...] = (0.3, 0.7, "50%")  # a share: the best of each kind


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the experiment. human: photos with human captions; rate: share of the web captions to corrupt."""

    human: int = 1500
    rate: float = 0.5
    steps: int = 240


@dataclass(frozen=True)
class Step:
    """A piece of work, and the path that exists when it is done."""

    name: str
    output: Path
    work: Callable[[], object]


class Experiment:
    """The steps of each part, in order; each returns those of one seed."""

    def __init__(self, files: Files, settings: Settings) -> None:
        self.files, self.settings = files, settings

    def main(self, seed: int) -> Iterator[Step]:
        """Table 1: noisy; filter, captioner or both; and the same captions uncorrupted."""
        yield from self.train(seed, "noisy", self.files.pairs("web"))
        yield from self.tune(seed, "captioner-1", "captioner", "noisy")
        yield from self.tune(seed, "filter-1", "filter", "noisy")
        yield self.score(seed, "nucleus", "captioner-1", "filter-1", scoring.NUCLEUS)
        yield from self.selected(seed, "filter", "nucleus", THRESHOLD, scoring.WEB_ONLY)
        yield from self.selected(seed, "captioner", "nucleus", 0.0)
        yield from self.selected(seed, "both", "nucleus", THRESHOLD)
        yield from self.train(seed, "clean", self.files.pairs("clean"))

    def beam(self, seed: int) -> Iterator[Step]:
        """Table 2: synthetic captions by beam search."""
        yield self.score(seed, "beam", "captioner-1", "filter-1", scoring.BEAM)
        yield from self.selected(seed, "both-beam", "beam", THRESHOLD)

    def shared(self, seed: int) -> Iterator[Step]:
        """Table 4: captioner and filter are one model, fine-tuned with all losses."""
        yield from self.tune(seed, "shared", "shared", "noisy")
        yield self.score(seed, "shared-scores", "shared", "shared", scoring.NUCLEUS)
        yield from self.selected(seed, "both-shared", "shared-scores", THRESHOLD)

    def second(self, seed: int) -> Iterator[Step]:
        """A second round, which the paper did not try: captioner and filter from the model of the first."""
        yield from self.tune(seed, "captioner-2", "captioner", "both")
        yield from self.tune(seed, "filter-2", "filter", "both")
        yield self.score(seed, "round-2", "captioner-2", "filter-2", scoring.NUCLEUS)
        yield from self.selected(seed, "both-second", "round-2", THRESHOLD)

    def thresholds(self, seed: int) -> Iterator[Step]:
        for threshold in THRESHOLDS:
            yield from self.selected(seed, f"both-{threshold}", "nucleus", threshold)

    def human(self, seed: int) -> Iterator[Step]:
        """The human pairs alone."""
        yield from self.train(seed, "human")

    def tiny(self, seed: int) -> Iterator[Step]:
        """A far better captioner: the bundled `tiny`, which has seen the human captions of all photos."""
        yield Step("tiny captions", self.files.pairs("tiny"), partial(data.write_tiny, self.files))
        yield from self.train(seed, "captioner-tiny", self.files.pairs("web"), self.files.pairs("tiny"))

    def folder(self, seed: int, name: str) -> Path:
        return self.files.folder / f"seed-{seed}" / name

    def train(self, seed: int, name: str, *pairs: Path) -> Iterator[Step]:
        """Pre-train on the human pairs and others, and measure."""
        folder, lists = self.folder(seed, name), [self.files.pairs("human"), *pairs]
        work = partial(train.pretrain, self.files, lists, seed, self.settings.steps, folder)
        yield Step(f"{seed}/{name}/train", folder / "final", work)
        yield Step(f"{seed}/{name}/measure", folder / results.METRICS, partial(self.measure, folder))

    def measure(self, folder: Path) -> None:
        write_text(folder / results.METRICS, json.dumps(train.measure(self.files, folder), indent=1) + "\n")

    def tune(self, seed: int, name: str, kind: str, start: str) -> Iterator[Step]:
        """Fine-tune a model on the human pairs, and measure."""
        folder = self.folder(seed, name)
        work = partial(train.fine_tune, self.files, kind, self.folder(seed, start), seed, folder)
        yield Step(f"{seed}/{name}/tune", folder / "final", work)

    def score(self, seed: int, name: str, captioner: str, filter_: str, decoding: Decoding) -> Step:
        """Caption the web photos, and score web and synthetic captions."""
        output = self.folder(seed, name)
        models = self.folder(seed, captioner), self.folder(seed, filter_)
        work = partial(scoring.score, self.files, *models, decoding, output)
        return Step(f"{seed}/{name}/score", output / scoring.DONE, work)

    def selected(
        self, seed: int, name: str, scores: str, threshold: float | str, where: str | None = None
    ) -> Iterator[Step]:
        """Select captions by their match probability, and train on them."""
        output = self.folder(seed, f"{name}-pairs")
        work = partial(scoring.select, self.folder(seed, scores), output, threshold, where)
        yield Step(f"{seed}/{name}/select", output / scoring.SELECTED, work)
        yield from self.train(seed, name, output / scoring.SELECTED)


PARTS = ("main", "beam", "shared", "second", "tiny", "thresholds", "human")


def preparation(files: Files, source: Path, stem: Path, seeds: Sequence[int], settings: Settings) -> Iterator[Step]:
    """Photos, cached features, human and web pairs, starting models."""
    yield Step("photos", files.photos, partial(data.extract_photos, source, files))
    yield Step("features", files.features.with_suffix(".json"), lambda: cache(files, stem))
    yield Step("pairs", files.pairs("web"), partial(data.write_pairs, files, settings.human, settings.rate))
    for seed in seeds:
        output = files.init / str(seed)
        yield Step(f"init {seed}", output / "config.json", partial(model.write_model, stem, files, seed))


def cache(files: Files, stem: Path) -> None:
    data.cache_features(model.load_stem(stem), model.VISION, files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--stem", type=Path, help=f"default: weights/{STEM} beside the data")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=["photos", *PARTS])
    parser.add_argument("--human", type=int, default=Settings.human, help="photos with human captions")
    parser.add_argument("--rate", type=float, default=Settings.rate, help="share of the web captions to corrupt")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="training steps of each model")
    args = parser.parse_args()
    settings, files = Settings(human=args.human, rate=args.rate, steps=args.steps), Files(args.output)
    keep_settings(files.folder / "settings.json", settings)
    experiment = Experiment(files, settings)
    stem = args.stem or args.data.parent / "weights" / STEM
    carry_out(preparation(files, args.data, stem, args.seeds, settings), files.folder)
    for part in args.parts:
        if part != "photos":
            for seed in args.seeds:
                carry_out(getattr(experiment, part)(seed), files.folder)
    results.write(files)
    print(results.tables(json.loads((files.folder / results.RESULTS).read_text())))


def keep_settings(path: Path, settings: Settings) -> None:
    """Write the settings; stop if the folder was made with others."""
    values = json.dumps(asdict(settings), indent=1) + "\n"
    if path.is_file() and path.read_text() != values:
        raise SystemExit(f"{path.parent}: made with other settings, {path.read_text()!r}; choose another folder")
    write_text(path, values)


def carry_out(steps: Iterator[Step], folder: Path) -> None:
    """Do the steps whose output is missing; the seconds that each took are kept in `costs/`."""
    for step in steps:
        if step.output.exists():
            continue
        print(f"{time.strftime('%H:%M:%S')} {step.name}", flush=True)
        cpu, wall = time.process_time(), time.monotonic()
        step.work()
        if not step.output.exists():
            raise SystemExit(f"{step.name}: {step.output} was not written")
        cost = {"cpu": time.process_time() - cpu, "wall": time.monotonic() - wall}
        write_text(folder / "costs" / f"{step.name.replace('/', '_')}.json", json.dumps(cost))


if __name__ == "__main__":
    main()
