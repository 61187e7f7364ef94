"""Micro-batches: what is read together, in which order answers come, and whose an error is."""

import threading
import time
from concurrent.futures import CancelledError, wait

import pytest

from trainers.serving.batching import Batcher, BusyError, ClosedError


class Model:
    """Answers rows with their question and themselves, notes its batches, and waits until it is let go."""

    def __init__(self, is_free: bool = False):
        self.batches: list = []
        self.began, self.free = threading.Event(), threading.Event()
        if is_free:
            self.free.set()

    def __call__(self, question, rows):
        self.batches.append((question, list(rows)))
        self.began.set()
        assert self.free.wait(10)
        if "broken" in rows:
            raise ValueError("broken")
        return [(question, row) for row in rows]


@pytest.fixture
def make():
    made = []

    def make(model, max_batch_size=4, max_wait=0.0, max_waiting=100):
        made.append((model, Batcher(model, max_batch_size, max_wait, max_waiting)))
        return made[-1][1]

    yield make
    for model, batcher in made:
        model.free.set()
        batcher.close()
        assert not batcher.is_alive and batcher.waiting == 0


def busy(make, model, **arguments):
    """A batcher whose thread has taken a first request."""
    batcher = make(model, **arguments)
    first = batcher.submit("q", ["first"])
    assert model.began.wait(10)
    return batcher, first


def test_what_waits_is_read_together_by_question(make):
    model = Model()
    batcher, first = busy(make, model, max_batch_size=6)
    asked = [batcher.submit("q", ["a", "b"]), batcher.submit("p", ["c"]), batcher.submit("q", ["d"])]
    assert batcher.waiting == 4
    model.free.set()
    assert first.result(10) == [("q", "first")]
    assert [each.result(10) for each in asked] == [[("q", "a"), ("q", "b")], [("p", "c")], [("q", "d")]]
    assert model.batches[1:] == [("q", ["a", "b", "d"]), ("p", ["c"])] and batcher.waiting == 0


def test_a_batch_has_its_size_and_a_request_is_not_divided(make):
    model = Model()
    batcher, _ = busy(make, model, max_batch_size=3)
    asked = [batcher.submit("q", [*rows]) for rows in ("ab", "cd", "e", "fghij", "k")]
    model.free.set()
    wait(asked, 10)
    assert [rows for _, rows in model.batches[1:]] == [["a", "b"], ["c", "d", "e"], [*"fghij"], ["k"]]


def test_a_first_request_waits_for_others(make):
    model = Model(is_free=True)
    batcher = make(model, max_batch_size=2, max_wait=10.0)
    asked = [batcher.submit("q", ["a"]), batcher.submit("q", ["b"])]
    wait(asked, 5)  # long before the time is over
    assert model.batches == [("q", ["a", "b"])]


def test_but_not_for_long(make):
    model = Model(is_free=True)
    began = time.monotonic()
    assert make(model, max_wait=0.02).submit("q", ["a"]).result(5) == [("q", "a")]
    assert time.monotonic() - began >= 0.02


def test_an_error_is_of_its_own_request(make):
    model = Model()
    batcher, _ = busy(make, model)
    fine, broken, other = (batcher.submit("q", [row]) for row in ("a", "broken", "b"))
    model.free.set()
    assert fine.result(10) == [("q", "a")] and other.result(10) == [("q", "b")]
    with pytest.raises(ValueError, match="broken"):
        broken.result(10)
    assert batcher.submit("q", ["c"]).result(10) == [("q", "c")]


def test_answers_that_are_too_few_are_an_error():
    batcher = Batcher(lambda question, rows: rows[:1], 4, 0.0, 10)
    with pytest.raises(RuntimeError, match="2 histories got 1 answers"):
        batcher.submit("q", ["a", "b"]).result(10)
    batcher.close()


def test_too_much_is_refused_at_once(make):
    model = Model()
    batcher, _ = busy(make, model, max_waiting=2)
    batcher.submit("q", ["a", "b"])
    with pytest.raises(BusyError, match="2 histories wait, 2 may"):
        batcher.submit("q", ["c"])


def test_what_is_cancelled_is_not_read(make):
    model = Model()
    batcher, _ = busy(make, model)
    cancelled, other = batcher.submit("q", ["a"]), batcher.submit("q", ["b"])
    assert cancelled.cancel()
    model.free.set()
    assert other.result(10) == [("q", "b")] and model.batches[1:] == [("q", ["b"])]
    with pytest.raises(CancelledError):
        cancelled.result(10)


def test_the_end_answers_what_waits(make):
    model = Model()
    batcher, first = busy(make, model)
    asked = batcher.submit("q", ["a"])
    threading.Timer(0.05, model.free.set).start()
    batcher.close()
    assert first.done() and asked.result(0) == [("q", "a")]
    with pytest.raises(ClosedError):
        batcher.submit("q", ["b"])


def test_a_panic_does_not_end_the_service():
    class Panic(BaseException):
        """As pyo3's, of a library in Rust."""

    def answer(question, rows):
        if "bad" in rows:
            raise Panic("index out of bounds")
        return rows

    batcher = Batcher(answer, 8, 0.0, 100)
    with pytest.raises(RuntimeError, match="Panic: index out of bounds"):
        batcher.submit("q", ["bad"]).result(10)
    assert batcher.is_alive and batcher.submit("q", ["good"]).result(10) == ["good"]
    batcher.close()
