"""Images put into a folder, and fetched from a server on this machine: what goes well, what fails and why, and what a
second run does."""

import io
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest
from PIL import Image

from tokenization_items import remote_images
from trainers.data import prepared_images
from trainers.data.prepared_images import cache_path, download_images, place_images


def encoded(colour="red", form="JPEG", size=(8, 8)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers by the path; `seen` counts the requests."""

    seen: Counter = Counter()
    together = peak = 0
    lock = threading.Lock()

    def do_GET(self):
        name = self.path.strip("/")
        with Handler.lock:
            Handler.seen[name] += 1
            Handler.together += 1
            Handler.peak = max(Handler.peak, Handler.together)
            count = Handler.seen[name]
        try:
            self.answer(name, count)
        finally:
            with Handler.lock:
                Handler.together -= 1

    def answer(self, name, count):
        status, body, headers = 200, encoded(), {}
        if name.startswith("slow"):
            time.sleep(0.1)
        elif name == "absent":
            status = 404
        elif name == "page":
            body = b"<html>sorry</html>"
        elif name == "cut":
            body = encoded(size=(64, 64))[:-200]
        elif name == "busy":
            status, headers = (503 if count < 3 else 200), {"Retry-After": "0"}
        elif name == "never":
            status, headers = 500, {"Retry-After": "0"}
        elif name == "moved":
            status, headers = 302, {"Location": "/fine"}
        elif name == "away":
            status, headers = 302, {"Location": "ftp://127.0.0.1/fine"}
        elif name == "huge":
            headers = {"Content-Length": str(10**9)}
        elif name == "long":
            body = b"x" * 5000
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """Address of the server; plain http and this machine are allowed for it."""
    Handler.seen, Handler.peak = Counter(), 0
    monkeypatch.setattr(remote_images, "SCHEMES", ("https", "http"))
    monkeypatch.setattr(remote_images, "is_public", lambda address: address == "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_fetches_each_address_once_and_resumes(server, tmp_path):
    addresses = [f"{server}/{name}" for name in ("a", "b", "a", "moved")]
    first = download_images(addresses, tmp_path)
    assert set(first.paths) == set(addresses) and not first.failures and first.num_cached == 0
    assert Handler.seen == {"a": 1, "b": 1, "moved": 1, "fine": 1}
    for address, path in first.paths.items():
        assert path == cache_path(tmp_path, address) and path.read_bytes() == encoded()
    second = download_images([*addresses, f"{server}/c"], tmp_path)
    assert second.num_cached == 3 and Handler.seen["a"] == 1 and Handler.seen["c"] == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_in_parallel(server, tmp_path):
    found = download_images([f"{server}/slow{row}" for row in range(8)], tmp_path, workers=4)
    assert len(found.paths) == 8 and Handler.peak > 1


@pytest.mark.parametrize(
    "name, reason, requests",
    [
        ("absent", "HTTP 404", 1),
        ("page", "not an image", 1),
        ("cut", "broken or truncated", 1),
        ("never", "HTTP 500", 3),
        ("away", "not https or http but ftp", 1),
        ("huge", "larger than", 1),
    ],
)
def test_failures_say_why_and_leave_nothing(server, tmp_path, name, reason, requests):
    address = f"{server}/{name}"
    found = download_images([address, f"{server}/fine"], tmp_path, retries=2)
    assert reason in found.failures[address] and list(found.paths) == [f"{server}/fine"]
    assert Handler.seen[name] == requests
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == list(found.paths.values())
    download_images([address], tmp_path, retries=0)
    assert Handler.seen[name] == requests + 1  # a failure is tried anew


def test_a_failure_that_passes(server, tmp_path):
    assert not download_images([f"{server}/busy"], tmp_path).failures and Handler.seen["busy"] == 3


def test_a_body_that_grows_too_long(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_images, "MAX_BYTES", 4000)
    assert "larger than 4000 bytes" in download_images([f"{server}/long"], tmp_path).failures[f"{server}/long"]


def test_no_server(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_images, "is_public", lambda address: True)
    found = download_images(["https://127.0.0.1:9/x"], tmp_path, retries=0, timeout=2)
    assert "no answer" in found.failures["https://127.0.0.1:9/x"]


def test_only_https(tmp_path):
    addresses = [
        "http://127.0.0.1:9/x",
        "file:///etc/hostname",
        "no address",
        "https://[x",
        "https:///x",
        "https://x/a b",
    ]
    found = download_images(addresses, tmp_path, retries=0)
    assert not found.paths and set(found.failures) == set(addresses)
    assert found.failures[addresses[0]] == "not https but http"


def test_an_interrupt_keeps_what_is_there(server, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_images, "_QUEUED", 2)
    addresses = [f"{server}/{row}" for row in range(6)]
    real = prepared_images._fetch_into

    def interrupted(address, *rest):
        if address.endswith("/2"):
            raise KeyboardInterrupt
        return real(address, *rest)

    monkeypatch.setattr(prepared_images, "_fetch_into", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download_images(addresses, tmp_path)
    monkeypatch.setattr(prepared_images, "_fetch_into", real)
    found = download_images(addresses, tmp_path)
    assert len(found.paths) == 6 and found.num_cached >= 2


def test_item_ids_that_are_no_file_names(tmp_path):
    image = tmp_path / "source.png"
    image.write_bytes(encoded())
    ids = ["a/b", "..", "é ü", "x" * 300, "a%2Fb"]
    (tmp_path / "out").mkdir()
    placed = place_images(pl.DataFrame({"item_id": ids, "image": [str(image)] * 5}), tmp_path / "out")
    assert len(set(placed.values())) == 5
    for path in placed.values():
        assert (tmp_path / "out" / path).parent == tmp_path / "out" / "images"
        assert (tmp_path / "out" / path).read_bytes() == encoded()
