"""Files that are mutated load as what they were, or end in an error of ours that names the file. A few mutations of
each here; `make test-faults FUZZ=100000` has the rest."""

import os
import warnings

import pytest
from transformers.utils import logging

from .fuzz import Findings, fuzz, shares
from .subjects import make_subjects

FUZZ = int(os.environ.get("FUZZ", "1000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))  # other mutations


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    return make_subjects(tmp_path_factory.mktemp("subjects"))


@pytest.fixture(autouse=True)
def quiet():
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.set_verbosity(before)
    logging.enable_progress_bar()


def run(subjects, names, total, tmp_path, seed=0) -> list[Findings]:
    found = [
        fuzz(subjects[name], tries, tmp_path, seed)
        for name, tries in shares([subjects[name] for name in names], total).items()
    ]
    print(*found, sep="\n")
    return found


def test_a_few_mutations_of_everything(subjects, tmp_path):
    for found in run(subjects, subjects, 300, tmp_path):
        assert not found.failures, str(found)


@pytest.mark.slow
def test_many_mutations(subjects, tmp_path):
    results = run(subjects, subjects, FUZZ, tmp_path, SEED)
    failed = [found for found in results if found.failures]
    assert not failed, "\n".join(map(str, failed))
    assert all(found.refused and found.equal for found in results if found.tried > 100), "both halves"
