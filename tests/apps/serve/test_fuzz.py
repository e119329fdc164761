"""The server against its own description: whatever is sent, the answer is one that the description foretells."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.apps.serve.conftest import Served

# base64 of no image is right by the description and refused all the same, as are lists of unequal lengths
LEFT_OUT = [positive_data_acceptance]


VERBS = ["caption", "answer", "match", "embed", "explain"]
TOLD = ["/v1/models", "/metrics", "/healthz", "/readyz", "/openapi.json"]


@pytest.fixture(scope="module")
def described(server: Served) -> Any:
    return server.client.get("/openapi.json").json()


@pytest.mark.parametrize("path", [*(f"/v1/{verb}" for verb in VERBS), *TOLD])
def test_every_answer_is_one_that_the_description_foretells(server: Served, described: Any, path: str) -> None:
    hold(described, "GET" if path in TOLD else "POST", path, GenerationMode.POSITIVE, server.url)


@pytest.mark.parametrize("verb", VERBS)
def test_what_the_description_forbids_is_refused(server: Served, described: Any, verb: str) -> None:
    only_json = copy.deepcopy(described)  # in a form one value and a list of one look the same
    del only_json["paths"][f"/v1/{verb}"]["post"]["requestBody"]["content"]["multipart/form-data"]
    hold(only_json, "POST", f"/v1/{verb}", GenerationMode.NEGATIVE, server.url)


def hold(description: Any, method: str, path: str, mode: GenerationMode, url: str) -> None:
    """Sends what fits, or does not fit, the description of a path and checks all that comes back against it."""
    operation = schemathesis.openapi.from_dict(description)[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    def check(case: Any) -> None:
        case.call_and_validate(base_url=url, excluded_checks=LEFT_OUT)

    check()


def test_the_description_names_what_there_is(server: Served) -> None:
    found = server.client.get("/openapi.json").json()
    verbs = {f"/v1/{verb}" for verb in ("caption", "answer", "match", "embed", "explain", "models")}
    assert set(found["paths"]) == verbs | {"/healthz", "/readyz", "/metrics", "/openapi.json"}
    assert "at most 1 MB" in found["info"]["description"] and "0.5 megapixels" in found["info"]["description"]
    statuses = set(found["paths"]["/v1/caption"]["post"]["responses"])
    assert statuses == {"200", "400", "404", "413", "415", "422", "429", "503", "504"}


@pytest.mark.parametrize("verb", VERBS)
def test_its_examples_work(server: Served, verb: str) -> None:
    content = server.client.get("/openapi.json").json()["paths"][f"/v1/{verb}"]["post"]["requestBody"]["content"]
    assert server.post(verb, content["application/json"]["example"]).status_code == 200
