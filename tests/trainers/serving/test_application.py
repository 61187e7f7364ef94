"""The routes: answers, errors of rows and of requests, rules, a catalogue that changes under fire, metrics."""

import asyncio
import shutil
import threading
from contextlib import contextmanager
from functools import partial

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from trainers import RecommendationRules, Recommender
from trainers.serving.application import Service, build_application
from trainers.serving.limits import Limits
from trainers.serving.state import Served, changed, load

NEW = {"item_id": "new-1", "title": "green cup number 1"}


@contextmanager
def client_of(served, limits=None, reload=None, save_to=None, **arguments):
    service = Service(served, limits or Limits(max_wait_ms=0), reload or (lambda version: served), save_to)
    with TestClient(build_application(service, **arguments), raise_server_exceptions=False) as client:
        client.service = service
        yield client
    assert not service.batcher.is_alive


@pytest.fixture(scope="module")
def client(recommender):
    with client_of(Served(recommender)) as client:
        yield client


def ask(client, *histories, **more):
    answer = client.post("/recommend", json={"histories": histories, **more})
    return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["error"])


def test_recommendations_are_those_of_the_recommender(client, recommender):
    histories = [["sku-1", "sku-5"], ["sku-2"], []]
    found = ask(client, *histories, top_k=7)
    assert found["version"] == 1 and all(row["error"] is None for row in found["results"])
    assert [row["items"] for row in found["results"]] == recommender.recommend(histories, top_k=7, batch_size=2)
    assert len(ask(client, ["sku-1"])["results"][0]["items"]) == 10


def test_described_items_and_sources(client, recommender):
    history = ["sku-1", {"title": "blue pen number 0", "shelf": 4}]
    (row,) = ask(client, history, top_k=3, sources=True)["results"]
    assert row["items"] == recommender.recommend(history, top_k=3, return_sources=True)
    shares = row["items"][0]["sources"]
    total = shares["network"] + shares["unknown"] + sum(shares["transitions"].values())
    assert total + sum(shares["content"].values()) == pytest.approx(1, abs=1e-4)


def test_rules(client, recommender):
    best = [each["item_id"] for each in recommender.recommend(["sku-1"], top_k=40)]
    for rules in ({"deny": best[:2]}, {"allow": best[3:6]}, {"exclude_seen": False}, {"allow": []}, {"num_beams": 5}):
        (row,) = ask(client, ["sku-1"], top_k=5, **rules)["results"]
        assert row["items"] == recommender.recommend(["sku-1"], top_k=5, **rules) and row["error"] is None
    found = [each["item_id"] for each in ask(client, ["sku-1"], top_k=5, deny=best[:2])["results"][0]["items"]]
    assert not {*found} & {*best[:2], "sku-1"} and len(found) == 5
    assert ask(client, ["sku-1"], deny=["sku-2", "gone"])[0] == 422
    status, error = ask(client, ["sku-1"], allow=["gone"])
    assert (status, error["field"]) == (422, "allow") and "'gone'" in error["message"]


def test_saved_rules_hold(recommender):
    ruled = Recommender(
        recommender.model, recommender.tokenizer, recommender.stored, RecommendationRules(deny=("sku-9", "sku-13"))
    )
    with client_of(Served(ruled)) as client:
        items = ask(client, ["sku-1", "sku-5"], top_k=38, deny=["sku-17"])["results"][0]["items"]
        assert len(items) == 35 and not {"sku-9", "sku-13", "sku-17"} & {each["item_id"] for each in items}
        similar = client.get("/similar/sku-5?top_k=39").json()["items"]
        assert not {"sku-9", "sku-13", "sku-5"} & {each["item_id"] for each in similar}


def test_an_error_of_a_row_is_its_own(client, recommender):
    histories = [["sku-1"], ["sku-1", "gone"], ["sku-2"]]
    skipped = ask(client, *histories, top_k=3)["results"]
    assert [row["items"] for row in skipped[::2]] == recommender.recommend(histories[::2], top_k=3, batch_size=2)
    assert skipped[1]["items"] == [] and skipped[0]["error"] is None is skipped[2]["error"]
    assert skipped[1]["error"]["row"] == 1 and skipped[1]["error"]["field"] == "histories[1]"
    assert "'gone'" in skipped[1]["error"]["message"]
    fallback = ask(client, *histories, top_k=3, on_error="fallback")["results"]
    popular = [each["item_id"] for each in recommender.recommend([], top_k=4) if each["item_id"] != "sku-1"]
    assert [each["item_id"] for each in fallback[1]["items"]] == popular[:3] and fallback[1]["error"]
    status, error = ask(client, *histories, on_error="raise")
    assert (status, error["row"], error["field"]) == (422, 1, "histories[1]")


def test_without_a_memory(recommender):
    with client_of(Served(Recommender(recommender.model, recommender.tokenizer))) as client:
        found = ask(client, [], ["sku-1"], top_k=2)["results"]
        assert found[0]["items"] == [] and "got an empty one" in found[0]["error"]["message"]
        assert found[1]["error"] is None and len(found[1]["items"]) == 2
        for name, more in (("sources", {"sources": True}), ("on_error", {"on_error": "fallback"})):
            status, error = ask(client, ["sku-1"], **more)
            assert (status, error["field"]) == (422, name) and "needs a memory" in error["message"]
        answer = client.get("/similar/sku-1")
        assert answer.status_code == 422 and "memory" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 422, None),
        (b"{", 422, None),
        (b"[]", 422, None),
        (b'{"histories": [["a", false]]}', 422, "histories[0][1]"),
        (b'{"histories": [["a"], ["b", "c", "d"]]}', 413, "histories[1]"),
        (b'{"histories": [["a"], [], [], []]}', 413, "histories"),
        (b'{"histories": [["a"]], "top_k": 6}', 422, "top_k"),
        (b'{"histories": [["a"]], "beams": 6}', 422, "beams"),
        (b'{"histories": [[' + b'"a",' * 300 + b'"a"]]}', 413, None),
        (b'{"histories": [["\xff"]]}', 400, None),
    ],
)
def test_what_is_refused(recommender, body, status, field):
    limits = Limits(max_histories=3, max_history=2, top_k_limit=5, max_body_mb=0.001)
    with client_of(Served(recommender), limits) as client:
        answer = client.post("/recommend", content=body, headers={"Content-Type": "application/json"})
        error = answer.json()["error"]
        assert (answer.status_code, error["field"]) == (status, field) and error["message"]
        assert client.get("/similar/sku-1?top_k=6").status_code == 422


def test_a_forgotten_header_is_told(client):
    answer = client.post("/recommend", content=b'{"histories": [["sku-1"]]}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422 and "Content-Type: application/json" in answer.json()["error"]["message"]


def test_items_and_similar_ones(client, recommender):
    known = client.get("/items/sku-1").json()
    assert known["semantic_id"] == recommender.tokenizer.encode("sku-1") and known["title"] == "blue ink number 0"
    assert known["interactions"] == recommender.memory.counts[1] and known["version"] == 1
    assert client.get("/similar/sku-1?top_k=4").json()["items"] == recommender.similar("sku-1", 4)
    for path in ("/items/gone", "/similar/gone", "/nothing"):
        answer = client.get(path)
        assert answer.status_code == 404 and answer.json()["error"]["message"]
    assert client.get("/similar/sku-1?top_k=0").json()["error"]["field"] == "top_k"
    assert client.delete("/recommend").status_code == 405


def test_a_changed_catalogue_is_served_at_once(recommender):
    with client_of(Served(recommender)) as client:
        told = client.post("/items", json={"add": [NEW], "remove": ["sku-3"]}).json()
        assert told == {
            "items": 40,
            "version": 2,
            "added": ["new-1"],
            "changed": [],
            "removed": ["sku-3"],
            "saved": False,
        }
        assert client.get("/items").json()["version"] == 2 and client.get("/items/sku-3").status_code == 404
        found = ask(client, ["new-1"], ["sku-3"], top_k=3)
        assert found["version"] == 2 and len(found["results"][0]["items"]) == 3 and found["results"][1]["error"]
        assert client.delete("/items/new-1").json()["removed"] == ["new-1"]
        assert client.delete("/items/new-1").status_code == 404
        for wrong, field in (({"add": [{"title": "x"}]}, "add"), ({"remove": ["gone"]}, "remove"), ({}, "add")):
            answer = client.post("/items", json=wrong)
            assert answer.status_code == 422 and answer.json()["error"]["field"] == field
        assert client.get("/health").json() == {"status": "ok", "items": 39, "version": 3, "waiting": 0}
    assert len(recommender.tokenizer) == 40


def test_ids_with_slashes(recommender):
    with client_of(Served(recommender)) as client:
        client.post("/items", json={"add": [NEW | {"item_id": "cups/7 ü"}]})
        for path in ("/items/cups/7 ü", "/items/cups%2F7%20%C3%BC"):
            assert client.get(path).json()["item_id"] == "cups/7 ü"
        assert client.get("/similar/cups/7 ü").json()["items"]


def test_changes_that_are_saved_and_read_again(shop, tmp_path):
    folder = shutil.copytree(shop, tmp_path / "shop")
    read = partial(load, str(folder))
    with client_of(read(), reload=lambda version: read(version=version), save_to=folder) as client:
        assert client.post("/items", json={"add": [NEW]}).json()["saved"]
        outside = Recommender.from_pretrained(folder)  # as `utgrec tokenize` every night
        assert "new-1" in outside.item_ids
        outside.remove_items(["sku-2"])
        outside.save_pretrained(folder)
        answer = client.post("/items", json={"remove": ["sku-3"]})
        message = answer.json()["error"]["message"]
        assert answer.status_code == 409 and "changed by another program" in message and "POST /reload" in message
        told = client.post("/reload").json()
        assert (told["items"], told["version"], told["saved"]) == (40, 3, False)
        assert client.get("/items/sku-2").status_code == 404 and client.get("/items/new-1").status_code == 200
        outside = Recommender.from_pretrained(folder)  # as `utgrec memory --update`
        outside.stored.memory.counts[0] += 7
        outside.save_pretrained(folder)
        answer = client.post("/items", json={"remove": ["sku-3"]})
        assert answer.status_code == 409 and "its item memory is another" in answer.json()["error"]["message"]
        assert Recommender.from_pretrained(folder).memory.counts[0] == outside.memory.counts[0]
        assert client.post("/reload").json()["version"] == 4
        assert client.post("/items", json={"remove": ["sku-3"]}).json()["version"] == 5
        assert Recommender.from_pretrained(folder).memory.counts[0] == outside.memory.counts[0]
        shutil.rmtree(folder)
        answer = client.post("/reload")
        assert answer.status_code == 409 and "stays" in answer.json()["error"]["message"]
        assert ask(client, ["sku-1"])["version"] == 5


def test_changes_may_be_refused(recommender):
    with client_of(Served(recommender), may_change=False) as client:
        for method, path in (("POST", "/items"), ("DELETE", "/items/sku-1"), ("POST", "/reload")):
            answer = client.request(method, path, json={"remove": ["sku-1"]} if path == "/items" else None)
            assert answer.status_code == 403 and "--read_only" in answer.json()["error"]["message"]
        assert client.get("/items").json()["version"] == 1


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "shop.example:8000", 200),
        ("http://localhost:8000", "localhost:8000", 200),
        ("http://[::1]:8000", "[::1]:8000", 200),
        ("http://localhost:3000", "localhost:8000", 403),
        ("https://evil.example", "127.0.0.1:8000", 403),
        ("http://evil.example:8000", "evil.example:8000", 403),  # a name that leads here
        ("null", "127.0.0.1:8000", 403),
    ],
)
def test_a_page_of_another_site_changes_nothing(recommender, origin, host, status):
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    with client_of(Served(recommender)) as client:
        answers = [
            client.post("/reload", headers=headers),
            client.delete("/items/sku-1", headers=headers),
            client.post("/items", json={"remove": ["sku-2"]}, headers=headers),
        ]
        assert [each.status_code for each in answers] == [status] * 3
        assert ask(client, ["sku-3"])["version"] == (3 if status == 200 else 1)
    with client_of(Served(recommender), key="k" * 32) as client:  # which no page of another site has
        authorized = headers | {"Authorization": "Bearer " + "k" * 32}
        assert client.post("/reload", headers=authorized).status_code == 200


@pytest.mark.parametrize("body", [b"[" * 20_000, b'{"histories": [[' + b"9" * 5000 + b"]]}", b'{"a": "\xff"}'])
def test_a_body_that_cannot_be_read_is_told(client, body):
    answer = client.post("/recommend", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and "nested too deeply" in answer.json()["error"]["message"]


def test_requests_that_come_together_are_read_together(recommender, check_same):
    """Of different lengths and rules, one of them broken: each answer is that of its request alone."""
    requests = [
        {"histories": [[f"sku-{(row + step) % 40}" for step in range(1 + row % 7)]], "top_k": 5 + row % 2}
        | ({"deny": ["sku-9", "sku-12"]} if row % 3 == 0 else {})
        | ({"exclude_seen": False} if row % 5 == 0 else {})
        for row in range(24)
    ]
    requests.append({"histories": [["gone"], ["sku-4"]], "top_k": 5})
    expected = [
        [recommender.recommend(history, on_error="skip", **{k: v for k, v in each.items() if k != "histories"})]
        for each in requests
        for history in each["histories"]
    ]
    service = Service(Served(recommender), Limits(max_batch_size=26, max_wait_ms=10_000), lambda version: None)
    answers, sizes = asyncio.run(ask_at_once(service, requests)), service.metrics.registry
    service.batcher.close()
    rows = [row for answer in answers for row in answer["results"]]
    assert rows[-2]["error"]["row"] == 0 and rows[-2]["items"] == []
    for row, (single,) in zip(rows[:-2] + rows[-1:], expected[:-2] + expected[-1:], strict=True):
        check_same(row["items"], single)
    batches = sizes.get_sample_value("utgrec_batch_histories_count")
    assert batches <= 8 and sizes.get_sample_value("utgrec_batch_histories_sum") == 26


async def ask_at_once(service, requests):
    transport = httpx.ASGITransport(build_application(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        answers = await asyncio.gather(*(client.post("/recommend", json=each) for each in requests))
    assert all(answer.status_code == 200 for answer in answers)
    return [answer.json() for answer in answers]


def test_no_request_fails_while_items_come_and_go(recommender, check_same):
    """Each answer is wholly that of the catalogue whose version it has."""
    changes = [{"remove": ["sku-3"]}, {"add": [NEW]}, {"add": [NEW | {"item_id": "new-2"}], "remove": ["new-1"]}]
    states = [Served(recommender)]
    for change in changes:
        states.append(changed(states[-1], change.get("add", ()), change.get("remove", ()))[0])
    histories = [["sku-1", "sku-5"], ["sku-2"], ["sku-30", "sku-7", "sku-11"], []]
    expected = {
        each.version: [each.recommender.recommend(history, top_k=8) for history in histories] for each in states
    }
    service = Service(Served(recommender), Limits(max_batch_size=8, max_wait_ms=1), lambda version: None)
    answers: list = []

    async def hammer(client, number, ended):
        while not ended.is_set():
            history = (number + len(answers)) % len(histories)
            answer = await client.post("/recommend", json={"histories": [histories[history]], "top_k": 8})
            answers.append((history, answer))

    async def change_all(client, ended):
        for change in [*changes, None]:
            number = len(answers) + 12  # each of the clients has asked again
            while len(answers) < number:
                await asyncio.sleep(0.01)
            if change is not None:
                assert (await client.post("/items", json=change)).status_code == 200
        ended.set()

    async def run():
        ended, transport = asyncio.Event(), httpx.ASGITransport(build_application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            await asyncio.gather(*(hammer(client, number, ended) for number in range(6)), change_all(client, ended))

    asyncio.run(run())
    service.batcher.close()
    assert {answer.status_code for _, answer in answers} == {200} and len(answers) > 20
    assert {answer.json()["version"] for _, answer in answers} == {1, 2, 3, 4}
    for history, answer in answers:
        check_same(answer.json()["results"][0]["items"], expected[answer.json()["version"]][history])


def test_too_much_and_too_slow(recommender, monkeypatch):
    limits = Limits(max_waiting=3, max_histories=3, max_batch_size=1, max_wait_ms=0, timeout_s=0.5)
    entered, free = threading.Event(), threading.Event()
    with client_of(Served(recommender), limits) as client:
        answer = client.service.batcher.answer

        def slow(question, histories):
            entered.set()
            assert free.wait(10)
            return answer(question, histories)

        client.service.batcher.answer = slow
        late = client.post("/recommend", json={"histories": [["sku-1"]]})  # is taken, and never answered
        assert entered.is_set() and late.status_code == 503 and "within 0.5 seconds" in late.json()["error"]["message"]
        client.service.batcher.submit("q", [["sku-1"], ["sku-2"]]).cancel()
        full = client.post("/recommend", json={"histories": [["sku-1"], ["sku-2"]]})
        assert full.status_code == 503 and full.headers["Retry-After"] == "1"
        assert "2 histories wait, 3 may" in full.json()["error"]["message"]
        assert client.get("/health").status_code == 200
        free.set()


def test_a_failure_says_nothing_of_the_program(recommender, caplog):
    with client_of(Served(recommender)) as client:

        def fail(question, histories):
            raise RuntimeError("in /home/of/somebody")

        client.service.batcher.answer = fail
        answer = client.post("/recommend", json={"histories": [["sku-1"]]})
        assert answer.status_code == 500 and "/home" not in answer.text
        assert client.get("/health").json()["status"] == "ok"


def test_metrics(recommender):
    with client_of(Served(recommender)) as client:
        ask(client, ["sku-1"], ["gone"])
        ask(client, ["sku-1"], top_k=0)
        client.get("/items/sku-1")
        client.get("/items/sku-2")
        client.get("/secret/path?with=words")
        client.post("/items", json={"remove": ["sku-3"]})
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["utgrec_requests_total", "/recommend", "200", "POST"] == 1
    assert samples["utgrec_requests_total", "/recommend", "422", "POST"] == 1
    assert samples["utgrec_requests_total", "/items/{item_id:path}", "200", "GET"] == 2
    assert samples["utgrec_requests_total", "404", "GET", "other"] == 1
    assert samples["utgrec_histories_total", "ok"] == 1 == samples["utgrec_histories_total", "error"]
    assert samples["utgrec_items",] == 39 and samples["utgrec_catalogue_version",] == 2
    assert samples["utgrec_waiting_histories",] == 0 and samples["utgrec_batch_histories_sum",] == 2
    assert samples["utgrec_catalogue_changes_total", "items"] == 1
    assert "sku" not in answer.text and "secret" not in answer.text


def test_the_page_explains_every_route(client):
    assert client.get("/docs").status_code == 200
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/recommend",
        "/similar/{item_id}",
        "/items",
        "/items/{item_id}",
        "/reload",
        "/health",
        "/metrics",
    }
    body = described["paths"]["/recommend"]["post"]["requestBody"]["content"]["application/json"]
    schema = described["components"]["schemas"]["RecommendRequest"]
    assert all("description" in each for each in schema["properties"].values())
    for example in body["examples"].values():
        rules = {"deny": []} if "deny" in example["value"] else {}
        assert "results" in ask(client, **example["value"] | rules | {"histories": [["sku-1"]]})
    answer = described["paths"]["/recommend"]["post"]["responses"]
    assert {"200", "401", "413", "422", "503"} <= set(answer)
