"""web/metrics.py: who may read them."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from voipagent.web.metrics import serve_metrics


def client(token: str = "", host: str = "127.0.0.1", name: str = "localhost") -> TestClient:
    api = FastAPI()
    serve_metrics(api, lambda: b"voipagent_rows_free 2.0\n", token)
    return TestClient(api, base_url=f"http://{name}", client=(host, 50000))


@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", "localhost"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_this_machine_reads_them_without_a_token(host: str, name: str) -> None:
    answer = client(host=host, name=name).get("/metrics")
    assert (answer.status_code, answer.text) == (200, "voipagent_rows_free 2.0\n")
    assert answer.headers["content-type"].startswith("text/plain; version=")


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::1", "testclient"])
def test_no_other_machine_does(host: str) -> None:
    answer = client(host=host).get("/metrics")
    assert answer.status_code == 403
    assert "VOIPAGENT_METRICS__TOKEN" in answer.json()["detail"]


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_who_comes_by_a_proxy_is_not_this_machine(header: str) -> None:
    assert client().get("/metrics", headers={header: "127.0.0.1"}).status_code == 403


def test_a_page_that_names_us_otherwise_reads_nothing() -> None:
    assert client(name="evil.example").get("/metrics").status_code == 403


def test_with_a_token_everybody_shows_it() -> None:
    for host in ("127.0.0.1", "192.0.2.7"):
        reader = client("sesame", host)
        assert reader.get("/metrics", headers={"Authorization": "Bearer sesame"}).status_code == 200
        for wrong in ({}, {"Authorization": "Bearer guess"}, {"Authorization": "Basic sesame"}):
            refused = reader.get("/metrics", headers=wrong)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
