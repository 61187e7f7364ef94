"""The gate that every request passes: its key, the size of its body, what is counted and written down of it."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from trainers.serving.errors import Refusal
from trainers.serving.metrics import Metrics

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = ("/health", "/docs", "/openapi.json")  # without a key: nothing of the shop is in them


class Gate:
    """
    Middleware: refuses requests without the key (401) and bodies that are too large (413) before they are read, and
    those that do not come (408).

    A line of the log says method, route, status and time. Neither headers nor addresses nor bodies are in it, so that
    no key and no customer is.

    Args:
        app: what is behind, by ASGI.
        metrics ([`Metrics`]): counts requests.
        max_bytes (`int`): of a body.
        timeout_s (`float`): seconds to wait for the next part of a body.
        key (`str`, *optional*): what `Authorization: Bearer` must say.
    """

    def __init__(self, app: Any, metrics: Metrics, max_bytes: int, timeout_s: float, key: str | None = None):
        self.application, self.metrics, self.max_bytes, self.timeout_s = app, metrics, max_bytes, timeout_s
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check_key(scope)
            body = await self._body(scope, receive)
            if body is not None:  # or the client has gone
                await self.application(scope, _replay(body, receive), send_counted)
        except Refusal as refusal:
            await _refuse(refusal, send_counted)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, _method(scope), status).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            logger.info(f"{_method(scope)} {route} {status} {1000 * seconds:.1f} ms")

    def _check_key(self, scope: MutableMapping[str, Any]) -> None:
        if self._key is None or scope["path"] in OPEN:
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        if not secrets.compare_digest(key, self._key) or scheme.lower() != b"bearer":
            raise Refusal(
                401, "This needs the header Authorization: Bearer KEY.", headers={"WWW-Authenticate": "Bearer"}
            )

    async def _body(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes | None:
        """The whole body; None if the client has gone."""
        stated = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        parts, size = [], 0
        while True:
            if max(size, int(stated) if stated.isdigit() else 0) > self.max_bytes:
                raise Refusal(
                    413,
                    f"The body is larger than {self.max_bytes / 1e6:g} MB: send it in parts.",
                    headers={"Connection": "close"},  # what was not read is not taken for a request
                )
            try:
                message = await asyncio.wait_for(receive(), self.timeout_s)
            except TimeoutError as error:
                raise Refusal(408, "The body did not come.", headers={"Connection": "close"}) from error
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if not message.get("more_body") and size <= self.max_bytes:
                return b"".join(parts)


def _method(scope: MutableMapping[str, Any]) -> str:
    return scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "HEAD") else "other"


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read, then what comes after it."""
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(refusal: Refusal, send: Send) -> None:
    headers = {"Content-Type": "application/json", **refusal.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await send({"type": "http.response.body", "body": json.dumps(refusal.body()).encode()})
