from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner, Result

from blip.checkpoint import sums
from blip.cli.models import models
from blip_lite import ASSETS
from blip_lite.errors import (
    BlipError,
    CheckpointError,
    ChecksumMismatch,
    EnvironmentProblem,
    OfflineError,
    UnknownModel,
    UsageError,
)
from tests.checkpoint.test_load import folders, small_file  # noqa: F401


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(models, [str(argument) for argument in arguments], standalone_mode=False)
    result.exit_code = result.return_value or result.exit_code
    return result


def fails(*arguments: str | Path) -> BaseException:
    error = run(*arguments).exception
    assert isinstance(error, BlipError)
    return error


def test_bare_verb_lists_models() -> None:
    bare, listed = run(), run("list")
    assert bare.exit_code == 0 and bare.stdout == listed.stdout
    assert {"caption-base", "tiny", "random-tiny"} <= {line.split("\t")[0] for line in bare.stdout.splitlines()}


def test_cached_list_shows_local_models(tmp_path: Path) -> None:
    small_file(tmp_path / "cache/checkpoints/model_large_caption.pth")
    lines = run("list", "--cached", "--json").stdout.splitlines()
    listed = [json.loads(line)["name"] for line in lines]
    assert run("--cached", "--json").stdout.splitlines() == lines
    assert "caption-large" in listed and "caption-base" not in listed and "random-tiny" in listed


def test_info_shows_origin_and_scores() -> None:
    record = json.loads(run("info", "caption-base", "--json").stdout)
    assert record["location"].endswith("model_base_caption_capfilt_large.pth")
    assert "CIDEr 133.3" in record["scores"] and record["licence"] == "BSD-3-Clause" and record["path"] is None


def test_unknown_name_suggests() -> None:
    assert "did you mean 'caption-base'" in str(fails("info", "caption-bse"))


def test_get_offline_names_the_fix() -> None:
    assert isinstance(fails("get", "caption-base", "--offline"), OfflineError)
    assert run("get", "random-tiny").exit_code == 0


def test_path_is_printed_only_when_cached(tmp_path: Path) -> None:
    small_file(tmp_path / "cache/checkpoints/model_large_caption.pth")
    assert run("path", "caption-large").stdout.strip().endswith("model_large_caption.pth")
    error = fails("path", "caption-base")
    assert isinstance(error, OfflineError)
    assert str(error) == "model 'caption-base' is not on this machine; download it: blip models get caption-base"


def test_verify_detects_a_changed_file(tmp_path: Path) -> None:
    path = tmp_path / "cache/checkpoints/model_large_caption.pth"
    small_file(path)
    assert "no SHA-256 is recorded" in str(run("verify", "caption-large").stderr), "placed by hand"
    Path(f"{path}.sha256").write_text(f"{sha256(path.read_bytes()).hexdigest()}  model_large_caption.pth\n")
    assert run("verify").stdout.splitlines()[0].startswith("caption-large\tok\t")
    Path(f"{path}.sha256").write_text("0" * 64 + "  model_large_caption.pth\n")
    result = run("verify")
    assert result.exit_code == 3 and "fetch it again" in result.stderr


def test_rm_removes_cached_and_imported(tmp_path: Path) -> None:
    path = tmp_path / "cache/checkpoints/model_large_caption.pth"
    small_file(path)
    assert run("rm", "caption-large").exit_code == 0 and not path.exists()
    assert run("import", small(tmp_path), "--as", "mine").exit_code == 0
    assert "mine" in run("list", "--cached").stdout
    assert run("rm", "mine").exit_code == 0 and "mine" not in run("list", "--cached").stdout


@pytest.mark.parametrize("name", ["tiny", "random-tiny", "Salesforce/blip-vqa-base"])
def test_rm_refuses_models_outside_its_cache(name: str) -> None:
    assert isinstance(fails("rm", name), UsageError)


def test_rm_never_deletes_a_file_of_the_user(tmp_path: Path) -> None:
    path = small(tmp_path)
    assert isinstance(fails("rm", path), UsageError) and path.exists()


def test_convert_and_diff(tmp_path: Path) -> None:
    path = small(tmp_path)
    assert run("convert", path, "-o", tmp_path / "hf", "--to", "hf").exit_code == 0
    same = run("diff", path, tmp_path / "hf")
    assert same.exit_code == 0 and "same model" in same.stderr
    assert run("convert", path, "-o", tmp_path / "int8", "--int8").exit_code == 0
    other = run("diff", path, tmp_path / "int8")
    assert other.exit_code == 1 and "max difference" in other.stdout


def test_unknown_file_is_an_error() -> None:
    assert isinstance(fails("convert", "missing.pth", "-o", "out"), CheckpointError)
    assert isinstance(fails("path", "nothing"), UnknownModel)


def test_help_and_list_import_no_torch() -> None:
    code = (
        "import sys; from blip.cli.models import models; models({}, standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    for arguments in (["--help"], ["list"]):
        assert subprocess.run([sys.executable, "-c", code.format(arguments)], capture_output=True).returncode == 0


def small(folder: Path) -> Path:
    small_file(folder / "a.pth")
    return folder / "a.pth"


def test_bundled_models_are_verified_by_their_recorded_sums(tmp_path: Path) -> None:
    result = run("verify")
    assert result.exit_code == 0
    assert [line.split("\t")[:2] for line in result.stdout.splitlines()] == [["tiny", "ok"], ["tiny-vqa", "ok"]]
    shutil.copytree(ASSETS / "tiny", tmp_path / "tiny")
    with (tmp_path / "tiny" / "model.safetensors").open("r+b") as file:
        file.write(b"x")
    assert sums.verify(ASSETS / "tiny")["model.safetensors"]
    with pytest.raises(ChecksumMismatch, match=r"model\.safetensors: not the file that SHA256SUMS records"):
        sums.verify(tmp_path / "tiny")


@pytest.mark.parametrize("name", ["random-tiny", "Salesforce/blip-vqa-base"])
def test_verify_fails_without_a_comparison(name: str) -> None:
    result = run("verify", name)
    assert result.exit_code == 3 and result.stdout == "" and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["tiny", "tiny-vqa"])
def test_terms_of_bundled_models_are_those_of_their_licence(name: str) -> None:
    record = json.loads(run("info", name, "--json").stdout)
    assert record["licence"] == "research and education only"
    assert "not under the licence of the code" in Path(record["licence_file"]).read_text()
    assert "research and education only" in run("info", name).stdout
    for source in ("Flickr8k", "Captions of COCO", "MobileNetEdgeTPU", "all-MiniLM-L6-v2"):
        assert any(term.startswith(source) for term in record["terms"]), source
    rows = [line.partition("\t") for line in run("info", name).stdout.splitlines()]
    assert [value for field, _, value in rows if field == "terms"] == record["terms"]


def test_sizes_are_exact_on_disk_and_estimates_of_downloads(tmp_path: Path) -> None:
    small_file(tmp_path / "cache/checkpoints/model_large_caption.pth")
    records = {record["name"]: record for record in map(json.loads, run("list", "--json").stdout.splitlines())}
    assert records["caption-base"]["size_mb"] == 900 and records["caption-base"]["size_is_estimate"]
    assert 20 < records["tiny"]["size_mb"] < 40 and not records["tiny"]["size_is_estimate"]
    assert records["caption-large"]["size_mb"] < 20 and not records["caption-large"]["size_is_estimate"]
    assert all(record["size_mb"] for record in records.values() if record["source"] in ("url", "hub", "bundled"))
    assert "~900 MB" in run("list").stdout and "~900 MB" in run("info", "caption-base").stdout


def test_get_reports_that_it_tries_and_where_a_file_can_be_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "cache/checkpoints/model_base_caption_capfilt_large.pth"
    assert f"place it as {place}" in str(fails("get", "caption-base", "--offline"))
    monkeypatch.setattr("blip.io.fetch.RETRY_SECONDS", 0)
    monkeypatch.setattr("blip.io.fetch._Download._try", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    result = run("get", "caption-base")
    assert isinstance(result.exception, EnvironmentProblem) and f"place it as {place}" in str(result.exception)
    lines = result.stderr.splitlines()
    assert lines[0].startswith("caption-base: connecting to https://") and lines[0].endswith("(about 900 MB)")
    assert lines[1].endswith("no route to host; attempt 2 of 6 in 1 s") and len(lines) == 6
    assert run("get", "caption-base", "-q").stderr == ""
    place.parent.mkdir(parents=True, exist_ok=True)
    small_file(place)
    assert run("get", "caption-base").stdout == f"{place}\n"


def refuse(*_: object) -> None:
    raise httpx2.ConnectError("no route to host")


def test_damaged_import_is_listed_as_damaged(tmp_path: Path) -> None:
    assert run("import", small(tmp_path), "--as", "mine").exit_code == 0
    (tmp_path / "home/models/mine/config.json").write_text("[" * 100_000)
    listed = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    assert "damaged" in listed[-1]["note"]
    assert isinstance(fails("info", "mine"), CheckpointError)
    assert run("rm", "mine").exit_code == 0


@pytest.mark.parametrize("layout", ["blip", "hf", "original"])
def test_converted_files_are_the_same_every_time(tmp_path: Path, layout: str) -> None:
    path, ending = small(tmp_path), ".pth" if layout == "original" else ""
    for name in ("first", "second"):
        assert run("convert", path, "--to", layout, "-o", tmp_path / f"{name}{ending}").exit_code == 0
    first, second = tmp_path / f"first{ending}", tmp_path / f"second{ending}"
    files = [Path()] if layout == "original" else sorted(p.relative_to(first) for p in first.rglob("*"))
    assert files and all((first / file).read_bytes() == (second / file).read_bytes() for file in files)


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_layouts_that_cannot_hold_tiny_are_refused_before_work(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blip.checkpoint.exchange.read_weights", lambda *_, **__: pytest.fail("weights are read"))
    error = fails("convert", "tiny", "--to", layout, "-o", tmp_path / ("a.pth" if layout == "original" else "a"))
    assert "cannot hold the convolutional stem 'edgetpu'" in str(error) and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("layout", "name"), [("hf", "a.onnx"), ("blip", "a.safetensors"), ("original", "a.onnx"), ("original", "folder")]
)
def test_unknown_endings_are_refused_before_work(tmp_path: Path, layout: str, name: str) -> None:
    assert isinstance(fails("convert", "random-tiny-caption", "--to", layout, "-o", tmp_path / name), UsageError)
    assert not any(tmp_path.iterdir())


def test_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("blip.checkpoint.files.save_file", full)
    assert isinstance(fails("convert", "random-tiny-caption", "-o", tmp_path / "out"), EnvironmentProblem)
    assert not any(tmp_path.iterdir())


def test_terms_travel_with_converted_weights(tmp_path: Path) -> None:
    assert run("convert", "tiny", "-o", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out/LICENSE").read_bytes() == (ASSETS / "tiny/LICENSE").read_bytes()
