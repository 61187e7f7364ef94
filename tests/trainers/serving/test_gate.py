"""The gate: no key, no answer; no body that is too large; no secret and no customer in the log."""

import asyncio
import json
import logging

import pytest

from trainers.serving.gate import Gate
from trainers.serving.metrics import Metrics

KEY = "k" * 32


async def echo(scope, receive, send):
    message = await receive()
    assert not message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def request(path="/recommend", headers=(), parts=(b"abc",), key=KEY, max_bytes=10, ends_with=None):
    """Status, body and headers of an answer, and how many parts of the body were read; None if there is none."""
    sent, unread = [], list(parts)

    async def receive():
        if unread:
            return {"type": "http.request", "body": unread.pop(0), "more_body": bool(unread) or ends_with is not None}
        if ends_with == "never":
            await asyncio.sleep(10)
        return ends_with

    async def send(message):
        sent.append(message)

    gate = Gate(echo, Metrics(), max_bytes, 0.05, key)
    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers), "query_string": b""}
    asyncio.run(gate(scope, receive, send))
    if not sent:
        return None
    return sent[0]["status"], sent[1]["body"], dict(sent[0]["headers"]), len(parts) - len(unread)


AUTHORIZED = [(b"authorization", f"Bearer {KEY}".encode())]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", KEY.encode())],
        [(b"authorization", f"Basic {KEY}".encode())],
        [(b"authorization", f"Bearer  {KEY}".encode())],
        [(b"authorization", b"Bearer " + b"k" * 31)],
        [(b"authorization", b"Bearer " + b"k" * 33)],
        [(b"authorization", "Bearer ü".encode("latin-1"))],
        [(b"x-api-key", KEY.encode())],
    ],
)
def test_without_the_key_nothing_is_read(headers):
    status, body, answered, read = request(headers=headers)
    assert status == 401 and read == 0 and answered[b"www-authenticate"] == b"Bearer"
    assert "Authorization: Bearer" in json.loads(body)["error"]["message"]
    assert request("/metrics", headers)[0] == 401


def test_with_the_key_or_without_any():
    assert request(headers=AUTHORIZED)[:2] == (200, b"abc")
    assert request(headers=[(b"authorization", f"bearer {KEY}".encode())])[0] == 200  # RFC 9110: of any case
    assert request(key=None)[:2] == (200, b"abc")
    for path in ("/health", "/docs", "/openapi.json"):
        assert request(path)[0] == 200
    assert request("/health/")[0] == 401


def test_large_bodies_are_refused_before_they_are_read():
    assert request(headers=[*AUTHORIZED, (b"content-length", b"11")], parts=(b"x" * 11,))[3] == 0
    status, body, answered, read = request(headers=AUTHORIZED, parts=(b"x" * 6,) * 50)
    assert (status, read) == (413, 2) and "larger than" in json.loads(body)["error"]["message"]
    assert answered[b"connection"] == b"close"
    assert request(headers=AUTHORIZED, parts=(b"12345", b"67890"))[:2] == (200, b"1234567890")
    assert request(headers=[*AUTHORIZED, (b"content-length", b"x")], parts=(b"1",))[0] == 200


def test_a_client_that_has_gone_gets_nothing():
    assert request(headers=AUTHORIZED, parts=(b"1",), ends_with={"type": "http.disconnect"}) is None


def test_a_body_that_does_not_come_is_not_waited_for():
    status, body, answered, _ = request(headers=AUTHORIZED, parts=(b"1",), ends_with="never")
    assert status == 408 and answered[b"connection"] == b"close" and json.loads(body)["error"]["message"]


def test_the_log_has_no_secret_and_no_customer(caplog):
    caplog.set_level(logging.DEBUG)
    request(headers=AUTHORIZED, parts=(b"sku-17",))
    request("/items/sku-17", [(b"authorization", b"Bearer wrong-key-of-somebody")])
    assert "POST other 200" in caplog.text and "POST other 401" in caplog.text
    for secret in (KEY, "wrong-key", "sku-17"):
        assert secret not in caplog.text
