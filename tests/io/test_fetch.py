from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from blip.io import fetch
from blip_lite.errors import CheckpointError, ChecksumMismatch, ConfigError, EnvironmentProblem, OfflineError

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path, with the faults that the fields set."""

    content = CONTENT
    cut_after: list[int]  # bytes after which each of the next responses breaks off
    statuses: list[int]  # error statuses of the next responses
    etag = '"1"'
    ranges: list[str | None]
    url = ""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, names = self.server, self.headers.get("Range")
        server.ranges.append(names)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        fresh = self.headers.get("If-Range", server.etag) == server.etag
        start = int(names.removeprefix("bytes=").removesuffix("-")) if names and fresh else 0
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        self.wfile.write(body[: server.cut_after.pop(0)] if server.cut_after else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class HubHandler(BaseHTTPRequestHandler):
    """A hub with one repository that has a config and weights of the older kind."""

    def do_HEAD(self) -> None:
        known = self.path.rsplit("/", 1)[-1] in ("config.json", "pytorch_model.bin")
        self.send_response(200 if known else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        if known:
            self.send_header("ETag", '"1"')
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "2" if known else "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.cut_after, server.statuses, server.ranges = [], [], []
        server.url = f"http://127.0.0.1:{server.server_port}/model.pth"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BLIP_OFFLINE", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def get(server: Server, target: Path, **options: object) -> Path:
    return fetch.fetch(server.url, target, retry_seconds=0.0, **options)  # type: ignore[arg-type]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_file_is_complete_and_its_hash_recorded(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = get(server, tmp_path / "sub" / "a.pth", progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert fetch.recorded_sha256(path) == SHA256
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert names(path.parent) == {"a.pth", "a.pth.sha256"}


def test_interrupted_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000, 50_000]
    assert get(server, tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_next_run_resumes_the_download(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000]
    with pytest.raises(EnvironmentProblem, match="run again to resume"):
        get(server, tmp_path / "a.pth", retries=0)
    assert get(server, tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


def test_changed_file_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000]
    with pytest.raises(EnvironmentProblem):
        get(server, tmp_path / "a.pth", retries=0)
    server.content, server.etag = CONTENT[::-1], '"2"'
    assert get(server, tmp_path / "a.pth").read_bytes() == CONTENT[::-1]


def test_download_without_etag_restarts(server: Server, tmp_path: Path) -> None:
    server.etag, server.cut_after = "", [100_000]
    assert get(server, tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_busy_server_is_retried(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert get(server, tmp_path / "a.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 410])
def test_client_errors_are_not_retried(server: Server, tmp_path: Path, status: int) -> None:
    server.statuses = [status]
    with pytest.raises(CheckpointError, match=f"HTTP {status}"):
        get(server, tmp_path / "a.pth")
    assert len(server.ranges) == 1 and names(tmp_path) == set()


def test_download_with_wrong_hash_is_deleted(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ChecksumMismatch, match="the download was deleted"):
        get(server, tmp_path / "a.pth", sha256="0" * 64)
    assert names(tmp_path) == set()


def test_known_hash_is_accepted(server: Server, tmp_path: Path) -> None:
    assert get(server, tmp_path / "a.pth", sha256=SHA256).is_file()


def test_changed_cached_file_is_an_error(server: Server, tmp_path: Path) -> None:
    path = get(server, tmp_path / "a.pth")
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(ChecksumMismatch, match="recorded at the download"):
        get(server, path)


def test_cached_file_needs_no_server(server: Server, tmp_path: Path) -> None:
    path = get(server, tmp_path / "a.pth")
    assert get(server, path, offline=True) == path
    assert len(server.ranges) == 1


def test_two_concurrent_calls_download_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: get(server, tmp_path / "a.pth"), range(4)))
    assert len(set(paths)) == 1 and len(server.ranges) == 1


@pytest.mark.parametrize("how", ["flag", "BLIP_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_opens_no_socket(server: Server, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how != "flag":
        monkeypatch.setenv(how, "1")
    with pytest.raises(OfflineError):
        get(server, tmp_path / "a.pth", offline=True if how == "flag" else None)
    assert server.ranges == []


def test_unreachable_server_is_an_environment_problem(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="failed after 2 attempts"):
        fetch.fetch("http://127.0.0.1:9/a.pth", tmp_path / "a.pth", retries=1, retry_seconds=0.0)


@pytest.mark.parametrize("url", ["ftp://host/a.pth", "file:///etc/passwd"])
def test_other_schemes_are_rejected(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="must start with http"):
        fetch.fetch(url, tmp_path / "a.pth")


def test_folder_that_cannot_be_written_is_an_environment_problem(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        get(server, tmp_path / "file" / "a.pth")


def test_remove_deletes_all_files_of_a_download(server: Server, tmp_path: Path) -> None:
    path = get(server, tmp_path / "a.pth")
    assert fetch.remove(path) > len(CONTENT)
    assert list(tmp_path.iterdir()) == []


def test_hub_model_offline_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match="is not cached"):
        fetch.fetch_hub("org/name", [["config.json"]], offline=True, cache=tmp_path)
    assert not fetch.is_in_hub_cache("org/name", [["config.json"]], tmp_path)


def test_hub_files_are_fetched_once_and_then_cached(tmp_path: Path) -> None:
    with Server(("127.0.0.1", 0), HubHandler) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        endpoint = f"http://127.0.0.1:{hub.server_port}"
        names = [["config.json"], ["model.safetensors", "pytorch_model.bin"]]
        try:
            folder = fetch.fetch_hub("org/name", names, offline=False, cache=tmp_path, endpoint=endpoint)
        finally:
            hub.shutdown()
            thread.join()
    assert {path.name for path in folder.iterdir()} == {"config.json", "pytorch_model.bin"}
    assert fetch.fetch_hub("org/name", names, offline=True, cache=tmp_path) == folder
    assert fetch.is_in_hub_cache("org/name", names, tmp_path)


def test_cache_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BLIP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.cache_dir() == tmp_path / "blip"
    monkeypatch.setenv("BLIP_CACHE", str(tmp_path / "own"))
    assert fetch.cache_dir() == tmp_path / "own"
    assert fetch.cache_dir(tmp_path) == tmp_path


@pytest.mark.parametrize(
    "url", ["https://h/a.pth", "https://h/../..", "https://h/", "https://h/.pth", "https://h/a b*.pth?x"]
)
def test_file_names_of_urls_are_safe_and_unique(url: str) -> None:
    name = fetch.file_name_of(url)
    assert Path(name).name == name and not name.startswith(".") and "*" not in name
    assert name != fetch.file_name_of(url.replace("//h", "//other"))


def test_a_variable_that_is_neither_on_nor_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP_OFFLINE", "abc")
    with pytest.raises(ConfigError, match=r"BLIP_OFFLINE=abc: must be 1 \(on\) or 0 \(off\)"):
        fetch.is_offline()
    monkeypatch.setenv("BLIP_OFFLINE", "0")
    assert not fetch.is_offline()
