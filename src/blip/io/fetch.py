"""Downloads: resumed, retried, locked, hashed, and installed only when complete.

The SHA-256 of a file is recorded beside it at its first download (`FILE.sha256`, the format of sha256sum) and
checked at every later use. Folders: `BLIP_CACHE`, `BLIP_HOME`, else the XDG folders.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from blip.io.atomic import write_text
from blip.io.disk import disk_full, writing
from blip_lite.errors import (
    CheckpointError,
    ChecksumMismatch,
    ConfigError,
    EnvironmentProblem,
    OfflineError,
    UnknownModel,
)

if TYPE_CHECKING:
    import httpx2

OFFLINE_VARIABLES = ("BLIP_OFFLINE", "HF_HUB_OFFLINE")
Log = Callable[[str], None]
Progress = Callable[[int, int | None], None]  # bytes so far, total bytes if the server reports them

TIMEOUT_SECONDS = 30.0
RETRIES = 5
RETRY_SECONDS = 1.0  # before the second attempt, then doubled
RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

ON, OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def cache_dir(given: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of downloads: as given, BLIP_CACHE, or `blip` in the XDG cache folder."""
    return _folder(given, "BLIP_CACHE", "XDG_CACHE_HOME", ".cache")


def home_dir(given: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of user data: as given, BLIP_HOME, or `blip` in the XDG data folder."""
    return _folder(given, "BLIP_HOME", "XDG_DATA_HOME", ".local/share")


def is_offline(given: bool | None = None) -> bool:
    """Whether network access is disabled: as given, else by BLIP_OFFLINE or HF_HUB_OFFLINE."""
    if given is not None:
        return given
    return any([_is_set(name) for name in OFFLINE_VARIABLES])


def offline_reason() -> str:
    """Why there is no network access: the variable that disables it, else the flag."""
    name = next((name for name in OFFLINE_VARIABLES if _is_set(name)), "--offline")
    return f"{name} is set"


def _is_set(variable: str) -> bool:
    """Value of an environment variable that is on or off. Raises ConfigError for other values."""
    value = os.environ.get(variable, "").lower()
    if value not in (*ON, *OFF):
        raise ConfigError(f"{variable}={value}: must be 1 (on) or 0 (off)")
    return value in ON


def existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def file_name_of(url: str) -> str:
    """Return a file name for a URL: its last part, and eight digits that make it unique."""
    last = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    stem, dot, suffix = re.sub(r"[^\w.-]", "-", last).lstrip(".").rpartition(".")
    digits = hashlib.sha256(url.encode()).hexdigest()[:8]
    return f"{stem[:80]}-{digits}{dot}{suffix[:20]}" if stem else f"{suffix[:80] or 'file'}-{digits}"


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
    retries: int = RETRIES,
    retry_seconds: float = RETRY_SECONDS,
) -> Path:
    """Return `target`, downloaded from `url` if it is missing; its SHA-256 is checked in both cases.

    An interrupted download is resumed. Two processes never write the same file.
    Raises OfflineError, ChecksumMismatch, CheckpointError (the server refuses), EnvironmentProblem (disk, network).
    """
    if existing(target):  # without a lock: the folder may be read-only and shared
        verify(target, sha256)
        return target
    if is_offline(offline):
        raise OfflineError(f"{url} is not cached and {offline_reason()}; fetch it once without")
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"{url}: must start with http:// or https://")
    from filelock import FileLock

    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        lock.acquire()
    try:
        if not existing(target):  # another process may have downloaded it
            _Download(url, target, progress, log).run(retries, retry_seconds)
            _install(target, sha256, url)
        else:
            verify(target, sha256)
    finally:
        lock.release()
    return target


def verify(path: Path, sha256: str | None = None) -> str:
    """Return the file's SHA-256; ChecksumMismatch if it is not the published one or the one recorded at download."""
    digest = sha256_of(path)
    for expected, origin in (
        (sha256, "the published file has"),
        (recorded_sha256(path), "recorded at the download was"),
    ):
        if expected and expected != digest:
            raise ChecksumMismatch(
                f"{path}: SHA-256 {digest[:12]}…, {origin} {expected[:12]}…; remove it and fetch it again"
            )
    return digest


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded_sha256(path: Path) -> str | None:
    """Return the SHA-256 in the sidecar file, if there is one."""
    sidecar = _beside(path, ".sha256")
    words = sidecar.read_text(encoding="utf-8", errors="replace").split() if sidecar.is_file() else []
    return words[0].lower() if words else None


def record_sha256(path: Path, digest: str) -> None:
    write_text(_beside(path, ".sha256"), f"{digest}  {path.name}\n")


def remove(path: Path) -> int:
    """Delete a download, also an unfinished one, with its sidecar files; return the number of bytes freed."""
    freed = 0
    for file in (path, *(_beside(path, end) for end in (".sha256", ".partial", ".partial.etag"))):
        if file.is_file():
            freed += file.stat().st_size
            with writing(file):
                file.unlink()
    with suppress(OSError):
        path.with_name(f".{path.name}.lock").unlink()
    return freed


def fetch_hub(
    repo_id: str,
    alternatives: Sequence[Sequence[str]],
    *,
    offline: bool | None = None,
    cache: Path | None = None,
    endpoint: str | None = None,
) -> Path:
    """Return the folder of a Hugging Face repository with the first existing file of each group of names.

    It is in the hub's own cache (HF_HOME), or in `cache`. Raises OfflineError, UnknownModel, CheckpointError.
    """
    folder, offline = None, is_offline(offline)
    for names in alternatives:
        paths = (_hub_file(repo_id, name, offline, cache, endpoint) for name in names)
        path = next((path for path in paths if path is not None), None)
        if path is None and offline:
            raise OfflineError(f"{repo_id} is not cached and {offline_reason()}; fetch it once without")
        if path is None:
            raise CheckpointError(f"{repo_id}: the repository has no {' or '.join(names)}")
        folder = path.parent
    if folder is None:
        raise ConfigError(f"{repo_id}: no file requested")
    return folder


def is_in_hub_cache(repo_id: str, alternatives: Sequence[Sequence[str]], cache: Path | None = None) -> bool:
    """Whether `fetch_hub` would work offline."""
    from huggingface_hub import try_to_load_from_cache

    return all(
        any(isinstance(try_to_load_from_cache(repo_id, name, cache), str) for name in names) for names in alternatives
    )


class _Retry(Exception):
    """This attempt failed, the next one may succeed. The message is the reason."""


class _Download:
    """A download of one file to `TARGET.partial`."""

    def __init__(self, url: str, target: Path, progress: Progress | None, log: Log | None) -> None:
        self.url, self.progress, self.log = url, progress, log
        self.partial = _beside(target, ".partial")
        self.etag_file = _beside(target, ".partial.etag")

    def run(self, retries: int, retry_seconds: float) -> None:
        import httpx2

        with httpx2.Client(follow_redirects=True, timeout=TIMEOUT_SECONDS) as client:
            for attempt in range(retries + 1):
                try:
                    return self._try(client)
                except (httpx2.TransportError, _Retry) as error:
                    reason = str(error) or type(error).__name__
                    if attempt == retries:
                        attempts = "1 attempt" if not retries else f"{retries + 1} attempts"
                        raise EnvironmentProblem(
                            f"{self.url}: download failed after {attempts} ({reason}); run again to resume"
                        ) from error
                except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                    raise CheckpointError(f"{self.url}: {error}") from error
                seconds = retry_seconds * 2**attempt
                if self.log is not None:
                    self.log(f"{self.url}: {reason}; attempt {attempt + 2} of {retries + 1} in {seconds:.0f} s")
                time.sleep(seconds)

    def _try(self, client: httpx2.Client) -> None:
        start, etag = self._progress_so_far()
        headers = {"Accept-Encoding": "identity"}  # the file's own bytes, so that offsets refer to them
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": etag}
        with client.stream("GET", self.url, headers=headers) as response:
            if response.status_code == 416:  # the file on the server has changed
                self._forget()
                raise _Retry("the server cannot resume the download")
            self._check_status(response.status_code)
            if response.status_code != 206:
                start = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                self._forget()
                raise _Retry("the server sent another range than requested")
            self._write(response, start)
        with suppress(FileNotFoundError):
            self.etag_file.unlink()

    def _write(self, response: httpx2.Response, start: int) -> None:
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdigit() else None
        done = start
        with writing(self.partial):
            if not start:
                self.partial.write_bytes(b"")
                self.etag_file.write_text(_version(response.headers), encoding="utf-8")
            file = self.partial.open("ab")
        with file:
            for chunk in response.iter_raw():
                with disk_full(self.partial):
                    file.write(chunk)
                done += len(chunk)
                if self.progress is not None:
                    self.progress(done, total)
        if total is not None and done != total:
            raise _Retry(f"{done} of {total} bytes arrived")

    def _check_status(self, status: int) -> None:
        if status in RETRY_STATUS:
            raise _Retry(f"HTTP {status}")
        if status not in (200, 206):
            raise CheckpointError(f"{self.url}: the server answers HTTP {status}")

    def _progress_so_far(self) -> tuple[int, str]:
        """Bytes that need not come again, and the server's mark of the file they are from; without a mark, none."""
        etag = self.etag_file.read_text(encoding="utf-8") if self.etag_file.is_file() else ""
        return (self.partial.stat().st_size, etag) if etag and self.partial.is_file() else (0, "")

    def _forget(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.etag_file.unlink(missing_ok=True)


def _version(headers: httpx2.Headers) -> str:
    """Return the value for `If-Range` that identifies this version of the file; weak ETags are not allowed there."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _install(target: Path, sha256: str | None, url: str) -> None:
    partial = _beside(target, ".partial")
    digest = sha256_of(partial)
    if sha256 and digest != sha256:
        partial.unlink()
        raise ChecksumMismatch(f"{url}: SHA-256 {digest[:12]}…, must be {sha256[:12]}…; the download was deleted")
    record_sha256(target, digest)  # first, so that no file is without one
    with writing(target):
        os.replace(partial, target)


def _hub_file(repo_id: str, name: str, offline: bool, cache: Path | None, endpoint: str | None) -> Path | None:
    """Return a file of a repository in the hub's cache; None if it does not exist (offline: is not cached)."""
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(repo_id, name, cache_dir=cache, local_files_only=offline, endpoint=endpoint))
    except errors.LocalEntryNotFoundError as error:
        if offline:
            return None
        raise EnvironmentProblem(f"{repo_id}: the hub cannot be reached, and {name} is not cached") from error
    except errors.EntryNotFoundError:
        return None
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UnknownModel(f"unknown model '{repo_id}'; the hub has no such repository, or it is private") from error
    except errors.HfHubHTTPError as error:
        raise CheckpointError(f"{repo_id}: {str(error).splitlines()[0]}") from error


def _folder(given: str | os.PathLike[str] | None, variable: str, xdg: str, fallback: str) -> Path:
    explicit = given or os.environ.get(variable)
    if explicit:
        return Path(explicit).expanduser()
    base = os.environ.get(xdg, "")
    return (Path(base) if os.path.isabs(base) else Path.home() / fallback) / "blip"


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)
