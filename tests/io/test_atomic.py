"""Files and folders appear complete or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blip.io.atomic import atomic_folder, atomic_path, temporary_folder, write_bytes, write_text
from blip.io.disk import disk_full
from blip.io.lock import exclusive
from blip_lite.errors import EnvironmentProblem, UsageError

MARK = "config.json"


def test_file_appears_at_the_end_under_its_name(tmp_path: Path) -> None:
    target = tmp_path / "new" / "o.json"
    with atomic_path(target, durable=True) as temporary:
        temporary.write_text("x")
        assert not target.exists() and temporary.name == "o.json" and temporary.parent.parent == target.parent
    assert target.read_text() == "x" and os.listdir(target.parent) == ["o.json"]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "o", "old")
    with pytest.raises(KeyError), atomic_path(tmp_path / "o") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert (tmp_path / "o").read_text() == "old" and os.listdir(tmp_path) == ["o"]


def test_mode_and_links_are_kept(tmp_path: Path) -> None:
    (tmp_path / "o").touch()
    (tmp_path / "o").chmod(0o640)
    (tmp_path / "link").symlink_to("o")
    write_bytes(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "o").read_bytes() == b"x"
    assert (tmp_path / "o").stat().st_mode & 0o777 == 0o640


def test_full_disk_and_invalid_paths_are_environment_problems(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"o: no space left"), atomic_path(tmp_path / "o"):
        raise OSError(errno.ENOSPC, "full")
    (tmp_path / "file").touch()
    for target in (tmp_path, tmp_path / "file" / "o"):
        with pytest.raises(EnvironmentProblem, match="cannot be written"):
            write_text(target, "x")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_the_reason_of_a_full_disk_is_named(number: int, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=f"no space left on the disk .{os.strerror(number)}"), disk_full("o"):
        raise OSError(number, "")


def test_failed_writes_of_libraries_are_environment_problems(tmp_path: Path) -> None:
    for text in ("Error while serializing: I/O error: No space left on device (os error 28)", "database is full"):
        error = RuntimeError(text)
        expected = EnvironmentProblem if "No space" in text else RuntimeError
        with pytest.raises(expected), disk_full("o"):
            raise error


def test_other_errors_of_the_caller_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "o"):
        (tmp_path / "missing").read_bytes()


def test_long_names_fit(tmp_path: Path) -> None:
    write_text(tmp_path / ("é" * 127), "x")
    assert len(os.listdir(tmp_path)) == 1


def test_mode_is_that_of_the_target_even_if_the_writer_replaces_the_file(tmp_path: Path) -> None:
    plain, target = tmp_path / "plain", tmp_path / "weights.safetensors"
    plain.write_bytes(b"")
    with atomic_path(target) as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600))
    assert target.stat().st_mode == plain.stat().st_mode


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out", MARK) as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir())


def test_a_folder_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with (
        pytest.raises(UsageError, match="exists; choose another name or give --overwrite"),
        atomic_folder(tmp_path, MARK),
    ):
        pass
    (tmp_path / "config.json").rename(tmp_path / "notes")
    with (
        pytest.raises(UsageError, match=r"has no config\.json, so it holds other files"),
        atomic_folder(tmp_path, MARK, overwrite=True),
    ):
        pass
    assert (tmp_path / "notes").read_text() == "{}"


def test_overwrite_replaces_a_folder_with_its_mark(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "config.json").write_text("{}")
    with atomic_folder(output, MARK, overwrite=True) as folder:
        (folder / "new").write_text("x")
    assert [path.name for path in output.iterdir()] == ["new"] and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_old_folder_is_restored_if_it_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "config.json").write_text("{}")
    move = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise KeyboardInterrupt
        return move(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt), atomic_folder(output, MARK, overwrite=True):
        pass
    assert (output / "config.json").read_text() == "{}" and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_is_kept_and_the_working_folder_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, folder = tmp_path / "link", tmp_path / "folder"
    folder.mkdir()
    link.symlink_to(folder)
    with atomic_folder(link, MARK) as part:
        (part / "new").write_text("x")
    assert link.is_symlink() and (folder / "new").read_text() == "x"
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with pytest.raises(UsageError, match="is the working folder"), atomic_folder(Path("."), MARK):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from blip.io.atomic import atomic_folder, atomic_path
with atomic_path(sys.argv[1]) as temporary, atomic_folder(Path(sys.argv[2]), "mark", overwrite=True):
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.integration
def test_the_next_run_removes_what_a_killed_one_left_but_nothing_in_use(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    subprocess.run([sys.executable, "-c", KILLED, target, tmp_path / "out"], check=False)
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".part"]) == 2
    with temporary_folder(tmp_path / "other") as folder, exclusive(target):
        assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == [folder.name]
        write_text(target, "whole")
    assert sorted(os.listdir(tmp_path)) == [".out.lock", "a.csv"]
    with atomic_folder(tmp_path / "out", MARK):
        pass
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "out"]


def test_a_folder_is_found_again_after_a_kill_between_the_two_renames(tmp_path: Path) -> None:
    old = tmp_path / ".out.0123abcd.old"
    old.mkdir()
    (old / MARK).write_text("{}")
    with pytest.raises(UsageError, match="exists"), atomic_folder(tmp_path / "out", MARK):
        pass
    assert (tmp_path / "out" / MARK).read_text() == "{}" and os.listdir(tmp_path) == ["out"]


def test_two_runs_into_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        atomic_folder(tmp_path / "out", MARK) as folder,
        pytest.raises(UsageError, match="another run"),
        atomic_folder(tmp_path / "out", MARK, overwrite=True),
    ):
        pass
    assert not folder.exists() and (tmp_path / "out").is_dir()


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        content = pool.submit(pipe.read_bytes)
        write_bytes(pipe, b"x")
    assert content.result() == b"x" and stat.S_ISFIFO(pipe.stat().st_mode) and os.listdir(tmp_path) == ["pipe"]
