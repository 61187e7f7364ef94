"""Load: threads that recommend on one model at once, and a soak of an item tokenizer's index against a dictionary.
Short here; `make test-faults SECONDS=600 OPERATIONS=100000` is long."""

import os
import random
import threading
import time

import numpy as np
import pytest
import torch
from transformers import set_seed

from modeling_utgrec import ItemRules, RQVAEConfig, RQVAEModel, UTGRecConfig, UTGRecForConditionalGeneration
from tokenization_items import CapacityError, UniversalItemTokenizer, UnknownItemError
from tokenization_items.item_embeddings import ContentEmbeddings
from tokenization_items.item_index import ItemIndex
from tokenization_items.processing_content import EmbeddingProcessor

from .record import record

SECONDS = float(os.environ.get("SECONDS", "30"))
OPERATIONS = int(os.environ.get("OPERATIONS", "2000"))
THREADS, NUM_ITEMS = 16, 60


@pytest.fixture(scope="module")
def served():
    """A recommender, its tokenizer and questions: histories and rules."""
    set_seed(0)
    sizes = {"d_model": 16, "d_ff": 16, "num_heads": 2, "d_kv": 8, "num_layers": 1, "num_decoder_layers": 1}
    model = UTGRecForConditionalGeneration(UTGRecConfig(root_codebook_size=6, leaf_codebook_size=6, **sizes)).eval()
    index = ItemIndex(model.config.level_sizes, model.config.level_offsets)
    codes = np.random.default_rng(0).permutation(6**3)[:NUM_ITEMS]
    ids = [f"i{row}" for row in range(NUM_ITEMS)]
    index.assign(ids, np.stack(np.unravel_index(codes, (6, 6, 6)), axis=1))
    tokenizer = UniversalItemTokenizer(index, None, max_history=5)
    rng, questions = np.random.default_rng(1), []
    for number in range(THREADS):
        histories = [[ids[row] for row in rng.integers(NUM_ITEMS, size=1 + number % 5)] for _ in range(1 + number % 3)]
        mask = torch.from_numpy(rng.random(NUM_ITEMS) < 0.1 + number / THREADS)
        rules = {"allow": mask} if number % 3 == 0 else {"deny": ~mask} if number % 3 == 1 else {}
        questions.append((histories, rules))
    return model, tokenizer, questions


def answer(model, tokenizer, question):
    histories, rules = question
    batch = tokenizer(histories, return_tensors="pt")
    given = {"rules": ItemRules(tokenizer.trie, **rules)} if rules else {}
    output = model.recommend(**batch, trie=tokenizer.trie, num_items=7, num_beams=12, **given)
    return output.item_ids, output.scores


def recommend_in_threads(served, seconds) -> int:
    """Answers in threads until the time is over; each must be what it is alone. Returns how many there were."""
    model, tokenizer, questions = served
    expected = [answer(model, tokenizer, question) for question in questions]
    until, wrong, counts = time.monotonic() + seconds, [], [0] * len(questions)

    def work(number):
        try:
            while time.monotonic() < until or not counts[number]:
                items, scores = answer(model, tokenizer, questions[number])
                if items != expected[number][0] or not torch.equal(scores, expected[number][1]):
                    wrong.append((number, items))
                counts[number] += 1
        except Exception as error:
            wrong.append((number, error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]
    return sum(counts)


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_threads_get_what_they_would_get_alone(served):
    assert recommend_in_threads(served, 1.0) >= THREADS


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="tells no memory")
def test_threads_for_long(served):
    """And the memory stays what it is after a tenth of the time."""
    answers = recommend_in_threads(served, SECONDS / 10)
    before = resident_bytes()
    answers += recommend_in_threads(served, SECONDS)
    grown = resident_bytes() - before
    print(f"{answers:,} answers in {THREADS} threads; {grown / 1e6:.1f} MB more")
    record("load", f"{THREADS} threads recommend", answers, answers)
    assert grown < 32e6


def soak(operations: int, seed: int = 0) -> dict[str, int]:
    """Adds and removes items at random, and compares what the tokenizer knows with a dictionary. Returns how many
    operations of each kind there were."""
    set_seed(seed)
    network = RQVAEModel(RQVAEConfig(input_dim=4, hidden_sizes=[4], codebook_dim=4, num_levels=3, codebook_size=8))
    tokenizer = UniversalItemTokenizer.from_network(network.eval(), EmbeddingProcessor(network.config))
    rng, draws = random.Random(seed), np.random.default_rng(seed)
    known: dict[str, tuple[int, ...]] = {}
    done = dict.fromkeys(("added", "removed", "refused"), 0)
    pool = [f"item{number}" for number in range(700)]  # 512 semantic IDs: sometimes there is no room

    def add(ids):
        vectors = draws.normal(size=(len(ids), 4)).astype(np.float32)
        tokenizer.add_items(ContentEmbeddings(ids, vectors), progress=False)

    for number in range(operations):
        ids = rng.sample(pool, rng.choice((1, 1, 2, 5, 40)))
        new = [item_id for item_id in ids if item_id not in known]
        old = [item_id for item_id in ids if item_id in known]
        kind = rng.random()
        if kind < 0.1:  # what must be refused changes nothing
            with pytest.raises((ValueError, UnknownItemError)):
                if kind < 0.05:
                    add([*new, "twice", "twice"])
                elif old and new:
                    rng.choice((add, tokenizer.remove_items))(ids)
                else:
                    tokenizer.remove_items(["nobody's"])
            done["refused"] += 1
        elif kind < 0.6 and new:
            if len(known) + len(new) > 512:
                with pytest.raises(CapacityError):
                    add(new)
                done["refused"] += 1
            else:
                add(new)
                known |= {item_id: tuple(tokenizer.encode(item_id)) for item_id in new}
                done["added"] += len(new)
        elif old:
            tokenizer.remove_items(old)
            for item_id in old:
                del known[item_id]
            done["removed"] += len(old)
        checked = known if number % 50 == 0 else {item_id: known[item_id] for item_id in ids if item_id in known}
        for item_id, tokens in checked.items():
            assert tuple(tokenizer.encode(item_id)) == tokens and tokenizer.decode(tokens) == item_id, number
        assert len(tokenizer) == len(known), number
        ranked = tokenizer.trie.item_ids if known else []  # there is no trie of no items
        assert len(ranked) == len(known), number
        if number % 50 == 0:
            assert {*tokenizer.index.item_ids} == known.keys() and len({*known.values()}) == len(known), number
            assert sorted(ranked) == sorted(known), number
            with pytest.raises(UnknownItemError):
                tokenizer.encode(next(item_id for item_id in pool if item_id not in known))
    return done


def test_identifiers_are_stable(tmp_path):
    done = soak(120)
    assert min(done.values()) > 0


@pytest.mark.slow
def test_identifiers_are_stable_for_long():
    print(soak(OPERATIONS, seed=1))
    record("load", "operations on an index", OPERATIONS, OPERATIONS)
