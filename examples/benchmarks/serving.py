r"""Load on `utgrec serve` over loopback, beside the pipeline in a loop; every answer is checked.

    python examples/benchmarks/serving.py                    # makes a recommender of 20,000 orders, 1,000 products
    python examples/benchmarks/serving.py --model runs/shop --clients 1 8 64 --seconds 10

Each client is a connection that asks for one history, reads the answer and asks again. *wrong* are answers with other
items or scores than those of the pipeline alone, *failed* those that are none. Then items are added and removed, and
the recommender is read again, under the load of the last row, and SIGTERM is sent while that many requests are in the
server. Clients and server share this machine's processors. The last line is one JSON object.
"""

import argparse
import http.client
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import timing
from prometheus_client.parser import text_string_to_metric_families
from quickstart import generate

from trainers import Recommender

KEY = "benchmark-of-loopback-0123456789"
NEAR = 1e-3  # of scores: batches sum in another order
ROOT = Path(__file__).parents[2]


class Server:
    """A process of `utgrec serve`."""

    def __init__(self, folder: str | Path, flags: list[str]):
        command = [sys.executable, "-m", "trainers", "serve", str(folder), "--port", "0", *flags]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"UTGREC_API_KEY": KEY, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("key: "):
                break
        else:
            raise SystemExit(f"utgrec serve ended before it served:\n{''.join(said)}")
        self.port = int(said[-2].partition(",")[0].rpartition(":")[2])
        while True:
            try:
                self.ask(self.connection(), "GET", "/health")
                break
            except ConnectionError:
                time.sleep(0.05)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    @staticmethod
    def send(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> None:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)

    @classmethod
    def ask(
        cls, connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
    ) -> tuple[int, bytes]:
        """Status and body of an answer."""
        cls.send(connection, method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def batches(self) -> tuple[float, float]:
        """Calls of the model until now, and histories in them."""
        _, text = self.ask(self.connection(), "GET", "/metrics")
        samples = {
            each.name: each.value
            for family in text_string_to_metric_families(text.decode())
            for each in family.samples
        }
        return samples["utgrec_batch_histories_count"], samples["utgrec_batch_histories_sum"]


def is_right(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Whether recommendations are the expected ones; those of equal scores may change places."""
    if len(found) != len(expected):
        return False
    by_id = {each["item_id"]: each["score"] for each in expected}
    return all(
        math.isclose(mine["score"], theirs["score"], abs_tol=NEAR)
        and math.isclose(mine["score"], by_id.get(mine["item_id"], expected[-1]["score"]), abs_tol=NEAR)
        for mine, theirs in zip(found, expected, strict=True)
    )


def row(name: str, seconds: list[float], elapsed: float, **more: Any) -> dict[str, Any]:
    """Requests a second, and the middle and the slowest hundredth of their times."""
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    rate = timing.significant(len(seconds) / elapsed)
    return {"name": name, "requests_s": rate, "p50_ms": round(p50, 1), "p99_ms": round(p99, 1), **more}


def in_a_loop(recommender: Recommender, histories: list[list[str]], seconds: float, batch: int) -> dict[str, Any]:
    """The pipeline, called again and again with one history, or with a batch of them."""
    times: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        at = len(times) % len(histories)
        recommender.recommend([histories[(at + more) % len(histories)] for more in range(batch)], batch_size=batch)
        times += [time.perf_counter() - start] * batch
    name = "pipeline in a loop" + (f", batches of {batch}" if batch > 1 else "")
    return row(name, times, time.perf_counter() - began, batch=batch, wrong=0, failed=0)


def load(
    server: Server, clients: int, histories: list[list[str]], expected: list[Any], seconds: float, check: bool = True
) -> dict[str, Any]:
    """Clients that ask for a while; answers are checked against the expected ones, or for their number alone."""
    times: list[float] = []
    counts = {"wrong": 0, "failed": 0}
    lock, ends = threading.Lock(), time.perf_counter() + seconds

    def client(number: int) -> None:
        connection, at = server.connection(), number
        while time.perf_counter() < ends:
            at = (at + 1) % len(histories)
            start = time.perf_counter()
            status, body = server.ask(connection, "POST", "/recommend", {"histories": [histories[at]]})
            took = time.perf_counter() - start
            found = json.loads(body)["results"][0]["items"] if status == 200 else []
            is_fine = is_right(found, expected[at]) if check else len(found) == len(expected[at])
            with lock:
                times.append(took)
                counts["failed"] += status != 200
                counts["wrong"] += status == 200 and not is_fine
        connection.close()

    before, began = server.batches(), time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed, after = time.perf_counter() - began, server.batches()
    counts["failed"] += clients * (not times)
    batch = (after[1] - before[1]) / max(1, after[0] - before[0])
    return row(f"{clients} clients", times, elapsed, batch=timing.significant(batch, 3), **counts)


def changes_under_load(
    server: Server, clients: int, histories: list[list[str]], expected: list[Any], seconds: float, new: dict[str, Any]
) -> dict[str, Any]:
    """A load while an item is added and removed and the recommender is read again, as often as there is time for."""
    done: list[tuple[str, int]] = []
    ends = time.perf_counter() + seconds

    def change() -> None:
        connection = server.connection()
        while time.perf_counter() < ends:
            for path, body in (("/items", {"add": [new]}), ("/items", {"remove": ["benchmark-1"]}), ("/reload", None)):
                done.append((path, server.ask(connection, "POST", path, body)[0]))

    thread = threading.Thread(target=change)
    thread.start()
    found = load(server, clients, histories, expected, seconds, check=False)
    thread.join()
    refused = sum(status != 200 for _, status in done)
    return found | {"name": f"{clients} clients, {len(done)} changes", "failed": found["failed"] + refused}


def ended_under_load(server: Server, clients: int, histories: list[list[str]], expected: list[Any]) -> dict[str, Any]:
    """SIGTERM while each client waits for an answer."""
    connections = [server.connection() for _ in range(clients)]
    for connection in connections:
        server.ask(connection, "GET", "/health")
    for number, connection in enumerate(connections):
        server.send(connection, "POST", "/recommend", {"histories": [histories[number % len(histories)]]})
    time.sleep(0.3)  # they are in the server, not on the way
    began, answered = time.perf_counter(), 0
    server.process.send_signal(signal.SIGTERM)
    for number, connection in enumerate(connections):
        answer = connection.getresponse()
        found = json.loads(answer.read())["results"][0]["items"]
        answered += answer.status == 200 and is_right(found, expected[number % len(histories)])
    code = server.process.wait(120)
    return {
        "sent": clients,
        "answered": answered,
        "exit_code": code,
        "seconds": round(time.perf_counter() - began, 2),
    }


def main(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder, rng = options.model, np.random.default_rng(options.seed)
        if folder is None:
            folder = Path(scratch) / "shop"
            tables = generate(Path(scratch), options.orders, options.products, options.seed)
            Recommender.from_interactions(*tables, minutes=options.minutes).save_pretrained(folder)
        recommender = Recommender.from_pretrained(folder)
        ids = recommender.item_ids
        histories = [[ids[item] for item in rng.integers(len(ids), size=rng.integers(1, 21))] for _ in range(200)]
        expected: list[Any] = [recommender.recommend(history) for history in histories]
        rows = [in_a_loop(recommender, histories, options.seconds, batch) for batch in (1, options.max_batch_size)]
        flags = ["--max_batch_size", str(options.max_batch_size), "--max_wait_ms", str(options.max_wait_ms)]
        server = Server(folder, flags)
        try:
            for clients in options.clients:
                rows.append(load(server, clients, histories, expected, options.seconds))
            new = {"item_id": "benchmark-1", "title": recommender.titles[ids[0]] or "an item"}
            most = options.clients[-1]
            rows.append(changes_under_load(server, most, histories, expected, options.seconds, new))
            end = ended_under_load(server, most, histories, expected)
        finally:
            server.process.kill()
            server.process.wait()
    print(
        f"{'':42}{'requests/s':>12}{'of the loop':>12}{'p50 ms':>9}{'p99 ms':>9}{'batch':>7}{'wrong':>7}{'failed':>7}"
    )
    for each in rows:
        each["of_loop"] = timing.significant(each["requests_s"] / rows[0]["requests_s"], 3)
        print(
            f"{each['name']:42}{each['requests_s']:12,.1f}{each['of_loop']:12.2f}{each['p50_ms']:9.1f}"
            f"{each['p99_ms']:9.1f}{each['batch']:7.1f}{each['wrong']:7}{each['failed']:7}"
        )
    print(f"SIGTERM: {end['answered']} of {end['sent']} answered, exit code {end['exit_code']}, {end['seconds']} s")
    machine = timing.environment("cpu") | {"processors": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    settings = {"items": len(ids), "max_batch_size": options.max_batch_size, "max_wait_ms": options.max_wait_ms}
    result = {"machine": machine, "settings": settings, "rows": rows, "end": end}
    print(json.dumps(result))
    return result


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Folder of a recommender; by default one is made.")
    parser.add_argument("--orders", type=int, default=20_000, help="Orders of the one that is made.")
    parser.add_argument("--products", type=int, default=1_000, help="Its products.")
    parser.add_argument("--minutes", type=float, default=0.0, help="Of its network's training.")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="Connections.")
    parser.add_argument("--seconds", type=float, default=5.0, help="Of each row.")
    parser.add_argument("--max_batch_size", type=int, default=32, help="Of the server.")
    parser.add_argument("--max_wait_ms", type=float, default=2.0, help="Of the server.")
    parser.add_argument("--seed", type=int, default=0, help="Of data and histories.")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
