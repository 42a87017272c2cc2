"""What the OpenAPI document says is what the server does."""

from __future__ import annotations

import threading
import time

import hypothesis
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tests.server.conftest import FAKE, settings
from videoxl.server.app import make_app

CHECKS = [not_a_server_error, response_schema_conformance, content_type_conformance]


@pytest.fixture
def address(tmp_path):
    """A real server on a free port: schemathesis speaks HTTP."""
    server = uvicorn.Server(uvicorn.Config(make_app(settings(tmp_path), command=FAKE), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.mark.slow
def test_requests_made_from_the_document_get_the_replies_it_promises(address):
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [one.ok() for one in schema.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:
        _try(operation)


def _try(operation):
    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case):
        case.call_and_validate(checks=CHECKS)

    check()
