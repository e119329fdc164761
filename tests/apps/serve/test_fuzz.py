"""The server against its own OpenAPI description: every response to generated requests must be a documented one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.apps.serve.conftest import Served

# base64 of something else than an image, and lists of unequal lengths, are valid by the description but refused
EXCLUDED = [positive_data_acceptance]


ENDPOINTS = ["caption", "answer", "match", "embed", "explain"]
GET_PATHS = ["/v1/models", "/metrics", "/healthz", "/readyz", "/openapi.json", "/docs", "/"]


@pytest.fixture(scope="module")
def openapi(server: Served) -> Any:
    return server.client.get("/openapi.json").json()


@pytest.mark.parametrize("path", [*(f"/v1/{endpoint}" for endpoint in ENDPOINTS), *GET_PATHS])
def test_responses_are_documented(server: Served, openapi: Any, path: str) -> None:
    validate(openapi, "GET" if path in GET_PATHS else "POST", path, GenerationMode.POSITIVE, server.url)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_invalid_requests_are_refused(server: Served, openapi: Any, endpoint: str) -> None:
    only_json = copy.deepcopy(openapi)  # in a form a value and a list with one element look the same
    del only_json["paths"][f"/v1/{endpoint}"]["post"]["requestBody"]["content"]["multipart/form-data"]
    validate(only_json, "POST", f"/v1/{endpoint}", GenerationMode.NEGATIVE, server.url)


def validate(description: Any, method: str, path: str, mode: GenerationMode, url: str) -> None:
    """Send requests that match, or violate, the description of a path, and check the responses against it."""
    operation = schemathesis.openapi.from_dict(description)[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    def check(case: Any) -> None:
        case.call_and_validate(base_url=url, excluded_checks=EXCLUDED)

    check()


def test_description_covers_all_routes_and_limits(server: Served) -> None:
    openapi = server.client.get("/openapi.json").json()
    routes = {f"/v1/{name}" for name in ("caption", "answer", "match", "embed", "explain", "models")}
    assert set(openapi["paths"]) == routes | {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/"}
    assert "at most 1 MB" in openapi["info"]["description"] and "0.5 megapixels" in openapi["info"]["description"]
    statuses = set(openapi["paths"]["/v1/caption"]["post"]["responses"])
    assert statuses == {"200", "400", "404", "408", "413", "415", "422", "429", "503", "504"}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_examples_of_the_description_work(server: Served, endpoint: str) -> None:
    content = server.client.get("/openapi.json").json()["paths"][f"/v1/{endpoint}"]["post"]["requestBody"]["content"]
    assert server.post(endpoint, content["application/json"]["example"]).status_code == 200
