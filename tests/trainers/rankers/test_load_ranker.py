"""Rankers by name, folder and Hub id."""

import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import HfApi
from transformers import set_seed

from modeling_utgrec import SASRecConfig, SASRecForNextItem, UTGRecConfig, UTGRecForConditionalGeneration
from tokenization_items import UniversalItemTokenizer
from tokenization_items.item_embeddings import save_embeddings
from tokenization_items.item_index import ItemIndex, UnknownItemError
from trainers.data.interactions import Interactions
from trainers.rankers import RANKERS, load_ranker
from trainers.rankers.generative import GenerativeRanker, load_model
from trainers.rankers.item_transitions import ItemTransitions
from trainers.rankers.nearest_items import NearestItems
from trainers.rankers.popularity import Popularity
from trainers.rankers.sequential import SequentialRanker

IDS = [f"item{row}" for row in range(12)]
HISTORIES = [np.array([3, 1]), np.array([7]), np.array([0, 5, 2])]


@pytest.fixture(scope="module")
def interactions():
    rng = np.random.default_rng(0)
    return Interactions.from_sequences([[IDS[row] for row in rng.permutation(12)[:6]] for _ in range(20)], IDS)


@pytest.fixture(scope="module")
def generative(tmp_path_factory):
    """Identifiers in another order than the catalogue's."""
    set_seed(0)
    sizes = dict(d_model=8, d_ff=8, num_heads=2, d_kv=4, num_layers=1, num_decoder_layers=1, max_history=4)
    model = UTGRecForConditionalGeneration(
        UTGRecConfig(level_sizes=[4] * 3, item_tokenizer_fingerprint="f00d", **sizes)
    )
    index = ItemIndex([4] * 3, model.config.level_offsets)
    index.assign(IDS[::-1], np.stack(np.unravel_index(np.arange(12) * 5, (4, 4, 4)), axis=1))
    folder = tmp_path_factory.mktemp("generative")
    model.save_pretrained(folder)
    UniversalItemTokenizer(index, "f00d", 4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sequential(tmp_path_factory):
    set_seed(0)
    folder = tmp_path_factory.mktemp("sequential")
    SASRecForNextItem(SASRecConfig(num_items=12, hidden_size=8, max_history=4)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name, kind", [("popularity", Popularity), ("item-transitions", ItemTransitions)])
def test_what_counts_sees_the_training_part_alone(interactions, name, kind):
    ranker = load_ranker(name, interactions)
    assert type(ranker) is kind
    expected = kind(interactions.training_part()).rank(HISTORIES, 12)
    assert ranker.rank(HISTORIES, 12).tolist() == expected.tolist() != kind(interactions).rank(HISTORIES, 12).tolist()


def test_nearest_items(interactions, tmp_path):
    with pytest.raises(ValueError, match="utgrec embed"):
        load_ranker("nearest-items", interactions)
    vectors = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    save_embeddings(tmp_path / "texts", IDS[::-1], vectors[::-1])
    ranker = load_ranker("nearest-items", interactions, embeddings=tmp_path / "texts", query="mean", batch_size=2)
    expected = NearestItems(vectors, "mean").rank(HISTORIES, 5)
    assert ranker.rank(HISTORIES, 5).tolist() == expected.tolist() and ranker.name == "nearest items (mean)"
    assert ranker.batch_size == 2


@pytest.mark.parametrize("kind, settings", [("generative", {"num_beams": 7}), ("sequential", {})])
def test_a_trained_recommender_by_folder_and_hub_id(interactions, hub, request, kind, settings):
    folder = request.getfixturevalue(kind)
    local = load_ranker(folder, interactions, batch_size=2, **settings)
    assert type(local) is {"generative": GenerativeRanker, "sequential": SequentialRanker}[kind]
    assert local.batch_size == 2 and local.max_history == 4 and getattr(local, "num_beams", 7) == 7
    repository = f"{HfApi().whoami()['name']}/{kind}-ranker"
    HfApi().create_repo(repository)
    HfApi().upload_folder(repo_id=repository, folder_path=folder)
    remote = load_ranker(repository, interactions, batch_size=2, **settings)
    assert remote.name == f"{kind}-ranker"
    assert remote.rank(HISTORIES, 5).tolist() == local.rank(HISTORIES, 5).tolist()


def test_identifiers_of_the_catalogue_from_elsewhere(interactions, generative, tmp_path):
    more = Interactions.from_sequences([[*IDS[:3], "new"]], [*IDS, "new"])
    with pytest.raises(UnknownItemError, match="'new'"):
        load_ranker(generative, more)
    tokenizer = UniversalItemTokenizer.from_pretrained(generative, index_only=True)
    index = ItemIndex(tokenizer.index.level_sizes, tokenizer.index.level_offsets)
    index.assign([*IDS, "new"], np.concatenate([tokenizer.index.codes[tokenizer.index.rows(IDS)], [[3, 3, 3]]]))
    UniversalItemTokenizer(index, "f00d", 4).save_pretrained(tmp_path / "items")
    ranker = load_ranker(generative, more, items=tmp_path / "items", num_beams=13)
    assert sorted(ranker.rank([np.array([12])], 13)[0].tolist()) == list(range(13))


def test_bad_names_list_the_good_ones(interactions, tmp_path):
    for name in ("popularty", tmp_path):
        with pytest.raises(ValueError, match=f"is none of {', '.join(RANKERS)}, and no folder or Hub id"):
            load_ranker(name, interactions)


def test_what_counts_takes_no_model_code():
    code = (
        "import sys, trainers.rankers as r\n"
        "from trainers.data.interactions import Interactions\n"
        "r.load_ranker('popularity', Interactions.from_sequences([['a', 'b', 'c']], ['a', 'b', 'c']))\n"
        "heavy = {'torch', 'transformers', 'modeling_utgrec'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_configurations_with_odd_values_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "sasrec", "num_items": "many"}')
    interactions = Interactions.from_sequences([["a", "b", "a"]], ["a", "b"])
    with pytest.raises(
        ValueError, match=r"(?s)The configuration of .* cannot be used: .*num_items.* expected int, got str"
    ):
        load_ranker(tmp_path, interactions)
    with pytest.raises(ValueError, match="The configuration of .* cannot be used"):
        load_model(tmp_path)
