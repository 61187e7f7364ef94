"""The server: keys, addresses, and an end on SIGTERM with its answers given."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from trainers.serving import server
from trainers.serving.application import Service, build_application
from trainers.serving.limits import Limits
from trainers.serving.state import Served

ROOT = Path(__file__).parents[3]
KEY, OTHER = "a-key-of-32-characters-for-tests", "another-key-by-mistake"


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


def test_a_server_ends_when_it_has_answered(recommender, check_same, caplog):
    """SIGTERM while requests wait: each is answered, then the address is free. Here, as another process takes half a
    minute to start: the server is in this thread, and its clients in others."""
    caplog.set_level("INFO", "trainers.serving")
    authorized = {"Authorization": f"Bearer {KEY}"}
    histories = [["sku-1", "sku-5"], ["sku-2"], ["sku-30", "sku-7"]]
    limits = Limits(max_wait_ms=3000, max_batch_size=64)
    service = Service(Served(recommender), limits, lambda version: Served(recommender, version))

    def ask(number):
        body = {"histories": [histories[number % 3]]}
        return httpx.post(f"{url}/recommend", json=body, headers=authorized, timeout=30)

    def visit():
        try:
            with httpx.Client(base_url=url, headers=authorized, timeout=30) as client, ThreadPoolExecutor(6) as pool:
                assert until(lambda: client.get("/health").json()["items"] == 40)
                assert client.get("/items", headers={"Authorization": f"Bearer {OTHER}"}).status_code == 401
                assert client.get("/items").status_code == 200
                asked = [pool.submit(ask, number) for number in range(6)]
                assert until(lambda: client.get("/health").json()["waiting"] == 6)  # in flight: they wait for others
                end()
                return [each.result() for each in asked]
        except BaseException:
            end()
            raise

    def end():
        if not is_over.is_set():  # else it is this process that would end
            os.kill(os.getpid(), signal.SIGTERM)

    before, is_over = signal.getsignal(signal.SIGTERM), threading.Event()
    with server.bind("127.0.0.1", 0) as bound, ThreadPoolExecutor(1) as visitors:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        visitor = visitors.submit(visit)
        try:
            server.run(build_application(service, KEY), bound, limits.timeout_s)
        finally:
            is_over.set()
        answers = visitor.result()
    assert signal.getsignal(signal.SIGTERM) is before and not service.batcher.is_alive
    assert [answer.status_code for answer in answers] == [200] * 6
    for number, answer in enumerate(answers):
        check_same(answer.json()["results"][0]["items"], recommender.recommend(histories[number % 3]))
    with socket.socket() as refused:
        assert refused.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0
    assert "POST /recommend 200" in caplog.text and "GET other 401" in caplog.text
    for secret in (KEY, OTHER, "sku-30"):
        assert secret not in caplog.text


def until(is_so):
    """Whether something becomes so within half a minute; a server that does not listen yet says nothing."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if is_so():
                return True
        except httpx.ConnectError:
            pass
        time.sleep(0.02)
    return False


@pytest.mark.slow
def test_a_process_serves_and_ends(shop, tmp_path):
    log = tmp_path / "log"
    with open(log, "w", encoding="utf-8") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainers", "serve", str(shop), "--port", "0", "--log_level", "info"],
            cwd=ROOT,
            env=os.environ | {"UTGREC_API_KEY": KEY, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 240
        while "changes of the catalogue" not in (said := log.read_text(encoding="utf-8")):
            assert process.poll() is None and time.monotonic() < end, said
            time.sleep(0.1)
        url = next(line for line in said.splitlines() if line.startswith("http://")).partition(",")[0]
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30) as client:
            assert until(lambda: client.get("/health").status_code == 200)
            assert client.post("/recommend", json={"histories": [["sku-1"]]}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    said = log.read_text(encoding="utf-8")
    assert "POST /recommend 200" in said and "Traceback" not in said and KEY not in said and "sku-1" not in said
