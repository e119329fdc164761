"""`blip schema`."""

from __future__ import annotations

import json

from tests.cli.conftest import Blip


def test_schemas_are_listed_and_shown(blip: Blip) -> None:
    names = blip("schema").out.split()
    assert {"caption", "answer", "match", "embedding"} <= set(names)
    for name in names:
        assert json.loads(blip("schema", name).out)["title"] == f"{name}/1"
    result = blip("schema", "captoin")
    assert result.code == 2 and "unknown record 'captoin'; did you mean 'caption'?" in result.err
