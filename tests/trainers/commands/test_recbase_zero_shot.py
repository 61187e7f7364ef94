"""RecBase from end to end in small: pre-trained on some domains, it ranks the items of another one."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from tokenization_items import UniversalItemTokenizer
from trainers.data.domains import Domain
from trainers.data.synthetic import DOWNSTREAM_DOMAIN, PRETRAINING_DOMAINS, write_all
from trainers.evaluation.candidate_rows import RowChoices, draw_rows
from trainers.methods.recbase import codebooks_of

EXAMPLES = Path(__file__).parents[3] / "examples"
BASELINES = ("nearest-items-last", "nearest-items-mean")
SMALLER = {
    "tokenizer.codebook_size": 32,
    "tokenizer.num_train_epochs": 30,
    "tokenizer.curriculum_epochs": 3,
    "tokenizer.use_cpu": "true",
    "recommender.num_train_epochs": 4,
    "recommender.use_cpu": "true",
    "recommender.disable_tqdm": "true",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("domains")
    write_all(folder, num_items=300, num_users=1400)
    return folder


@pytest.fixture
def run(monkeypatch):
    def call(script, **flags):
        argv = [script, "--config", "recbase_small"]
        for name, value in flags.items():
            argv += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        monkeypatch.setattr(sys, "argv", argv)
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")

    return call


def gauc_of_codes(pretrained: Path, data: Path, folder: Path) -> float:
    """Of the cosine of a candidate's code vectors, summed, with the mean of the history's unit vectors."""
    interactions = Domain.from_folder(data / DOWNSTREAM_DOMAIN).interactions
    items = UniversalItemTokenizer.from_pretrained(next(folder.glob("work/*/recbase-*/items")))
    books = [book.detach().numpy() for book in codebooks_of(pretrained)]
    vectors = np.stack(
        [
            sum(book[code] for book, code in zip(books, items.index.codes[items.index.rows([item])[0]], strict=True))
            for item in interactions.item_ids
        ]
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = draw_rows(interactions, RowChoices())
    wins = []
    for user in np.unique(rows.users):
        own = np.flatnonzero(rows.users == user)
        history = vectors[rows.history(own[0], 20)].mean(0)
        scores, labels = vectors[rows.items[own]] @ history, rows.labels[own].astype(bool)
        pairs = scores[labels][:, None] - scores[~labels]
        wins.append(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    return float(np.mean(wins))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_zero_shot_beats_what_needs_no_training(run, data, tmp_path, seed):
    pretrained, results = tmp_path / "recbase", tmp_path / "zero_shot.jsonl"
    domains = [data / name for name in PRETRAINING_DOMAINS]
    run("pretrain.py", data=domains, output_dir=pretrained, seed=seed, **SMALLER)
    run(
        "benchmarks/zero_shot.py",
        domains=data / DOWNSTREAM_DOMAIN,
        pretrained=pretrained,
        models=[*BASELINES, "nearest-codes"],
        text_encoder=pretrained / "text_encoder",
        results=results,
        work_dir=tmp_path / "work",
        num_beams=20,
    )
    lines = {line["model"]: line for line in map(json.loads, results.read_text().splitlines())}
    ours = lines["recbase"]
    assert set(lines) == {"recbase", "recbase-nearest-codes", *BASELINES}
    assert lines["recbase-nearest-codes"]["gauc"] == pytest.approx(gauc_of_codes(pretrained, data, tmp_path))
    assert "--models nearest-codes --pretrained" in lines["recbase-nearest-codes"]["command"]
    assert "--models none --pretrained" in ours["command"]
    assert ours["seen_in_pretraining"] == "unseen" and ours["pretrained_on"] == list(PRETRAINING_DOMAINS)
    assert ours["seed"] == seed
    for name in BASELINES:
        assert ours["num_rows"] == lines[name]["num_rows"]
        assert ours["gauc"] > lines[name]["gauc"] + 0.05
        assert ours["ndcg@10"] > lines[name]["ndcg@10"]

    run(
        "benchmarks/zero_shot.py",
        domains=data / DOWNSTREAM_DOMAIN,
        pretrained=pretrained,
        models="none",
        train_users=[0, 0.2],
        memory="true",
        text_encoder=pretrained / "text_encoder",
        results=results,
        work_dir=tmp_path / "work",
        num_beams=20,
    )
    none, some = [json.loads(line) for line in results.read_text().splitlines()][-2:]
    assert none["model"] == some["model"] == "recbase-with-memory" and " --train_users 0 --memory" in none["command"]
    assert (none["train_users"], some["train_users"]) == (0.0, 0.2)
    assert (none["uses_domain"], some["uses_domain"]) == (False, True)
    assert not list((tmp_path / "work").glob("*/*/recommender")), "nothing is trained"
    print(ours["gauc"], none["gauc"], some["gauc"], ours["ndcg@10"], none["ndcg@10"], some["ndcg@10"])
    assert some["ndcg@10"] > none["ndcg@10"] and some["gauc"] > none["gauc"]
