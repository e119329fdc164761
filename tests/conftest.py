"""Fixtures for all tests: nothing depends on the machine's cores, environment variables or caches."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Files of tests that start processes or browsers, train models or export them: left out by `make test-fast`, as are
# single tests marked `integration`.
INTEGRATION = (
    "tests/apps/serve/",
    "tests/apps/web/",
    "tests/apps/demo/test_page.py",
    "tests/apps/demo/test_launch.py",
    "tests/apps/search/test_kill.py",
    "tests/apps/test_export",
    "tests/cli/test_backends.py",
    "tests/cli/test_export.py",
    "tests/cli/test_serve.py",
    "tests/cli/test_shard_kill.py",
    "tests/cli/test_train.py",
    "tests/experiments/",
    "tests/tasks/test_distributed.py",
    "tests/tasks/test_nlvr.py",
    "tests/tasks/test_retrieval.py",
    "tests/tasks/test_vqa.py",
    "tests/test_container.py",
    "tests/test_docs.py",
    "tests/test_notebook.py",
    "tests/test_packaging.py",
    "tests/train/test_loop.py",
    "tests/train/test_processes.py",
    "tests/train/test_shard.py",
)
FOLDERS = ("BLIP_HOME", "BLIP_CACHE", "HF_HOME")
KEPT = "BLIP_ORT_WEB"  # onnxruntime-web for the tests of the browser page
_original = dict(os.environ)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew", action="store_true", help="write what the bundled models say now instead of comparing")


@pytest.fixture(scope="session")
def renew(request: pytest.FixtureRequest) -> bool:
    """Whether expected values, pages and sums are written again: `make renew`, after new weights."""
    return bool(request.config.getoption("--renew"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--renew"):
        items[:] = [item for item in items if "renew" in getattr(item, "fixturenames", ())]
    for item in items:
        if item.nodeid.startswith(INTEGRATION):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(autouse=True, scope="session")
def single_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Empty folders for models, indexes and downloads; no settings from the caller's environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("BLIP_") and name != KEPT:
                patch.delenv(name)
        for name in FOLDERS:
            patch.setenv(name, str(tmp_path_factory.getbasetemp() / name.lower()))
        patch.setenv("OMP_NUM_THREADS", "1")  # for processes that tests start: they share the cores with each other
        yield


@pytest.fixture(autouse=True)
def callers_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of published weights use the caller's folders, so that gigabytes are downloaded once."""
    if request.node.get_closest_marker("network") or request.node.get_closest_marker("weights"):
        for name in FOLDERS:
            if name in _original:
                monkeypatch.setenv(name, _original[name])
            else:
                monkeypatch.delenv(name, raising=False)
