"""Tar shards: an image and a JSON file for each row."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from blip.data.targets.images import image_extension, only_image, read_image
from blip.data.targets.rows import Source, captions_column, json_text, key_column, other_columns
from blip.io.atomic import temporary_folder
from blip.io.ordered_map import batched
from blip.io.samples import Sample
from blip_lite.errors import BadRecord, UsageError


def write_shards(source: Source, target: Path, shard_size: int) -> tuple[Path, ...]:
    """Write and return `NAME-000000.tar` and so on for the target NAME.tar."""
    if existing := sorted(target.parent.glob(f"{target.stem}-[0-9]*.tar")):
        raise UsageError(f"{existing[0]} exists; remove it or choose another name")
    with temporary_folder(target.with_suffix("")) as folder:
        for shard, batch in enumerate(batched(source, shard_size)):
            with tarfile.open(folder / f"{target.stem}-{shard:06d}.tar", "w") as tar:
                for number, sample in batch:
                    _add_to_tar(tar, f"{number:09d}", sample, source)
        paths = [target.parent / path.name for path in sorted(folder.iterdir())]
        for path in paths:
            os.replace(folder / path.name, path)
    return tuple(paths)


def _add_to_tar(tar: tarfile.TarFile, stem: str, sample: Sample, source: Source) -> None:
    """Add `STEM.jpg` and `STEM.json` with key, captions and the other columns."""
    try:
        data = read_image(only_image(sample), sample.where)
        name = stem + image_extension(sample.image, data, sample.where)
        row = key_column(source.key_of(sample)) | captions_column(sample) | other_columns(sample)
        text = json_text(row, sample.where)
    except BadRecord as error:
        source.skip(error, counted=True)
        return
    for member, content in ((name, data), (f"{stem}.json", text.encode("utf-8", "replace"))):
        info = tarfile.TarInfo(member)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
