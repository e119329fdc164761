"""Known weights as rows: the original's 13 published files, its older names, LAVIS's, Transformers', the bundled.

Pure data, no torch. Scores are those their authors published for the model, none were measured here.
Source: salesforce/BLIP README.md, salesforce/LAVIS model zoo, the hub's collection "BLIP models".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from blip_lite.config import BlipConfig, Family, published_config, random_tiny_config, with_image_size
from blip_lite.errors import UnknownModel, did_you_mean

Source = Literal["url", "hub", "bundled", "random"]
BLIP_URL = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/"
LAVIS_URL = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP/"
BSD = "BSD-3-Clause"
CAPFILT_BASE_SHA256 = "8f5187458d4d47bb87876faf3038d5947eff17475edf52cf47b62e84da0b235f"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One set of weights. `location`: URL, hub id, folder name among the assets, or "" for random weights."""

    name: str
    family: Family
    location: str
    source: Source = "url"
    vit: Literal["base", "large", "tiny"] = "base"
    image_size: int = 384
    data: str = ""
    scores: str = ""
    licence: str = BSD
    sha256: str | None = None
    note: str = ""

    @property
    def file_name(self) -> str:
        """What the file is called on disk (an asterisk is no file name everywhere)."""
        return self.location.rsplit("/", 1)[-1].replace("*", "-")

    @property
    def config(self) -> BlipConfig:
        """The published shape; for hub ids and bundled models the config beside the weights decides."""
        if self.vit == "tiny":
            return random_tiny_config(self.family)
        return with_image_size(published_config(self.family, self.vit), self.image_size)


def _published(name: str, family: Family, file: str, image_size: int, data: str, scores: str = "") -> Entry:
    return Entry(
        name=name,
        family=family,
        location=BLIP_URL + file,
        vit="large" if "large" in name else "base",
        image_size=image_size,
        data=data,
        scores=scores,
        sha256=CAPFILT_BASE_SHA256 if name == "pretrain-base-capfilt" else None,
    )


_TR = "129M images"
_COCO, _FLICKR = f"{_TR}, then COCO", f"{_TR}, then Flickr30k"
_CAPFILT = f"{_TR}, CapFilt-L"

PUBLISHED = (
    _published("pretrain-base-14m", "pretrain", "model_base_14M.pth", 224, "14M images, CapFilt-B"),
    _published("pretrain-base", "pretrain", "model_base.pth", 224, f"{_TR}, CapFilt-B"),
    _published("pretrain-base-capfilt", "pretrain", "model_base_capfilt_large.pth", 224, _CAPFILT),
    _published("pretrain-large", "pretrain", "model_large.pth", 224, _CAPFILT),
    _published(
        "caption-base",
        "caption",
        "model_base_caption_capfilt_large.pth",
        384,
        f"{_CAPFILT}, then COCO",
        "COCO B@4 39.7, CIDEr 133.3; NoCaps CIDEr 109.6, SPICE 14.7",
    ),
    _published(
        "caption-large",
        "caption",
        "model_large_caption.pth",
        384,
        _COCO,
        "COCO B@4 40.4, CIDEr 136.7; NoCaps CIDEr 113.2, SPICE 14.8",
    ),
    _published("vqa-base", "vqa", "model_vqa.pth", 480, f"{_TR}, then VQA v2", "VQA v2 test-dev 78.24, test-std 78.17"),
    _published(
        "vqa-base-capfilt",
        "vqa",
        "model_base_vqa_capfilt_large.pth",
        480,
        f"{_CAPFILT}, then VQA v2",
        "VQA v2 test-dev 78.25, test-std 78.32",
    ),
    _published(
        "retrieval-coco-base", "retrieval", "model_base_retrieval_coco.pth", 384, _COCO, "COCO TR@1 81.9, IR@1 64.3"
    ),
    _published(
        "retrieval-coco-large", "retrieval", "model_large_retrieval_coco.pth", 384, _COCO, "COCO TR@1 82.4, IR@1 65.1"
    ),
    _published(
        "retrieval-flickr-base",
        "retrieval",
        "model_base_retrieval_flickr.pth",
        384,
        _FLICKR,
        "Flickr30k TR@1 97.3, IR@1 87.3",
    ),
    _published(
        "retrieval-flickr-large",
        "retrieval",
        "model_large_retrieval_flickr.pth",
        384,
        _FLICKR,
        "Flickr30k TR@1 97.4, IR@1 87.6",
    ),
    _published("nlvr-base", "nlvr", "model_base_nlvr.pth", 384, f"{_TR}, then NLVR2", "NLVR2 dev 82.48, test-P 83.08"),
)

_OLD = "older file name with a literal asterisk; may no longer be served"
LEGACY = (
    Entry(
        name="legacy-caption-base",
        family="caption",
        location=BLIP_URL + "model*_base_caption.pth",
        data="superseded by caption-base",
        note=_OLD,
    ),
    Entry(
        name="legacy-vqa-base",
        family="vqa",
        location=BLIP_URL + "model*_vqa.pth",
        image_size=480,
        data="superseded by vqa-base-capfilt",
        note=_OLD,
    ),
)

LAVIS = (
    Entry(
        name="lavis-caption-base",
        family="caption",
        location=LAVIS_URL + "blip_coco_caption_base.pth",
        data=_COCO,
        scores="COCO B@4 39.9, CIDEr 133.5, SPICE 23.7; NoCaps CIDEr 109.1, SPICE 14.7",
    ),
    Entry(
        name="lavis-okvqa",
        family="vqa",
        location=LAVIS_URL + "blip_okvqa.pth",
        image_size=480,
        data=f"{_TR}, then OK-VQA",
        scores="OK-VQA 55.4",
    ),
    Entry(
        name="lavis-aokvqa",
        family="vqa",
        location=LAVIS_URL + "blip_aokvqa.pth",
        image_size=480,
        data=f"{_TR}, then A-OKVQA",
        scores="A-OKVQA val 56.2, test 50.1",
    ),
    Entry(
        name="lavis-retrieval-coco",
        family="retrieval",
        location=LAVIS_URL + "blip_coco_retrieval.pth",
        data=_COCO,
        scores="COCO TR 82.0/95.8/98.1, IR 64.5/86.0/91.7",
    ),
    Entry(
        name="lavis-retrieval-flickr",
        family="retrieval",
        location=LAVIS_URL + "blip_flickr_retrieval.pth",
        data=_FLICKR,
        scores="Flickr30k TR 96.9/99.9/100, IR 87.5/97.6/98.9",
    ),
)


def _hub(repo: str, family: Family, data: str, vit: Literal["base", "large"] = "base") -> Entry:
    name = f"Salesforce/{repo}"
    return Entry(
        name=name,
        family=family,
        location=name,
        source="hub",
        vit=vit,
        data=data,
        note="Transformers' form: LayerNorm eps 1e-5 in the image tower, 384 pixels",
    )


HUB = (
    _hub("blip-image-captioning-base", "caption", _COCO),
    _hub("blip-image-captioning-large", "caption", _COCO, "large"),
    _hub("blip-vqa-base", "vqa", f"{_TR}, then VQA v2"),
    _hub("blip-vqa-capfilt-large", "vqa", f"{_CAPFILT}, then VQA v2"),  # "large" is the filter, the ViT is base
    _hub("blip-itm-base-coco", "retrieval", _COCO),
    _hub("blip-itm-large-coco", "retrieval", _COCO, "large"),
    _hub("blip-itm-base-flickr", "retrieval", _FLICKR),
    _hub("blip-itm-large-flickr", "retrieval", _FLICKR, "large"),
)

TINY = Entry(
    name="tiny",
    family="pretrain",
    location="tiny",
    source="bundled",
    vit="tiny",
    image_size=224,
    data="see its model card",
    note="bundled in the package: works at once, offline",
)
TINY_VQA = Entry(
    name="tiny-vqa",
    family="vqa",
    location="tiny-vqa",
    source="bundled",
    vit="tiny",
    image_size=224,
    data="see its model card",
    note="bundled in the package: the default of 'blip ask'",
)
RANDOM_TINY = Entry(
    name="random-tiny",
    family="pretrain",
    location="",
    source="random",
    vit="tiny",
    image_size=32,
    data="none: seeded random weights",
    licence="none",
    note="for tests; other families as random-tiny-caption, random-tiny-vqa, …",
)

ENTRIES: tuple[Entry, ...] = (*PUBLISHED, TINY, TINY_VQA, RANDOM_TINY, *LEGACY, *LAVIS, *HUB)
BY_NAME = {entry.name: entry for entry in ENTRIES}


def models_with(capability: str) -> list[str]:
    """Names of published and bundled models that support a call, the most specialised first."""
    supported = {entry.name: entry.config.capabilities for entry in ENTRIES if _is_main(entry)}
    names = [name for name, calls in supported.items() if capability in calls]
    return sorted(names, key=lambda name: len(supported[name]))


def _is_main(entry: Entry) -> bool:
    published = entry.location.startswith(BLIP_URL) and not entry.name.startswith("legacy-")
    return published or entry.source == "bundled"


def find(name: str) -> Entry:
    """The row of a name, or of a published file's name or URL; UnknownModel suggests a near one."""
    if name in BY_NAME:
        return BY_NAME[name]
    for entry in ENTRIES:
        if entry.source == "url" and name in (entry.location, entry.location.rsplit("/", 1)[-1]):
            return entry
    for family in get_args(Family):
        if name == f"random-tiny-{family}":
            return _random(family)
    raise UnknownModel(f"unknown model '{name}'{did_you_mean(name, BY_NAME) or ';'} 'blip models' lists all")


def _random(family: Family) -> Entry:
    return Entry(
        name=f"random-tiny-{family}",
        family=family,
        location="",
        source="random",
        vit="tiny",
        image_size=32,
        data=RANDOM_TINY.data,
        licence="none",
    )
