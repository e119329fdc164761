"""Output folders: names of files, changed data, and settings that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip.engine import local
from blip.engine.folder import OutputFolder, difference
from blip.engine.progress import Progress
from blip.engine.units import Unit
from blip.engine.work import Counts, Tick
from blip_lite.errors import UsageError

SETTINGS = {"captioner": {"name": "tiny", "sha256": "a" * 64}, "seed": 0, "prompts": ("a", "b")}


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path / "out", tmp_path / "out/scores")


def tar(source: str, size: int = 1) -> Unit:
    return Unit(name=Path(source).stem, source=source, size=size)


def finish(folder: OutputFolder, unit: Unit) -> None:
    folder.files.mkdir(parents=True, exist_ok=True)
    folder.target(unit).touch()


def test_names_are_unique_and_the_same_in_the_next_run(folder: OutputFolder) -> None:
    first = folder.assign([tar("a/00000.tar"), Unit(name="t-000000010", source="t.json", start=10, size=2)])
    assert [unit.name for unit in first] == ["00000", "t-000000010"]
    second = folder.assign([tar("b/00000.tar"), tar("a/00000.tar")])
    assert [unit.name for unit in second] == ["00000-2", "00000"]
    assert [unit.name for unit in folder.units()] == ["00000", "t-000000010", "00000-2"]


def test_changed_data_of_a_finished_unit_are_refused(folder: OutputFolder) -> None:
    (unit,) = folder.assign([tar("a.tar", 1)])
    folder.assign([tar("a.tar", 2)])
    finish(folder, unit)
    with pytest.raises(UsageError, match=r"^a.tar: 3 images, but 2 when .*out/scores/a.parquet was written"):
        folder.assign([tar("a.tar", 3)])


def test_other_settings_are_refused_once_a_unit_is_finished(folder: OutputFolder) -> None:
    folder.check_settings(SETTINGS)
    folder.check_settings({**SETTINGS, "seed": 1})
    finish(folder, tar("a.tar"))
    folder.check_settings({**SETTINGS, "seed": 1})
    with pytest.raises(UsageError, match="out: made with seed 1, not 0; choose another output"):
        folder.check_settings(SETTINGS)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, ""),
        ({"captioner": {"name": "other name", "sha256": "a" * 64}}, ""),
        ({"captioner": {"name": "x", "sha256": "b" * 64}}, "captioner 'tiny' (aaaaaaaaaaaa), not 'x' (bbbbbbbbbbbb)"),
        ({"decoding": {"beams": 3}}, 'decoding null, not {"beams": 3}'),
        ({"prompts": ("a",)}, 'prompts ["a", "b"], not ["a"]'),
    ],
)
def test_the_difference_of_settings_is_named(change: dict[str, object], text: str) -> None:
    old = {**SETTINGS, "prompts": ["a", "b"]}
    new = {name: list(value) if isinstance(value, tuple) else value for name, value in {**old, **change}.items()}
    assert difference(old, new) == text
    assert difference({"decoding": {"p": 0.9, "k": 1}}, {"decoding": {"p": 0.9, "k": 2}}) == "decoding.k 1, not 2"


class Copies:
    """Work that writes the name of a unit, and fails at the unit `bad`."""

    def __init__(self) -> None:
        self.loads, self.bad = 0, ""

    def load(self) -> None:
        self.loads += 1

    def process(self, unit: Unit, path: Path, tick: Tick) -> None:
        path.write_text(unit.name)
        tick(Counts(images=2), 1.0)
        if unit.name == self.bad:
            raise KeyboardInterrupt

    def counts(self, path: Path) -> Counts:
        return Counts(images=2)


def test_units_are_written_once_and_an_interrupted_one_not_at_all(folder: OutputFolder) -> None:
    units = folder.assign([tar(f"{name}.tar") for name in "abc"])
    work, lines = Copies(), list[str]()
    work.bad = "b"
    with pytest.raises(KeyboardInterrupt):
        local.run(work, units, folder, Progress(3, units, lines.append))
    assert [path.name for path in folder.files.iterdir()] == ["a.parquet"]
    work.bad = ""
    todo = [unit for unit in units if not folder.is_done(unit)]
    local.run(work, todo, folder, Progress(3, todo, lines.append))
    assert sorted(path.read_text() for path in folder.files.iterdir()) == ["a", "b", "c"]
    assert lines[0] == "0/3 shards, 2 images" and lines[-1].startswith("2/3 shards, 4 images (")
    assert lines[-1].endswith("0 s left")
    local.run(work, [], folder, Progress(3, [], lines.append))
    assert work.loads == 2
