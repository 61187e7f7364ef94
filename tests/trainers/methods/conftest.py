"""Two small domains with texts and pictures."""

import pytest

from tokenization_items.catalogue import Catalogue
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions


def make_domain(name, tiny_items, rows, sequences):
    records = [
        {"item_id": f"{name}-{row}", "title": tiny_items[row]["text"], "image": tiny_items[row]["image"]}
        for row in rows
    ]
    catalogue = Catalogue.from_records(records, name=name)
    sequences = [[f"{name}-{row}" for row in sequence] for sequence in sequences]
    return Domain(name, catalogue, Interactions.from_sequences(sequences, catalogue.item_ids))


@pytest.fixture(scope="module")
def domains(tiny_items):
    return [
        make_domain("a", tiny_items, range(6), [[0, 1, 2, 3, 5], [5, 3, 1]]),
        make_domain("b", tiny_items, range(3, 9), [[3, 4, 6, 7, 8]]),
    ]
