"""The server: a socket, a key, and an end that finishes what has begun."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from typing import Any

import uvicorn

SHORTEST_KEY = 16
BACKLOG = 2048  # connections that wait to be taken, as uvicorn has it


def bind(host: str, port: int) -> socket.socket:
    """
    A socket of this address, before a model is loaded that nobody could ask.

    Raises:
        OSError: the address is taken, or is not this machine's.
    """
    bound = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise OSError(f"--host {host} --port {port}: {error.strerror}. Give another --port, or --host.") from error
    bound.set_inheritable(True)
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def key_of(variable: str) -> str | None:
    """
    The key that requests must show, from an environment variable: a flag's value is seen in the list of processes.

    Raises:
        ValueError: it is short or has white space; it is not repeated.
    """
    key = os.environ.get(variable)
    if key is None:
        return None
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(
            f"The key in {variable} has fewer than {SHORTEST_KEY} characters, or some that no header has: set another "
            "one, as of `openssl rand -hex 32`, or unset it."
        )
    return key


def run(application: Any, bound: socket.socket, timeout_s: float) -> None:
    """
    Serves until SIGTERM or Ctrl-C; requests that have begun are answered first, within `timeout_s` seconds.

    Args:
        application: by ASGI.
        bound (`socket.socket`): where.
        timeout_s (`float`): seconds for what is unfinished at the end.

    Raises:
        OSError: another program took the address while the model was loaded.
    """
    try:
        bound.listen(BACKLOG)  # uvloop says nothing where it cannot
    except OSError as error:
        port = bound.getsockname()[1]
        raise OSError(
            f"--port {port}: {error.strerror}, since another program began meanwhile. Give another."
        ) from error
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,  # paths and addresses; the gate writes what may be written
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(timeout_s)),
        ws="none",
    )
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # which uvicorn raises again at its end
    try:
        uvicorn.Server(config).run(sockets=[bound])
    finally:
        signal.signal(signal.SIGTERM, before)
