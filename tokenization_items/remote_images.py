"""One image of an https address: size-limited, time-limited, and from a public address only.

A catalogue, and the addresses in it, may come from an untrusted source. The name is looked up here, every address that
it stands for must be one of the public internet, and the connection goes to the very address that was checked: a name
server that answers otherwise the second time gains nothing. Each redirection is checked like the first address.
Proxies of the environment are not used: what they would fetch could not be checked.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from importlib import metadata
from urllib.parse import SplitResult, urljoin, urlsplit

SCHEMES = ("https",)
MAX_BYTES = 20 * 2**20  # of one image
MAX_REDIRECTS = 5
TIMEOUT = 30.0  # seconds without a sign of life
LONGEST = 120.0  # seconds for one image in all: bytes that drip in one by one end too
PASSING = (408, 425, 429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_BLOCK = 1 << 16
_NOT_SENT = re.compile(rb"[^!-~]")  # blanks and what is no ASCII
# IPv6 addresses that carry an IPv4 address to which gateways pass them on (RFC 6052).
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
# Of special purpose (IANA), which older releases of Python take for global.
_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "fec0::/10")))


class RemoteImageError(ValueError):
    """
    An image that could not be fetched.

    Args:
        reason (`str`): why.
        passing (`bool`): whether a later attempt may succeed.
        wait (`float`, *optional*): seconds after which the server asks to come back.
    """

    def __init__(self, reason: str, passing: bool = False, wait: float | None = None):
        super().__init__(reason)
        self.passing, self.wait = passing, wait


def fetch_image(address: str, timeout: float = TIMEOUT) -> bytes:
    """
    The content of an address; whether it is an image is for the caller to see.

    Args:
        address (`str`): of https.
        timeout (`float`, *optional*, defaults to `TIMEOUT`): seconds without a sign of life.

    Raises:
        RemoteImageError: if the address, or one that it redirects to, is not of https or not public, or the content is
            larger than 20 MiB, takes longer than two minutes, or does not come.
    """
    ends = time.monotonic() + LONGEST
    for _ in range(MAX_REDIRECTS + 1):
        content, address = _request(address, timeout, ends)
        if content is not None:
            return content
    raise RemoteImageError(f"more than {MAX_REDIRECTS} redirections")


def public_addresses(host: str, port: int) -> list[str]:
    """
    The internet addresses of a name, all of which are public.

    Raises:
        RemoteImageError: if the name has none, or one that belongs to this machine or a local network.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise RemoteImageError(f"no answer: {host!r} has no address ({error})", passing=True) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    private = [address for address in addresses if not is_public(address)]
    if private or not addresses:
        raise RemoteImageError(f"{host!r} is no public address: {', '.join(private) or 'none'}")
    return addresses


def is_public(address: str) -> bool:
    """Whether an internet address belongs to the public internet, and so does the one that it may carry."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if ip.version == 6:
        if ip in _TRANSLATED:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        carried = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if any(inner is not None and not is_public(str(inner)) for inner in carried):
            return False
        if ip.ipv4_mapped is not None:
            return True
    if any(ip in network for network in _SPECIAL):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class _CheckedConnection(http.client.HTTPConnection):
    """A connection to one of the addresses that were checked, under the name that they were looked up for."""

    def __init__(self, parts: SplitResult, addresses: list[str], timeout: float):
        super().__init__(_host(parts), _port(parts), timeout=timeout)
        self._addresses, self._encrypted = addresses, parts.scheme == "https"
        self._open: socket.socket | None = None  # `sock` is None as soon as the response has it

    def connect(self) -> None:
        for address in self._addresses:
            try:
                self.sock = socket.create_connection((address, self.port), self.timeout)
                break
            except OSError:
                if address == self._addresses[-1]:
                    raise
        self._open = self.sock
        if self._encrypted:
            context = ssl.create_default_context()
            # The handshake comes when `cut` can end it.
            encrypted = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock = self._open = encrypted
            encrypted.do_handshake()

    def cut(self) -> None:
        """Ends the connection from another thread: a read that is waiting ends at once."""
        try:
            if self._open is not None:
                socket.socket.shutdown(self._open, socket.SHUT_RDWR)  # not the one of TLS, which changes its state
        except OSError:
            pass


def _request(address: str, timeout: float, ends: float) -> tuple[bytes | None, str]:
    """The content of an address, or `None` and the address that it redirects to."""
    parts = _split(address)
    agent = f"utgrec/{metadata.version('utgrec')}"
    headers = {"User-Agent": agent, "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
    try:
        connection = _CheckedConnection(parts, public_addresses(_host(parts), _port(parts)), timeout)
        watchdog = threading.Timer(max(0.0, ends - time.monotonic()), connection.cut)
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.request("GET", _target(parts), None, headers)
            with connection.getresponse() as response:
                found = _read(response, address)
            if time.monotonic() >= ends:  # what was read may be cut off
                raise TimeoutError
            return found
        finally:
            watchdog.cancel()
            connection.close()
    except RemoteImageError:
        raise
    except (OSError, http.client.HTTPException) as error:  # timeouts, resets, no certificate, nonsense
        if time.monotonic() >= ends:
            raise RemoteImageError(f"no answer: it takes longer than {LONGEST:g} seconds") from error
        raise RemoteImageError(f"no answer: {error!r}", passing=True) from error
    except (ValueError, UnicodeError) as error:  # half a character in the address
        raise RemoteImageError(f"no address: {error}") from error


def _read(response: http.client.HTTPResponse, address: str) -> tuple[bytes | None, str]:
    if response.status in _REDIRECTS and response.headers.get("Location"):
        sent = response.headers["Location"].encode("latin-1")  # as which http.client reads all headers
        return None, urljoin(address, _escaped(sent))
    if response.status != 200:
        wait = response.headers.get("Retry-After", "")
        raise RemoteImageError(
            f"HTTP {response.status} {response.reason}",
            passing=response.status in PASSING,
            wait=float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 9 else None,
        )
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RemoteImageError("compressed although that was not asked for")
    if response.length is not None and response.length > MAX_BYTES:
        raise RemoteImageError(f"larger than {MAX_BYTES} bytes")
    content = bytearray()
    while block := response.read(_BLOCK):
        content += block
        if len(content) > MAX_BYTES:
            raise RemoteImageError(f"larger than {MAX_BYTES} bytes")
    return bytes(content), address


def _target(parts: SplitResult) -> str:
    """What is asked of the host."""
    return _escaped(((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode())


def _escaped(address: bytes) -> str:
    """An address as it is sent: shops write blanks and letters of all kinds into theirs, as browsers take them."""
    return _NOT_SENT.sub(lambda found: b"%%%02X" % found[0][0], address).decode()


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address.strip())
        parts.port  # noqa: B018 (raises if it is no number)
    except ValueError as error:
        raise RemoteImageError(f"no address: {error}") from error
    if parts.scheme not in SCHEMES:
        raise RemoteImageError(f"not {' or '.join(SCHEMES)} but {parts.scheme or 'no address'}")
    if not parts.hostname or parts.username is not None or parts.password is not None:
        raise RemoteImageError("no address: it has no host, or a user's name in it")
    return parts


def _host(parts: SplitResult) -> str:
    assert parts.hostname is not None  # `_split` has seen to it
    return parts.hostname


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)
