"""A Parquet table, which refers to images by path or contains them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from blip.data.targets.images import only_image, read_image
from blip.data.targets.paths import path_in_table, require_new
from blip.data.targets.rows import Source, captions_column, key_column, other_columns
from blip.io import table_writer
from blip.io.atomic import atomic_path
from blip_lite.errors import BadRecord

_PARQUET_IMAGES = 256  # rows per group of a table that contains the images


def write_parquet(source: Source, target: Path) -> None:
    """Write a new table.

    Column types are those of all rows, so the source is read twice; images are read in the second pass only.
    """
    require_new(target)
    pyarrow = table_writer.require_pyarrow()
    paths = _ParquetRows(source, target, with_images=False)
    with atomic_path(target) as temporary:
        schema = table_writer.parquet_schema(paths)
        if paths.has_all_paths:
            table_writer.write_parquet_rows(temporary, paths, schema)
        else:
            rows = _ParquetRows(source, target, with_images=True)
            image = schema.get_field_index("image")
            schema = schema.set(image, schema.field(image).with_type(pyarrow.binary()))
            table_writer.write_parquet_rows(temporary, rows, schema, _PARQUET_IMAGES)


class _ParquetRows(Iterable[dict[str, Any]]):
    """A source as rows with the image's path (None if it is not a file) or its bytes."""

    def __init__(self, source: Source, target: Path, *, with_images: bool) -> None:
        self._source, self._target, self._with_images = source, target, with_images
        self.has_all_paths = True

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _, sample in self._source:
            try:
                ref = only_image(sample)
                path = None if ref.path is None else path_in_table(ref.path, self._target)
                self.has_all_paths &= path is not None
                image = read_image(ref, sample.where) if self._with_images else path
                row = key_column(self._source.key_of(sample)) | {"image": image} | captions_column(sample)
                yield row | other_columns(sample)
            except BadRecord as error:
                self._source.skip(error, counted=True)
