"""Known data sets: their annotation files, where those come from, what the rows are, how images must lie. No torch.

`coco`, once fetched, stands for its files wherever data are named: `coco`, `coco@train+val` (splits), `coco:/folder`.
Rows, counts and layout: the original's data/*.py and configs, BLIP paper; the host has refused downloads at times.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blip.io import fetch, manifests
from blip.io.atomic import write_text
from blip_lite.errors import BlipError, ConfigError, EnvironmentProblem, UsageError, did_you_mean

HOST = "https://storage.googleapis.com/sfr-vision-language-research"
URLS = "urls"  # the split of lists that hold addresses of images, not images

_ONE_CAPTION = "a row a caption: image, caption, image_id"
_CAPTIONS = "a row an image: image, caption (a list)"
_GROUND_TRUTH = "COCO captions: images, annotations; for scoring"
_QUESTIONS = "a row a question: question_id, question, answer (ten), image, dataset"
_PAIRS = "a row a sentence: images (two), sentence, label 'True' or 'False'"
_PLAIN = "a row an image: image, img_id; no captions, a server scores"
_ADDRESSES = "a row an image: url, caption"


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """An annotation file. `path` is below HOST; no `split`: to score with; `rows` as published, None if unknown."""

    path: str
    schema: str
    split: str = ""
    rows: int | None = None

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def url(self) -> str:
        return f"{HOST}/{self.path}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Photos:
    """A folder of images (or clips) that the user must fetch: what belongs there and where it is to be had."""

    folder: str
    what: str
    where: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A data set. `image_root` is the folder, below its own, that image paths are relative to."""

    name: str
    doc: str
    home: str
    licence: str
    files: tuple[File, ...]
    image_root: str = ""
    photos: tuple[Photos, ...] = ()
    has_texts: bool = True
    has_videos: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(file.split for file in self.files if file.split))


_COCO_PHOTOS = (
    Photos(folder="images/train2014", what="82,783 photos", where="http://images.cocodataset.org/zips/train2014.zip"),
    Photos(folder="images/val2014", what="40,504 photos", where="http://images.cocodataset.org/zips/val2014.zip"),
)
_GENOME = "https://visualgenome.org, both parts in this one folder"


def _bootstrapped(name: str, stem: str, images: str, texts: str) -> DataSet:
    return DataSet(
        name=name,
        doc=f"{texts} of {images}, for pre-training",
        home="https://github.com/salesforce/BLIP",
        licence="addresses and texts; every image keeps its owner's terms",
        files=(File(path=f"BLIP/datasets/{stem}.json", split=URLS, schema=_ADDRESSES),),
    )


_WEB, _BY_B, _BY_L = "filtered web captions", "filtered captions by ViT-B", "filtered captions by ViT-L"
_CCS, _LAION = "CC3M, CC12M and SBU", "LAION-115M"

ENTRIES: tuple[DataSet, ...] = (
    DataSet(
        name="coco",
        doc="photos with five captions each, Karpathy's split: captioning, retrieval, pre-training",
        home="https://cocodataset.org",
        licence="annotations CC BY 4.0; photos under the terms of their Flickr authors",
        image_root="images",
        photos=_COCO_PHOTOS,
        files=(
            File(path="datasets/coco_karpathy_train.json", split="train", rows=566_747, schema=_ONE_CAPTION),
            File(path="datasets/coco_karpathy_val.json", split="val", rows=5_000, schema=_CAPTIONS),
            File(path="datasets/coco_karpathy_test.json", split="test", rows=5_000, schema=_CAPTIONS),
            File(path="datasets/coco_karpathy_val_gt.json", schema=_GROUND_TRUTH),
            File(path="datasets/coco_karpathy_test_gt.json", schema=_GROUND_TRUTH),
        ),
    ),
    DataSet(
        name="flickr30k",
        doc="photos with five captions each: retrieval",
        home="https://shannon.cs.illinois.edu/DenotationGraph/",
        licence="non-commercial research and education; photos under the terms of their Flickr authors",
        photos=(Photos(folder="flickr30k-images", what="31,783 photos", where="on request, see the home page"),),
        files=(
            File(path="datasets/flickr30k_train.json", split="train", rows=145_000, schema=_ONE_CAPTION),
            File(path="datasets/flickr30k_val.json", split="val", rows=1_014, schema=_CAPTIONS),
            File(path="datasets/flickr30k_test.json", split="test", rows=1_000, schema=_CAPTIONS),
        ),
    ),
    DataSet(
        name="vqa",
        doc="VQA v2: questions about COCO photos; vqa@train+val+vg is what the published models learned from",
        home="https://visualqa.org",
        licence="annotations CC BY 4.0; photos under the terms of their Flickr authors",
        image_root="images",
        photos=(
            *_COCO_PHOTOS,
            Photos(
                folder="images/test2015", what="81,434 photos", where="http://images.cocodataset.org/zips/test2015.zip"
            ),
            Photos(folder="images/image", what="Visual Genome, for vqa@vg alone", where=_GENOME),
        ),
        files=(
            File(path="datasets/vqa_train.json", split="train", rows=443_757, schema=_QUESTIONS),
            File(path="datasets/vqa_val.json", split="val", rows=214_354, schema=_QUESTIONS),
            File(path="datasets/vg_qa.json", split="vg", schema=f"{_QUESTIONS}; answer is one text"),
            File(
                path="datasets/vqa_test.json",
                split="test",
                rows=447_793,
                schema="a row a question: question_id, question, image, dataset; no answers, a server scores",
            ),
            File(path="datasets/answer_list.json", schema="a list of 3,128 answers, for ranking"),
            File(path="LAVIS/datasets/vqav2/vqa_val_eval.json", schema="val once more, as evaluated without a server"),
            File(
                path="LAVIS/datasets/vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
                schema="the official val questions, for scoring",
            ),
            File(
                path="LAVIS/datasets/vqav2/v2_mscoco_val2014_annotations.json",
                schema="the official val answers, for scoring",
            ),
        ),
    ),
    DataSet(
        name="nlvr2",
        doc="statements about two photos, true or false; test is the public test set, test-P",
        home="https://lil.nlp.cornell.edu/nlvr/",
        licence="annotations CC BY 4.0; photos under the terms of their owners",
        photos=(
            Photos(folder="images/train", what="folders 0 to 99", where="on request, see the home page"),
            Photos(folder="dev", what="photos of val", where="on request, see the home page"),
            Photos(folder="test1", what="photos of test", where="on request, see the home page"),
        ),
        files=(
            File(path="datasets/nlvr_train.json", split="train", rows=86_373, schema=_PAIRS),
            File(path="datasets/nlvr_dev.json", split="val", rows=6_982, schema=_PAIRS),
            File(path="datasets/nlvr_test.json", split="test", rows=6_967, schema=_PAIRS),
        ),
    ),
    DataSet(
        name="nocaps",
        doc="photos of things that COCO lacks: captioning without training on them",
        home="https://nocaps.org",
        licence="Open Images photos, CC BY 2.0; captions as nocaps.org says",
        has_texts=False,
        photos=(
            Photos(folder="val", what="4,500 photos", where="https://nocaps.org/download lists their addresses"),
            Photos(folder="test", what="10,600 photos", where="https://nocaps.org/download lists their addresses"),
        ),
        files=(
            File(path="datasets/nocaps_val.json", split="val", rows=4_500, schema=_PLAIN),
            File(path="datasets/nocaps_test.json", split="test", rows=10_600, schema=_PLAIN),
        ),
    ),
    DataSet(
        name="msrvtt",
        doc="video clips with a caption each, the 1k-A test set: retrieval",
        home="https://www.microsoft.com/en-us/research/publication/msr-vtt-a-large-video-description-dataset-for-bridging-video-and-language/",
        licence="research; clips under the terms of their YouTube authors",
        image_root="videos",
        has_videos=True,
        photos=(Photos(folder="videos", what="clips as videoID.mp4", where="no longer given out by its makers"),),
        files=(
            File(
                path="datasets/msrvtt_test.jsonl", split="test", rows=1_000, schema="a row a clip: clip_name, caption"
            ),
        ),
    ),
    DataSet(
        name="vg",
        doc="Visual Genome's region descriptions as captions, for pre-training",
        home="https://visualgenome.org",
        licence="CC BY 4.0",
        photos=(Photos(folder="image", what="108,077 photos", where=_GENOME),),
        files=(
            File(
                path="datasets/vg_caption.json",
                split="train",
                schema="a row a caption: image (a path on the makers' disk, to be changed to yours), caption",
            ),
        ),
    ),
    _bootstrapped("ccs-filtered", "ccs_filtered", _CCS, _WEB),
    _bootstrapped("ccs-synthetic", "ccs_synthetic_filtered", _CCS, _BY_B),
    _bootstrapped("ccs-synthetic-large", "ccs_synthetic_filtered_large", _CCS, _BY_L),
    _bootstrapped("laion-filtered", "laion_filtered", _LAION, _WEB),
    _bootstrapped("laion-synthetic", "laion_synthetic_filtered", _LAION, _BY_B),
    _bootstrapped("laion-synthetic-large", "laion_synthetic_filtered_large", _LAION, _BY_L),
)
BY_NAME = {entry.name: entry for entry in ENTRIES}

_SPEC = re.compile(r"([a-z0-9-]+)(?:@([\w+]+))?(?::(.+))?", re.DOTALL)


def find(name: str) -> DataSet:
    """The data set of a name. Raises `UsageError`."""
    if name not in BY_NAME:
        raise UsageError(f"unknown data set '{name}'{did_you_mean(name, BY_NAME)}; 'blip datasets' lists all")
    return BY_NAME[name]


def named(spec: str | os.PathLike[str]) -> DataSet | None:
    """The data set that a data argument names (`coco`, `coco@val`, `coco:/folder`); None for a path."""
    match = _SPEC.fullmatch(os.fspath(spec))
    return BY_NAME.get(match[1]) if match else None


def resolve(spec: str | os.PathLike[str], split: str | None = None) -> tuple[list[str], Path | None]:
    """The files that a data argument means and the folder of their images; paths of the user's own pass unchanged.

    A split in the argument wins over `split`; without either, all splits. Several are joined by `+`. A name wins
    over a path: write ./coco for a folder of that name. Raises `UsageError`.
    """
    found = named(spec)
    if found is None:
        return [os.fspath(spec)], None
    if URLS in found.splits:
        raise UsageError(
            f"data set '{found.name}' lists addresses; 'blip datasets fetch-images {found.name} -o DIR' fetches the "
            "images and says what to use then"
        )
    folder, own = _place(found, spec)
    paths = split_files(found.name, own or split or "+".join(found.splits), folder)
    return [str(path) for path in paths], folder / found.image_root


def url_lists(spec: str | os.PathLike[str]) -> list[str]:
    """The files of addresses that an argument means: a data set's, or the user's own unchanged. Raises `UsageError`."""
    found = named(spec)
    if found is None or URLS not in found.splits:
        return [os.fspath(spec)]
    return [str(path) for path in split_files(found.name, URLS, _place(found, spec)[0])]


def split_files(name: str, split: str, folder: str | os.PathLike[str]) -> list[Path]:
    """The files of one split, or of several joined by `+`. Raises `UsageError` where there is no such split or file."""
    found = find(name)
    for part in split.split("+"):
        if part not in found.splits:
            raise UsageError(f"data set '{name}' has no split '{part}'; must be of {', '.join(found.splits)}")
    wanted = split.split("+")
    return [_existing(found, file, Path(folder)) for part in wanted for file in found.files if file.split == part]


def side_file(spec: str | os.PathLike[str], file_name: str) -> Path:
    """A file of a data set that is no split: ground truth, answer list. Raises `UsageError`."""
    found = named(spec)
    file = next((f for f in found.files if f.name == file_name), None) if found else None
    if found is None or file is None:
        raise UsageError(f"'{os.fspath(spec)}' has no file {file_name}; 'blip datasets info NAME' lists what there is")
    return _existing(found, file, _place(found, spec)[0])


def remember(name: str, folder: str | os.PathLike[str]) -> None:
    """From now on `name` means the files in `folder`."""
    folders = _remembered() | {find(name).name: os.path.abspath(folder)}
    write_text(_registry(), json.dumps(folders, indent=2, ensure_ascii=False) + "\n")


def remembered(name: str) -> Path | None:
    """Where the user has put a data set."""
    folder = _remembered().get(name)
    return Path(folder) if folder else None


def chosen_files(found: DataSet, only: Sequence[str] = ()) -> list[File]:
    """The files of these splits or names, all without any. Raises `UsageError` for what is neither."""
    for one in only:
        if all(one not in (file.split, file.name) for file in found.files):
            allowed = ", ".join((*found.splits, *(file.name for file in found.files)))
            raise UsageError(f"--only {one}: data set '{found.name}' has no such split or file; must be of {allowed}")
    return [file for file in found.files if not only or file.split in only or file.name in only]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What became of one file: `problem` is why it is not there, `note` what is worth knowing of it."""

    file: File
    path: Path
    problem: str = ""
    note: str = ""


def obtain(
    files: Sequence[File],
    folder: Path,
    *,
    offline: bool | None = None,
    progress: Callable[[str], fetch.Progress | None] | None = None,
) -> Iterator[Fetched]:
    """Downloads files that are not there yet; one that cannot be had does not keep the others.

    progress: makes, of a file's name, what is told how far it is.
    """
    retries = fetch.RETRIES
    for file in files:
        path = folder / file.name
        was_there = path.is_file()
        try:
            shown = progress(file.name) if progress is not None else None
            fetch.fetch(file.url, path, offline=offline, progress=shown, retries=retries)
            yield Fetched(file=file, path=path, note="" if was_there else _first_look(file, path))
        except BlipError as error:
            if isinstance(error.__cause__, OSError):  # of this disk, not of the network
                raise
            if isinstance(error, EnvironmentProblem):  # no connection: the other files are on the same host
                retries = 0
            yield Fetched(file=file, path=path, problem=str(error))


def _first_look(file: File, path: Path) -> str:
    note = f"SHA-256 {(fetch.recorded_sha256(path) or '')[:12]}… is recorded beside it (none is published)"
    if file.rows is None:
        return note
    rows = sum(1 for _ in manifests.rows(path, None))
    return note + (f", {rows:,} rows" if rows == file.rows else f"; {rows:,} rows, but {file.rows:,} were published")


def tree(found: DataSet, folder: str | os.PathLike[str]) -> list[str]:
    """How the folder must look, one line a file or folder of images."""
    wide = max(len(photos.folder) for photos in found.photos) + 3 if found.photos else 0
    entries = [file.name for file in found.files]
    entries += [f"{photos.folder + '/':<{wide}}{photos.what}: {photos.where}" for photos in found.photos]
    marks = ["├── "] * (len(entries) - 1) + ["└── "]
    return [f"{os.fspath(folder).rstrip('/')}/", *(mark + entry for mark, entry in zip(marks, entries, strict=True))]


def _place(found: DataSet, spec: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The folder of a named set and the splits that the argument gives."""
    match = _SPEC.fullmatch(os.fspath(spec))
    split, folder = match.group(2, 3) if match else (None, None)
    place = Path(folder).expanduser() if folder else remembered(found.name)
    if place is None:
        here = f" (./{found.name} is your folder of that name)" if os.path.exists(found.name) else ""
        raise UsageError(
            f"data set '{found.name}' is not here; 'blip datasets get {found.name} --to DIR' fetches it{here}"
        )
    return place, split


def _existing(found: DataSet, file: File, folder: Path) -> Path:
    path = folder / file.name
    if not path.is_file():
        raise UsageError(f"{path}: no such file; 'blip datasets get {found.name} --to {folder}' fetches it")
    return path


def _registry() -> Path:
    return fetch.home_dir() / "datasets.json"


def _remembered() -> dict[str, str]:
    try:
        folders = json.loads(_registry().read_text(encoding="utf-8"))
        return {str(name): str(folder) for name, folder in folders.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{_registry()}: cannot be read ({error}); remove it") from error
