"""The start of a Ray cluster on this machine, with a stand-in for Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from blip.engine.ray_cluster import STARTS, start
from blip_lite.errors import EnvironmentProblem


@dataclass
class Ray:
    """Fails the first `failures` times."""

    failures: int
    calls: list[Any] = field(default_factory=list)

    def init(self, address: str, **options: Any) -> None:
        self.calls.append((address, options["num_cpus"]))
        if sum(call != "shutdown" for call in self.calls) <= self.failures:
            raise RuntimeError("The current node\ntimed out during startup.")

    def shutdown(self) -> None:
        self.calls.append("shutdown")


def test_a_cluster_that_starts_too_slowly_is_started_again() -> None:
    ray = Ray(failures=STARTS - 1)
    start(ray, "local", {"num_cpus": 2})
    assert ray.calls == [("local", 2), "shutdown"] * (STARTS - 1) + [("local", 2)]


def test_a_cluster_that_does_not_start_is_one_line() -> None:
    with pytest.raises(EnvironmentProblem, match=r"^Ray cluster 'local': cannot be used \(The current node timed out"):
        start(Ray(failures=STARTS), "local", {"num_cpus": 2})


def test_a_running_cluster_is_tried_once() -> None:
    ray = Ray(failures=1)
    with pytest.raises(EnvironmentProblem, match=r"^Ray cluster '10\.0\.0\.1:6379': cannot be used"):
        start(ray, "10.0.0.1:6379", {"num_cpus": 2})
    assert len(ray.calls) == 1
