"""Fixtures for all tests: single-threaded torch, so that numbers do not depend on the machine."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
