"""Baselines that read what is known of items, on a domain where that tells the next item: who ranks items that nobody
has interacted with, and who is no worse than SASRec on the others."""

import importlib.util

import numpy as np
import pytest

from tokenization_items import Catalogue
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.data.item_attributes import ItemAttributes
from trainers.evaluation.metrics import metrics_per_case
from trainers.evaluation.protocol import evaluate
from trainers.methods.item_tables import Content
from trainers.methods.sequential import SequentialArguments, train_sequential
from trainers.rankers.sequential import SequentialRanker
from trainers.sequential_trainer import SequentialTrainingArguments

CLUSTERS, SIZE, COLD = 8, 8, 2  # the last items of a cluster occur as last items alone
NUM_ITEMS = CLUSTERS * SIZE


@pytest.fixture(scope="module")
def domain() -> Domain:
    """After an item of a cluster comes any item of the next one."""
    rng = np.random.default_rng(0)
    ids = [f"i{row}" for row in range(NUM_ITEMS)]
    sequences = []
    for user in range(240):
        clusters = (rng.integers(CLUSTERS) + np.arange(6)) % CLUSTERS
        rows = clusters * SIZE + rng.integers(SIZE - COLD, size=6)
        if user % 3 == 0:  # the test target
            rows[-1] = clusters[-1] * SIZE + SIZE - 1 - rng.integers(COLD)
        sequences.append([ids[row] for row in rows])
    catalogue = Catalogue(ids, ids, ids)
    return Domain("planted", catalogue, Interactions.from_sequences(sequences, ids))


@pytest.fixture(scope="module")
def inputs() -> dict:
    rng = np.random.default_rng(1)
    cluster = np.arange(NUM_ITEMS) // SIZE
    centres = rng.normal(size=(CLUSTERS, 16))
    text = centres[cluster] + 0.2 * rng.normal(size=(NUM_ITEMS, 16))
    names = [f"c{number}" for number in range(CLUSTERS)]
    attributes = ItemAttributes({"categories": names}, {"categories": [np.array([each]) for each in cluster]})
    return {"text": Content(text.astype(np.float32)), "attributes": attributes}


@pytest.fixture(scope="module")
def recall(domain, inputs, tmp_path_factory):
    """Test recall@10 of a method, of items without interactions in the training and of the others."""
    known: dict[str, tuple[float, float]] = {}

    def of(name: str) -> tuple[float, float]:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            training = SequentialTrainingArguments(
                str(folder),
                num_train_epochs=12,
                learning_rate=3e-3 if name == "s3-rec" else 1e-2,
                per_device_train_batch_size=64,
                save_strategy="no",
                use_cpu=True,
                disable_tqdm=True,
                report_to=[],
            )
            own = {"vq-rec": ["num_groups=4", "codebook_size=8"], "s3-rec": ["initializer_range=0.1"]}
            arguments = SequentialArguments(
                hidden_size=32,
                hidden_dropout=0.2,
                attention_dropout=0.2,
                max_history=5,
                own=own.get(name, []),
                pretraining_epochs=10,
            )
            model = train_sequential(name, domain, arguments, training, inputs=inputs).model
            result = evaluate(SequentialRanker(model), domain.interactions, long_tail=False, per_user=True)
            cases = result["per_user"]
            found = metrics_per_case(cases["ranks"], (10,))["recall@10"]
            cold = cases["targets"] % SIZE >= SIZE - COLD
            known[name] = float(found[cold].mean()), float(found[~cold].mean())
        return known[name]

    return of


@pytest.mark.parametrize(
    "name",
    [
        "unisrec",
        pytest.param(
            "vq-rec", marks=pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="needs faiss")
        ),
    ],
)
def test_content_ranks_items_that_nobody_has_interacted_with(recall, name):
    """Of 64 items 8 are as good as the target: 10 that a perfect model ranks hold them all."""
    assert recall("sasrec")[0] < 0.3 < 0.6 < recall(name)[0]


@pytest.mark.parametrize("name", ["fdsa", "fdsa-fields", "s3-rec", "s3-rec-scratch"])
def test_what_is_known_of_items_does_no_harm_to_the_others(recall, name):
    assert recall("sasrec")[1] > 0.8
    assert recall(name)[1] > recall("sasrec")[1] - 0.1  # noise of 160 cases
