"""`blip doctor`."""

from __future__ import annotations

import json
import os
import re
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions
from pathlib import Path

import pytest

from blip.apps.doctor import report as doctor
from blip.apps.doctor import selftest
from blip_lite.errors import CheckpointMismatch
from tests.cli.conftest import Blip


def test_the_report_lists_models_checks_and_a_command(blip: Blip) -> None:
    result = blip("doctor", "--json")
    report = json.loads(result.out)
    assert result.code == 0
    assert report["versions"]["torch"] and report["folders"]["checkpoints"]
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(report["extras"]) == set(project["optional-dependencies"]) - {"dev", "all"}
    assert "tiny" in report["models"]["available"].split(", ")
    assert all(value.startswith("ok, ") for value in report["checks"].values())
    assert f"'{selftest.CAPTION}'" in report["checks"]["tiny, cpu fp32"]
    assert report["next"]["command"].startswith("blip caption ")


def test_the_last_line_is_the_next_command(
    blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(selftest, "trials", lambda: iter(()))  # the photo went through them above
    monkeypatch.chdir(photos)
    result = blip("doctor")
    assert "checks\n  packages          ok" in result.out and "\n  tiny, onnxruntime ok, " in result.out
    assert result.out.splitlines()[-1] == "next: blip caption ."
    monkeypatch.chdir(tmp_path)
    assert blip("doctor").out.splitlines()[-1] == "next: blip caption PHOTO.jpg"


@pytest.mark.parametrize(
    ("report", "broken", "file", "command"),
    [
        ({"versions": {"blip": "0.1.0"}}, [], "a.jpg", "pip uninstall blip && pip install --force-reinstall"),
        ({}, ["tiny, cpu fp32"], "a.jpg", "pip install --force-reinstall --no-deps blip-vlm"),
        ({}, ["tiny, cuda:0 bf16"], "a.jpg", "blip caption . --device cpu"),
        ({"extras": {"heif": "missing"}}, [], "a.HEIC", 'pip install "blip-vlm[heif]"'),
        ({"extras": {"video": "missing"}}, [], "a.mp4", 'pip install "blip-vlm[video]"'),
        ({"models": {"available": "tiny, caption-base"}}, [], "a.jpg", "blip caption . -m caption-base"),
    ],
)
def test_the_next_command_depends_on_the_report(
    report: doctor.Report, broken: list[str], file: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    healthy = {"versions": {}, "extras": dict.fromkeys(doctor.EXTRAS, "installed"), "models": {"available": "tiny"}}
    assert doctor._next({part: healthy[part] | report.get(part, {}) for part in healthy}, broken).startswith(command)


def test_wrong_results_of_a_device_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = selftest.Trial(device="cpu", dtype="fp32", needed=True)
    monkeypatch.setattr(selftest, "VECTOR", (*selftest.VECTOR[:-1], selftest.VECTOR[-1] + 1e-2))
    assert "vector differs by 1.0e-02; at most 1e-03 is rounding" in selftest.outcome(selftest.parity, trial)
    caption = selftest.CAPTION
    monkeypatch.setattr(selftest, "CAPTION", "a dog")
    result = selftest.outcome(selftest.parity, trial)
    assert result.startswith(f"wrong: '{caption}'") and result.endswith("the caption must be 'a dog'")


def test_the_unrelated_package_of_the_same_name_is_reported(
    blip: Blip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blip-0.1.0.dist-info").mkdir()
    (tmp_path / "blip-0.1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: blip\nVersion: 0.1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor._versions()["blip"].startswith("0.1.0, an unrelated package that takes the same name; pip uninstall")


def test_a_missing_extra_is_named_with_its_install_line(blip: Blip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "trials", lambda: iter(()))
    monkeypatch.setitem(doctor.EXTRAS, "data", ("json", "no_such_module"))  # both are needed
    status = json.loads(blip("doctor", "--json").out)["extras"]["data"]
    assert status == 'missing; pip install "blip-vlm[data]"'


def test_every_package_of_an_extra_is_checked() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    homes = packages_distributions()
    for extra, modules in doctor.EXTRAS.items():
        requirements = project["optional-dependencies"][extra]
        expected = {re.split(r"[<>=\[]", requirement)[0].replace("_", "-") for requirement in requirements}
        known = {home.replace("_", "-") for module in modules for home in homes.get(module, ())}
        if any("[" in requirement for requirement in requirements):  # names packages of another extra, as ray[data]
            known &= expected
        assert known == expected or any(module not in homes for module in modules), extra


def test_the_password_of_a_proxy_stays_private(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("http://me:se/cret@proxy:1", "me:se/cret@proxy:1"):
        monkeypatch.setenv("HTTPS_PROXY", address)
        monkeypatch.setenv("BLIP_CACHE", "/home/a@b/cache")
        environment = doctor._environment()
        assert (
            environment["HTTPS_PROXY"] == address.replace("me:se/cret", "***")
            and environment["BLIP_CACHE"] == "/home/a@b/cache"
        )


def test_a_cache_that_changes_meanwhile_is_not_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").write_bytes(bytes(1000))
    (tmp_path / "gone").write_bytes(bytes(1000))
    lstat = os.lstat

    def vanishing(path: str) -> os.stat_result:
        if str(path).endswith("gone"):
            raise FileNotFoundError(path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", vanishing)
    assert doctor._used(tmp_path) == 1e-6


def test_an_unreadable_folder_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", closed)
    assert doctor._suffixes() == set()


def test_a_model_that_does_not_work_is_an_environment_problem(blip: Blip, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise CheckpointMismatch("the file is not whole")

    monkeypatch.setattr("blip.api.load", broken)
    result = blip("doctor", "--bench")  # which then has nothing to time
    assert result.code == 4
    assert "blip: error: model 'random-tiny' does not work: CheckpointMismatch: the file is not whole" in result.err


@pytest.mark.parametrize("name", ["packages", "bundled files", "tiny, onnxruntime"])
def test_every_needed_check_that_fails_is_reported_and_ends_with_4(
    blip: Blip, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> str:
        raise CheckpointMismatch("broken on purpose")

    quick = dict.fromkeys(selftest.CHECKS, lambda: "ok, quick")
    monkeypatch.setattr(selftest, "CHECKS", quick | {name: broken})
    monkeypatch.setattr(selftest, "trials", lambda: iter(()))
    result = blip("doctor")
    assert result.code == 4 and "broken on purpose" in result.err.splitlines()[-1]


def test_missing_and_old_packages_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"numpy": "1.0"}

    def version(name: str) -> str:
        if name in installed:
            return installed[name]
        raise PackageNotFoundError(name)

    monkeypatch.setattr(selftest, "version", version)
    monkeypatch.setattr(selftest, "requires", lambda _: ["numpy>=2", "click>=8", 'ray>=2; extra == "ray"'])
    assert selftest.packages() == "wrong: numpy is 1.0, must be >=2; click is missing"


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BLIP_CACHE", str(tmp_path / "file" / "cache"))
    assert "not writable" in doctor._folders()["checkpoints"]
