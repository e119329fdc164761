"""The plan for 129 million images in the documentation: its tables are those that the derivation prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scale

PAGE = (Path(__file__).parents[1] / "docs/scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", [scale.gpu_table, scale.data_table])
def test_the_page_has_the_tables(table: object) -> None:
    assert callable(table) and "\n".join(table()) in PAGE


def test_operations_equal_those_of_the_networks() -> None:
    # the image encoders at 384 pixels: 111.0 and 382.1 GFLOP, keys and values 16.3 and 21.8
    base, large = (scale.encode(vision) / 1e9 for vision in scale.VISIONS)
    assert (round(base, 1), round(large, 1)) == (127.3, 403.9)
    assert round(scale.image_reads() / 1e6) == 425
