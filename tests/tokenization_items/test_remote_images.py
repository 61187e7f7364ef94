"""Images of addresses: only when asked for, only of the public internet, never too much and never for too long."""

import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokenization_items import remote_images
from tokenization_items.catalogue import Catalogue, CatalogueError
from tokenization_items.remote_images import RemoteImageError, fetch_image, is_public, public_addresses


def png(size=(9, 7)):
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, "PNG")
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    paths: list[str] = []

    def do_GET(self):
        Handler.paths.append(self.path)
        answer = getattr(self, f"answer_{self.path.strip('/').partition('?')[0]}", self.answer_image)
        try:
            answer()
        except OSError:  # the client had enough
            pass

    def send(self, status=200, body=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_image(self):
        self.send(body=png())

    def answer_moved(self):
        self.send(302, Location="/image")

    def answer_renamed(self):
        self.send(302, Location="/schöner Hut.png".encode().decode("latin-1"))  # sent as UTF-8

    def answer_inside(self):
        self.send(302, Location="http://secret.example/admin")

    def answer_file(self):
        self.send(302, Location="file:///etc/passwd")

    def answer_round(self):
        self.send(302, Location="/round")

    def answer_packed(self):
        self.send(body=b"x", Content_Encoding="gzip")

    def answer_page(self):
        self.send(body=b"<html>")

    def answer_gone(self):
        self.send(404)

    def answer_busy(self):
        self.send(503, Retry_After="7")

    def answer_drip(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(200):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def answer_endless(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(b"x" * 65536)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a server under a public name: `shop.example` is this machine, which counts as public here, and
    `secret.example` another address of it, which does not."""
    Handler.paths = []
    names = {"shop.example": "127.0.0.1", "secret.example": "127.0.0.2"}

    def look_up(host, port, *_, **__):
        if host.endswith(".example") and host not in names:
            raise socket.gaierror(f"no {host}")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (names.get(host, host), port))]

    monkeypatch.setattr(remote_images.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(remote_images, "SCHEMES", ("https", "http"))
    monkeypatch.setattr(remote_images, "is_public", lambda address: address == "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://shop.example:{running.server_port}"
        running.shutdown()


def test_an_image_arrives(server):
    assert fetch_image(f"{server}/image?size=3#top") == png() and Handler.paths == ["/image?size=3"]
    assert fetch_image(f"{server}/moved") == png()
    assert fetch_image(server) == png()


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/Grüner Hut.png", "/Gr%C3%BCner%20Hut.png"),
        ("/%C3%BC%20.png?größe=1 2", "/%C3%BC%20.png?gr%C3%B6%C3%9Fe=1%202"),
        ("/帽子|[1].png ", "/%E5%B8%BD%E5%AD%90|[1].png"),
        ("/100%.png", "/100%.png"),
        ("?hat=1", "/?hat=1"),
        ("/renamed", "/sch%C3%B6ner%20Hut.png"),
    ],
)
def test_addresses_are_sent_as_browsers_send_them(server, path, asked):
    assert fetch_image(server + path) == png() and Handler.paths[-1] == asked


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("inside", "'secret.example' is no public address: 127.0.0.2"),
        ("file", "not https or http but file"),
        ("round", "more than 5 redirections"),
        ("packed", "compressed although"),
        ("gone", "HTTP 404"),
        ("endless", "larger than 20971520 bytes"),
    ],
)
def test_what_is_not_fetched(server, path, message):
    with pytest.raises(RemoteImageError, match=message) as caught:
        fetch_image(f"{server}/{path}")
    assert not caught.value.passing


def test_a_busy_server_is_one_to_come_back_to(server):
    with pytest.raises(RemoteImageError, match="HTTP 503") as caught:
        fetch_image(f"{server}/busy")
    assert caught.value.passing and caught.value.wait == 7
    with pytest.raises(RemoteImageError, match="no answer") as caught:
        fetch_image("http://elsewhere.example/a.png")
    assert caught.value.passing


def test_bytes_that_drip_in_end_too(server, monkeypatch):
    monkeypatch.setattr(remote_images, "LONGEST", 0.5)
    start = time.monotonic()
    with pytest.raises(RemoteImageError, match="longer than 0.5 seconds"):
        fetch_image(f"{server}/drip")
    assert time.monotonic() - start < 5


def test_a_server_that_says_nothing_is_left(monkeypatch):
    monkeypatch.setattr(remote_images, "SCHEMES", ("https", "http"))
    monkeypatch.setattr(remote_images, "is_public", lambda address: True)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("http", "https"):
            with pytest.raises(RemoteImageError, match="no answer"):
                fetch_image(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/a.png", timeout=0.2)


def test_the_checked_address_is_the_one_that_is_asked(server, monkeypatch):
    """A name server that names a public address first and a private one later gains nothing."""
    asked, real = [], socket.create_connection
    monkeypatch.setattr(
        remote_images.socket, "create_connection", lambda to, *rest: asked.append(to[0]) or real(to, *rest)
    )
    fetch_image(f"{server}/image")
    assert asked == ["127.0.0.1"], "the address itself, not the name once more"


@pytest.mark.parametrize(
    "address",
    """
    127.0.0.1 127.8.9.1 0.0.0.0 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 192.0.0.8 198.18.0.1
    224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 fe80::1 fe80::1%eth0 fec0::1 feff::1 fc00::1 fd12::3 ff02::1
    ::ffff:10.0.0.1
    ::ffff:127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: 2002:a00:1:: 2001:db8::1 nonsense
    """.split(),
)
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_public_addresses(address):
    assert is_public(address)


def test_one_private_address_among_others_is_enough(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(remote_images.socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(RemoteImageError, match="'x' is no public address: 10.0.0.1"):
        public_addresses("x", 443)
    monkeypatch.setattr(remote_images.socket, "getaddrinfo", lambda *_, **__: found[:1])
    assert public_addresses("x", 443) == ["8.8.8.8"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://8.8.8.8/a.png", "not https but http"),
        ("ftp://8.8.8.8/a.png", "not https but ftp"),
        ("file:///etc/passwd", "not https but file"),
        ("//8.8.8.8/a.png", "not https but no address"),
        ("https://user:word@8.8.8.8/a.png", "a user's name in it"),
        ("https:///a.png", "no host"),
        ("https://[::1", "no address"),
        ("https://8.8.8.8:port/a.png", "no address"),
        ("https://127.0.0.1/a.png", "'127.0.0.1' is no public address"),
        ("https://[::ffff:127.0.0.1]/a.png", "is no public address"),
        ("https://2130706433/a.png", "no public address|no answer"),  # 127.0.0.1 as one number
        ("https://0x7f.1/a.png", "no public address|no answer"),
        ("https://localhost/a.png", "no public address|no answer"),
    ],
)
def test_addresses_that_are_not_asked(address, message):
    with pytest.raises(RemoteImageError, match=message):
        fetch_image(address)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.sampled_from(["https://", "https:", "https://127.0.0.1", "https://127.0.0.1:", ""]))
def test_any_text_is_an_error_of_ours(text, start):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_images.socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", 443))])
        with pytest.raises(RemoteImageError):
            fetch_image(start + text)


def test_a_catalogue_fetches_only_when_it_is_told_to(server):
    records = [{"item_id": "a", "title": "t", "image": f"{server}/image"}]
    with pytest.raises(CatalogueError, match="item 'a': remote image .*download it first"):
        Catalogue.from_records(records).image(0)
    assert Handler.paths == []
    catalogue = Catalogue.from_records(records, allow_remote_images=True)
    assert catalogue.image(0).size == (9, 7)
    assert catalogue.select([0]).check()["num_images_checked"] == 1


@pytest.mark.parametrize(
    ("path", "message"), [("page", "not an image"), ("gone", "HTTP 404"), ("inside", "no public address")]
)
def test_a_remote_image_that_is_none_is_named(server, path, message):
    records = [{"item_id": "a", "title": "t", "image": f"{server}/{path}"}]
    with pytest.raises(CatalogueError, match=f"item 'a'.*{message}"):
        Catalogue.from_records(records, allow_remote_images=True).check()
