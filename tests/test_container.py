"""Container files, without building images: their copied files, installations and commands."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.expected import caption_of

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LITE_PYPROJECT = tomllib.loads((ROOT / "lite" / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
DEPENDENCIES = {
    *PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]["dependencies"],
    *LITE_PYPROJECT["project"]["dependencies"],
}
KNOWN = {"ARG", "FROM", "WORKDIR", "RUN", "ENV", "COPY", "USER", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def copied() -> list[str]:
    """Paths that are copied from the repository."""
    words = [rest.split() for name, rest in instructions() if name == "COPY" and not rest.startswith("--from")]
    return [source for *sources, _ in words for source in sources]


def arguments() -> dict[str, str]:
    return dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG")


def test_every_instruction_is_known_and_the_last_stage_does_not_run_as_root() -> None:
    steps = instructions()
    assert {name for name, _ in steps} <= KNOWN
    last = steps[max(i for i, (name, _) in enumerate(steps) if name == "FROM") :]
    assert ("USER", "blip") in last
    assert json.loads(dict(last)["ENTRYPOINT"]) == ["blip"] and "blip" in PROJECT["scripts"]


def ignored(path: str) -> bool:
    """Whether `.dockerignore` excludes a top-level path; the last matching rule decides."""
    rules = [r for r in (ROOT / ".dockerignore").read_text().splitlines() if r and not r.startswith("#")]
    fitting = [rule for rule in rules if fnmatch(path, rule.removeprefix("!"))]
    return bool(fitting) and not fitting[-1].startswith("!")


def test_everything_copied_exists_and_is_not_ignored() -> None:
    for source in copied():
        assert (ROOT / source).exists()
        assert not ignored(source), source
    assert ignored(".git") and ignored(".venv") and ignored("runs")


@pytest.mark.parametrize("path", ["predict.py", "cog.yaml", ".cog", "src", "lite"])
def test_the_files_that_cog_needs_are_not_ignored(path: str) -> None:
    assert not ignored(path)  # `.cog` holds the list of packages while it builds


def test_models_and_the_index_are_in_the_volume() -> None:
    steps = instructions()
    folders = dict(pair.split("=", 1) for name, rest in steps if name == "ENV" for pair in rest.split())
    for name in ("BLIP_CACHE", "BLIP_HOME", "HF_HOME"):
        assert Path(folders[name]).is_relative_to(dict(steps)["VOLUME"])


def test_it_installs_the_same_as_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"TORCH ?= {arguments()['TORCH']}" in makefile
    assert set(arguments()["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])
    installs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert installs[-1] == 'pip install -c constraints.txt ./lite ".[$EXTRAS]"'


@pytest.mark.parametrize(("index", "words"), [("", []), ("https://a.example/cpu", ["--index-url"])])
def test_torch_is_installed_from_the_given_index(index: str, words: list[str]) -> None:
    line = next(rest for name, rest in instructions() if name == "RUN" and "$TORCH_INDEX" in rest)
    script = f'pip() {{ printf "%s\\n" "$@"; }}\n{line}'
    environment = {"TORCH": "torch==1", "TORCH_INDEX": index}
    printed = subprocess.run(["sh", "-euc", script], env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["install", *words, *([index] if index else []), "torch==1"]


def test_the_copied_files_install_a_package_that_captions(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    for source in copied():
        target = tmp_path / "src" / source
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, target)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [*pip, "--target", str(tmp_path / "installed"), str(tmp_path / "src" / "lite"), str(tmp_path / "src")],
        check=True,
    )
    installed = tmp_path / "installed"
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"bin", "blip", "blip_lite"}
    for assets in ("src/blip/assets", "lite/src/blip_lite/assets"):
        for path in (ROOT / assets).rglob("*.*"):
            assert (installed / path.relative_to((ROOT / assets).parents[1])).is_file(), path
    code = "import sys, blip.cli; print(blip.cli.__file__); sys.exit(blip.cli.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "caption", str(ROOT / "examples" / "chelsea.png")],
        env={"PYTHONPATH": str(tmp_path / "installed"), "BLIP_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    where, caption = done.stdout.splitlines()
    assert where.startswith(str(tmp_path / "installed")) and caption == caption_of("chelsea.png")


# Cog -----------------------------------------------------------------------------------------------------------------


@dataclass
class Field:
    """Arguments of `cog.Input`."""

    description: str
    default: Any = ...
    choices: list[str] | None = None


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The predictor with the bundled models, on a fake module `cog`."""
    cog = types.ModuleType("cog")
    cog.BasePredictor, cog.Input, cog.Path = object, Field, Path  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cog", cog)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("predict", ROOT / "predict.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "predict", module)
    spec.loader.exec_module(module)
    instance = module.Predictor()
    instance.models = {name: "tiny-vqa" if "question" in name else "tiny" for name in module.Predictor.models}
    instance.setup()
    yield instance


def test_the_predictor_has_the_inputs_and_output_texts_of_the_original(predictor: Any) -> None:
    fields = predictor.predict.__defaults__
    names = predictor.predict.__code__.co_varnames[1:5]
    assert names == ("image", "task", "question", "caption")
    assert fields[1].choices == ["image_captioning", "visual_question_answering", "image_text_matching"]
    assert (fields[1].default, fields[2].default, fields[3].default) == ("image_captioning", None, None)
    photo = ROOT / "examples" / "chelsea.png"
    printed = [
        predictor.predict(photo, "image_captioning", None, None),
        predictor.predict(photo, "visual_question_answering", "is there a cat?", None),
        predictor.predict(photo, "image_text_matching", None, "a cat"),
    ]
    assert printed[0].startswith("Caption: a cat") and printed[1].startswith("Answer: ")
    first, second = printed[2].splitlines()
    assert re.fullmatch(r"The image and text is matched with a probability of 0\.\d{4}\.", first)
    assert re.fullmatch(r"The image feature and text feature has a cosine similarity of 0\.\d{4}\.", second)


def test_a_missing_question_is_one_line(predictor: Any) -> None:
    with pytest.raises(ValueError, match="question: must be given for the task visual_question_answering"):
        predictor.predict(ROOT / "examples" / "chelsea.png", "visual_question_answering", None, None)


def test_cog_names_the_predictor_and_every_requirement_at_its_tested_version() -> None:
    cog = yaml.safe_load((ROOT / "cog.yaml").read_text(encoding="utf-8"))
    assert cog["predict"] == "predict.py:Predictor"
    pins = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split("\n") if "==" in line)
    needed = {re.split("[<>=]", requirement)[0] for requirement in DEPENDENCIES}
    expected = {name: pins[name.replace("_", "-")] if name not in pins else pins[name] for name in needed}
    assert dict(shlex.split(line)[0].split("==") for line in cog["build"]["python_packages"]) == expected
