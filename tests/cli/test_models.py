from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blip.cli.models import models
from blip_lite.errors import BlipError, CheckpointError, OfflineError, UnknownModel, UsageError
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
    assert isinstance(fails("path", "caption-base"), OfflineError)


def test_verify_detects_a_changed_file(tmp_path: Path) -> None:
    path = tmp_path / "cache/checkpoints/model_large_caption.pth"
    small_file(path)
    assert run("verify").stdout.split()[1] == "caption-large"
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
