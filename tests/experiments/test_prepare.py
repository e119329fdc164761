"""The starting point of the training of `tiny`."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from experiments.tiny.prepare import read_photo_captions


def write_shard(path: Path, *captions: str) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in (("1.jpg", b"-"), ("1.json", json.dumps({"captions": captions}).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_the_captions_of_all_training_sets_are_read_and_no_others(tmp_path: Path) -> None:
    write_shard(tmp_path / "flickr8k-train-00000.tar", "a dog", "a brown dog")
    write_shard(tmp_path / "coco-train-00007.tar", "a cup")
    write_shard(tmp_path / "coco-dev-00000.tar", "not to train on")
    write_shard(tmp_path / "pascal-train-00001.tar")
    assert list(read_photo_captions(tmp_path)) == ["a cup", "a dog", "a brown dog"]
