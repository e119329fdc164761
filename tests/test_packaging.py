"""The two wheels: separate files, one version, and either of them survives the removal of the other."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from blip_lite import __version__

ROOT = Path(__file__).parents[1]
PACKAGES = {"blip_vlm": "blip", "blip_vlm_lite": "blip_lite"}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheel of each distribution, built offline from a copy of the sources."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheels")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("src", "lite"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for project in (source / "lite", source):
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
        subprocess.run([*pip, "-w", str(folder), str(project)], check=True)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def files(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def metadata(wheel: Path) -> Message:
    name = next(name for name in files(wheel) if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(zipfile.ZipFile(wheel).read(name).decode("utf-8"))


def test_wheels_share_no_path(wheels: dict[str, Path]) -> None:
    assert set(wheels) == set(PACKAGES)
    assert not files(wheels["blip_vlm"]) & files(wheels["blip_vlm_lite"])
    for distribution, package in PACKAGES.items():
        top = {name.partition("/")[0] for name in files(wheels[distribution])}
        assert top == {package, f"{distribution}-{__version__}.dist-info"}


def test_wheels_contain_every_file_of_their_package(wheels: dict[str, Path]) -> None:
    for distribution, folder in (("blip_vlm", ROOT / "src"), ("blip_vlm_lite", ROOT / "lite" / "src")):
        expected = {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert expected <= files(wheels[distribution])


def test_blip_vlm_requires_blip_vlm_lite_of_the_same_version(wheels: dict[str, Path]) -> None:
    lite, full = metadata(wheels["blip_vlm_lite"]), metadata(wheels["blip_vlm"])
    assert lite["Version"] == full["Version"] == __version__
    assert f"blip-vlm-lite=={__version__}" in full.get_all("Requires-Dist", [])
    assert not any("blip" in requirement for requirement in lite.get_all("Requires-Dist", []))


@pytest.mark.parametrize("removed", PACKAGES)
def test_removing_one_distribution_leaves_the_other_complete(
    wheels: dict[str, Path], removed: str, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "venv"), "-q"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", *map(str, wheels.values())], check=True)
    subprocess.run([*pip, "uninstall", "-y", removed.replace("_", "-")], check=True)
    site = next(path for path in (tmp_path / "venv").rglob("site-packages"))
    kept = next(name for name in PACKAGES if name != removed)
    assert not (site / PACKAGES[removed]).exists()
    missing = [name for name in files(wheels[kept]) if not (site / name).is_file()]
    assert missing == []


def test_shared_requirements_have_equal_bounds() -> None:
    full = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    lite = tomllib.loads((ROOT / "lite" / "pyproject.toml").read_text("utf-8"))
    dependencies = full["tool"]["hatch"]["metadata"]["hooks"]["custom"]["dependencies"]
    shared = {"numpy", "pillow", "tokenizers"}
    for requirement in lite["project"]["dependencies"]:
        if any(requirement.startswith(name) for name in shared):
            assert requirement in dependencies
    extras = full["project"]["optional-dependencies"]
    assert all(extras[name] == value for name, value in lite["project"]["optional-dependencies"].items())


def test_every_extra_has_a_tested_version() -> None:
    full = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    pins = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for extra, requirements in full["project"]["optional-dependencies"].items():
        for requirement in requirements:
            name = requirement.partition(">")[0].partition("[")[0].lower().replace("_", "-")
            assert name in pins or name == "blip-vlm", f"{extra}: {requirement}"


def test_both_commands_print_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    from blip.cli import main as blip
    from blip_lite.cli import main as blip_lite

    with pytest.raises(SystemExit):
        blip_lite(["--version"])
    assert capsys.readouterr().out == f"blip-lite {__version__}\n"
    assert blip(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"blip {__version__} (torch ")
