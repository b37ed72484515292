"""schemathesis: requests that /openapi.json allows, and such that it forbids, against a running server, all checks."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok

from gateway.routes import openapi
from tests.serving import Server

# Vocabularies, sizes and lengths are the model's, and names the server's: what the schema allows they may still refuse.
# What it forbids may also be too large a body.
STATUSES = {
    "positive_data_acceptance": {"expected-statuses": ["2xx", "400", "404", "413"]},
    "negative_data_rejection": {"expected-statuses": ["4xx"]},
}
SCHEMA = schemathesis.openapi.from_dict(openapi.document(), config=SchemathesisConfig.from_dict({"checks": STATUSES}))
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)]


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_every_response_conforms_to_the_schema(server: Server, operation: Any, mode: GenerationMode) -> None:
    if mode is GenerationMode.NEGATIVE and (operation.method == "get" or not operation.body):
        return  # nothing about them can be wrong

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def check(case: Case[Any]) -> None:
        case.call_and_validate(base_url=server.url)

    check()
