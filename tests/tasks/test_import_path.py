"""Tasks and losses from outside the package, named by import path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from blip.tasks import build_task, task_class
from blip.tasks.caption import CaptionTask
from blip.tasks.import_path import build_from_path, import_class
from blip.tasks.retrieval import RetrievalTask
from blip.train import fit
from blip.train.fine_tune import fine_tune_defaults
from blip_lite.errors import ConfigError, UnknownKey, UsageError
from tests.train.photos import loop, write_photos

OWN_TASK = '''
from dataclasses import dataclass, field
from blip.tasks.caption import CaptionTask

@dataclass(frozen=True, kw_only=True)
class HalvedTask:
    """Captioning with half the loss, by composition."""

    data: str
    start: dict = field(default_factory=dict)
    best: None = None
    name = "own_tasks:HalvedTask"
    info = CaptionTask.info

    def __post_init__(self):
        from blip.tasks.initialize import Start
        object.__setattr__(self, "_captions", CaptionTask(data=self.data, start=Start(init="random-tiny")))

    setup = property(lambda self: self._captions.setup)

    def dataset(self):
        return self._captions.dataset()

    def collate(self, samples):
        return self._captions.collate(samples)

    def loss(self, model, batch, step):
        return {name: loss / 2 for name, loss in self._captions.loss(model, batch, step).items()}

class Plain:
    pass
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is not on the module search path, with modules in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("own_tasks", "broken", "needs_more"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "own_tasks.py").write_text(OWN_TASK)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "needs_more.py").write_text("import not_installed_anywhere\n")
    return tmp_path


def test_defaults_of_fine_tuning_leave_out_fields_that_a_task_lacks(folder: Path) -> None:
    values = {"task": "own_tasks:HalvedTask", "data": "x"}
    fine_tune_defaults(values, "tiny")
    assert set(values) == {"task", "data", "start", "train"} and "patience" not in values["train"]


def test_a_task_of_the_current_folder_trains(folder: Path) -> None:
    task = build_task("own_tasks:HalvedTask", {"data": str(write_photos(folder / "photos"))})
    assert fit(task, loop(steps=1), folder / "run", quiet=True).reason == "finished"
    assert "task: own_tasks:HalvedTask" in (folder / "run" / "config.yaml").read_text()


def test_registered_names_need_no_path() -> None:
    assert task_class("caption") is CaptionTask and task_class("itm") is RetrievalTask
    assert build_task("itm", {"data": "x"}).name == "itm"
    with pytest.raises(UsageError, match="unknown task 'captoin'; did you mean 'caption'"):
        build_task("captoin", {})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent:Task", "task 'absent:Task': no module 'absent'; install it, or run from the folder"),
        ("own_tasks:HalvedTusk", "no dataclass 'HalvedTusk' in the module; did you mean 'HalvedTask'"),
        ("own_tasks:Plain", "no dataclass 'Plain' in the module"),
        ("own_tasks:", "must be package.module:Class"),
        ("broken:Task", r"import failed \(ZeroDivisionError: division by zero\)"),
        ("needs_more:Task", r"import failed \(No module named 'not_installed_anywhere'\)"),
    ],
)
def test_errors_name_the_path(folder: Path, path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        import_class(path, "task")


def test_options_of_a_loss_are_checked(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"extra_losses\.a\.class: missing; must be package\.module:Class"):
        build_from_path({"weight": 1}, "extra_losses.a")
    with pytest.raises(UnknownKey, match=r"unknown key 'extra_losses\.a\.wight'"):
        build_from_path({"class": "own_tasks:HalvedTask", "wight": 1}, "extra_losses.a")
