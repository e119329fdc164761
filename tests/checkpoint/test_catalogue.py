from __future__ import annotations

import subprocess
import sys

import pytest

from blip.checkpoint import catalogue
from blip_lite.config import published_config
from blip_lite.errors import UnknownModel

PUBLISHED = """pretrain-base-14m pretrain-base pretrain-base-capfilt pretrain-large caption-base caption-large vqa-base
vqa-base-capfilt retrieval-coco-base retrieval-coco-large retrieval-flickr-base retrieval-flickr-large nlvr-base"""


def test_published_files_have_their_names() -> None:
    assert [entry.name for entry in catalogue.ENTRIES[:13]] == PUBLISHED.split()
    assert {"tiny", "random-tiny"} <= set(catalogue.BY_NAME)
    assert sum(entry.source == "hub" for entry in catalogue.ENTRIES) == 8
    assert len(catalogue.BY_NAME) == len(catalogue.ENTRIES)


def test_entries_have_config_and_image_size() -> None:
    assert catalogue.find("vqa-base").config == published_config("vqa")
    assert catalogue.find("caption-large").config == published_config("caption", "large")
    assert catalogue.find("pretrain-large").image_size == 224


def test_old_names_keep_their_asterisk_in_the_url_only() -> None:
    entry = catalogue.find("model*_vqa.pth")
    assert entry.location.endswith("/model*_vqa.pth") and "*" not in entry.file_name


def test_unknown_name_suggests_a_similar_one() -> None:
    with pytest.raises(UnknownModel) as error:
        catalogue.find("caption-bse")
    assert str(error.value) == "unknown model 'caption-bse'; did you mean 'caption-base'? 'blip models' lists all"
    with pytest.raises(UnknownModel, match=r"^unknown model 'zzzzzz'; 'blip models' lists all$"):
        catalogue.find("zzzzzz")


def test_random_models_exist_for_every_family() -> None:
    assert catalogue.find("random-tiny-vqa").config.family == "vqa"
    assert catalogue.find("random-tiny").config.family == "pretrain"


def test_catalogue_needs_no_torch() -> None:
    code = "import blip.checkpoint.locate, blip.cli.models, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
