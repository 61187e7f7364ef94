"""The server: keys, addresses, and a process that ends on SIGTERM with its answers given."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from trainers.serving import server

ROOT = Path(__file__).parents[3]
KEY = "a-key-of-32-characters-for-tests"


def test_keys_come_from_the_environment(monkeypatch):
    assert server.key_of("UTGREC_TEST_KEY") is None
    monkeypatch.setenv("UTGREC_TEST_KEY", KEY)
    assert server.key_of("UTGREC_TEST_KEY") == KEY
    for weak in ("", "short", "with space in the middle", "ümlaut-ümlaut-ümlaut", "line-break-line-break\n"):
        monkeypatch.setenv("UTGREC_TEST_KEY", weak)
        with pytest.raises(ValueError, match="The key in UTGREC_TEST_KEY has fewer than 16") as caught:
            server.key_of("UTGREC_TEST_KEY")
        assert not weak or weak not in str(caught.value)


def test_addresses():
    with server.bind("127.0.0.1", 0) as bound:
        assert server.is_loopback(bound)
        with bound.dup() as listening:
            listening.listen()
            with pytest.raises(OSError, match="--port .* in use. Give another --port"):
                server.bind("127.0.0.1", bound.getsockname()[1])
    with server.bind("0.0.0.0", 0) as bound:
        assert not server.is_loopback(bound)
    with pytest.raises(OSError, match="--host no.such.host.invalid"):
        server.bind("no.such.host.invalid", 0)


@pytest.fixture
def started(shop, tmp_path):
    """A process that serves, with the address that it says."""
    log = open(tmp_path / "log", "w+", encoding="utf-8")
    flags = ["--port", "0", "--log_level", "info", "--max_wait_ms", "3000", "--max_batch_size", "64"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trainers", "serve", str(shop), *flags],
        cwd=ROOT,
        env=os.environ | {"UTGREC_API_KEY": KEY, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )

    def said() -> str:
        return (tmp_path / "log").read_text(encoding="utf-8")

    try:
        until = time.monotonic() + 240
        while "changes of the catalogue" not in said():
            assert process.poll() is None and time.monotonic() < until, said()
            time.sleep(0.1)
        url = next(line for line in said().splitlines() if line.startswith("http://")).partition(",")[0]
        yield process, url, said
    finally:
        process.kill()
        process.wait()
        log.close()


def test_a_process_ends_when_it_has_answered(started, recommender, check_same):
    process, url, said = started
    authorized = {"Authorization": f"Bearer {KEY}"}
    histories = [["sku-1", "sku-5"], ["sku-2"], ["sku-30", "sku-7"]]
    with httpx.Client(base_url=url, headers=authorized, timeout=30) as client, ThreadPoolExecutor(6) as pool:
        until = time.monotonic() + 30
        while True:
            try:
                assert client.get("/health").json()["items"] == 40
                break
            except httpx.ConnectError:
                assert time.monotonic() < until
                time.sleep(0.05)
        assert client.get("/items", headers={"Authorization": "Bearer another-key-by-mistake"}).status_code == 401
        assert client.get("/items").status_code == 200

        def ask(number):
            return httpx.post(
                f"{url}/recommend", json={"histories": [histories[number % 3]]}, headers=authorized, timeout=30
            )

        asked = [pool.submit(ask, number) for number in range(6)]
        until = time.monotonic() + 30
        while client.get("/health").json()["waiting"] < 6:  # in flight: they wait for others
            assert time.monotonic() < until
        process.send_signal(signal.SIGTERM)
        answers = [each.result() for each in asked]
    assert process.wait(30) == 0, said()
    assert [answer.status_code for answer in answers] == [200] * 6
    for number, answer in enumerate(answers):
        check_same(answer.json()["results"][0]["items"], recommender.recommend(histories[number % 3]))
    with socket.socket() as refused:
        assert refused.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0
    assert "POST /recommend 200" in said() and "GET other 401" in said() and "Traceback" not in said()
    for secret in (KEY, "another-key-by-mistake", "sku-30"):
        assert secret not in said()
