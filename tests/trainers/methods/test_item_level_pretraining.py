"""What an item-level recommender learns on several domains, and what one of another domain starts from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modeling_utgrec import ItemLevelConfig, UTGRecForConditionalGeneration
from tokenization_items.catalogue import Catalogue
from tokenization_items.item_index import ItemIndex
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.methods.baselines import GIVEN, train_generative_baseline
from trainers.methods.item_level import ItemLevelArguments, ItemLevelTrainingArguments, new_item_level
from trainers.methods.item_level_pretraining import (
    OF_A_DOMAIN,
    as_pretrained,
    joint_trie,
    pretrain_item_level,
    set_centred_content,
    start_from,
    without_mean,
)
from trainers.methods.item_tables import Content
from trainers.methods.semantic_ids import TokenizedItems
from trainers.methods.utgrec import RecommenderArguments, new_recommender
from trainers.recommender_trainer import RecommenderTrainingArguments

SIZES, WIDTH, ITEMS = [4, 4, 4], 5, 12
ARGUMENTS = ItemLevelArguments(hidden_size=8, num_layers=1, num_heads=1)


def domain_of(name, catalogue_of, seed):
    rng = np.random.default_rng(seed)
    ids = [f"{name}{row}" for row in range(ITEMS)]
    interactions = Interactions.from_sequences(
        [[ids[(start + step) % ITEMS] for step in range(6)] for start in rng.integers(0, ITEMS, 15)], ids
    )
    index = ItemIndex(SIZES, ItemLevelConfig(level_sizes=SIZES).level_offsets)
    codes = np.stack(np.unravel_index(rng.permutation(64)[:ITEMS], SIZES), axis=1)
    index.assign(ids, codes)
    return Domain(name, catalogue_of(ids), interactions), UniversalItemTokenizer(index, "f", max_history=5)


def content_of(seed, offset=0.0):
    return Content(np.random.default_rng(seed).normal(offset, 1, (ITEMS, WIDTH)).astype(np.float32), "e", "p")


@pytest.fixture
def catalogue_of():
    return lambda ids: Catalogue.from_records([{"item_id": each, "title": each} for each in ids])


@pytest.fixture
def two(catalogue_of):
    domains, tokenizers = zip(*(domain_of(name, catalogue_of, seed) for seed, name in enumerate("ab")), strict=True)
    found = dict(zip("ab", tokenizers, strict=True))
    set_centred_content(domains, found, {"a": content_of(0, 3.0), "b": content_of(1, -2.0)}, "print")
    return list(domains), found


def training_in(folder, **values):
    values = {"max_steps": 8, "max_history": 5, "per_device_train_batch_size": 8, **values}
    return ItemLevelTrainingArguments(str(folder), use_cpu=True, disable_tqdm=True, save_strategy="no", **values)


def test_content_without_its_mean_keeps_zeros():
    vectors = np.array([[1, 2], [3, 6], [0, 0]], np.float32)
    mean = vectors.astype(np.float64).mean(0)
    np.testing.assert_allclose(without_mean(vectors), [vectors[0] - mean, vectors[1] - mean, [0, 0]], atol=1e-6)


def test_content_goes_by_the_items_and_not_by_the_order_of_the_index(two):
    domains, tokenizers = two
    index = tokenizers["a"].index
    ids = domains[0].interactions.item_ids
    turned = replace(domains[0], interactions=domains[0].interactions.for_items(ids[::-1]))
    before = index.content.copy()
    content = {"a": Content(content_of(0, 3.0).vectors[::-1], "e", "p")}
    set_centred_content([turned], tokenizers, content, "print")
    np.testing.assert_array_equal(index.content, before)


def test_the_joint_trie_has_each_semantic_id_once_with_the_mean_content(two):
    _, tokenizers = two
    indices = [tokenizer.index for tokenizer in tokenizers.values()]
    trie = joint_trie(indices)
    by_code = {}
    for index in indices:
        for code, vector in zip(index.codes.tolist(), index.content.astype(np.float64), strict=True):
            by_code.setdefault(tuple(code), []).append(vector)
    assert len(by_code) < 2 * ITEMS  # some are of both domains
    assert [tuple(code) for code in trie.codes.tolist()] == sorted(by_code)
    expected = [np.mean(by_code[code], axis=0) for code in sorted(by_code)]
    np.testing.assert_allclose(trie.content.numpy(), expected, atol=1e-5)


def test_pretraining_learns_and_leaves_nothing_of_a_domain(two, tmp_path):
    domains, tokenizers = two
    training = training_in(tmp_path, max_steps=60, logging_steps=10)
    trainer = pretrain_item_level(domains, tokenizers, ARGUMENTS, training)
    model, losses = trainer.model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert model.config.num_item_residuals == 0 and not hasattr(model, "residuals")
    assert model.content_mean.abs().max() < 0.2  # each domain's content is centred: 3 and -2 are gone
    assert [row["Domain"] for row in trainer.card_facts["training_data"]] == ["a", "b"]
    assert {tensor.shape[0] for tensor in model.state_dict().values()}.isdisjoint({ITEMS, 2 * ITEMS})


def test_a_new_domain_starts_from_it(two, tmp_path, catalogue_of):
    domains, tokenizers = two
    trainer = pretrain_item_level(domains, tokenizers, ARGUMENTS, training_in(tmp_path / "training"))
    trainer.model.save_pretrained(tmp_path / "pre")
    _, tokenizer = domain_of("c", catalogue_of, 7)
    tokenizer.index.set_content(content_of(5, 9.0).vectors, "print")
    arguments = as_pretrained(ItemLevelArguments(hidden_dropout=0.1), tmp_path / "pre")
    assert (arguments.hidden_size, arguments.num_layers, arguments.hidden_dropout) == (8, 1, 0.1)
    model = new_item_level(arguments, tokenizer, seed=3)
    start_from(model, tmp_path / "pre")
    before, after = trainer.model.state_dict(), model.state_dict()
    assert after.keys() - before.keys() == {"residuals.weight", "residual_keys"}
    for name in before.keys() - set(OF_A_DOMAIN):
        assert torch.equal(before[name], after[name])
    assert torch.allclose(model.content_mean, tokenizer.trie.content.float().mean(0), atol=1e-3)
    assert not model.residuals.weight.any()
    # how popular codes are is of a domain
    assert trainer.model.code_biases.abs().max() > 0 and not model.code_biases.any()


def test_biases_of_codes_that_are_embeddings_stay_behind_too(two, tmp_path):
    domains, tokenizers = two
    arguments = replace(ARGUMENTS, read_codes=True, write_codes=True)
    pretrained = pretrain_item_level(domains, tokenizers, arguments, training_in(tmp_path / "training")).model
    pretrained.save_pretrained(tmp_path / "pre")
    model = new_item_level(as_pretrained(ItemLevelArguments(), tmp_path / "pre"), tokenizers["a"], seed=3)
    start_from(model, tmp_path / "pre")
    assert torch.equal(model.lm_head.weight, pretrained.lm_head.weight)
    assert pretrained.lm_head.bias.abs().max() > 0 and not model.lm_head.bias.any()


def test_a_t5_starts_from_the_one_that_was_pretrained(two, tmp_path):
    (domain, _), tokenizers = two
    items = TokenizedItems(tokenizers["a"], np.zeros((ITEMS, len(SIZES)), np.int64), {"collisions": "as given"})
    arguments = RecommenderArguments(d_model=8, d_ff=12, d_kv=4, num_heads=2, num_layers=1)
    new_recommender(arguments, tokenizers["a"], items, seed=5).save_pretrained(tmp_path / "pre")
    source = UTGRecForConditionalGeneration.from_pretrained(tmp_path / "pre").state_dict()

    def trained(**start):
        training = RecommenderTrainingArguments(
            str(tmp_path / "run"), learning_rate=0.0, max_steps=1, max_history=5, use_cpu=True, disable_tqdm=True
        )
        return train_generative_baseline(GIVEN, domain, items, arguments, training, **start).model.state_dict()

    found = trained(pretrained=tmp_path / "pre")
    assert all(torch.equal(found[name], each) for name, each in source.items())
    assert not torch.equal(trained()["shared.weight"], source["shared.weight"])


def test_content_alone_starts_as_likeness(two):
    _, tokenizers = two

    def made(**arguments):
        model = new_item_level(replace(ARGUMENTS, **arguments), tokenizers["a"], seed=0)
        return model.config.node_counts, not model.blocks[0].feed_forward.outer.weight.any()

    assert made() == (True, True)
    for with_codes in ({"read_codes": True, "write_codes": True}, {"content": False}, {"node_content": False}):
        assert made(**with_codes) == (False, False)
    assert made(start_from_content=False) == (True, False) and made(node_counts=False) == (False, True)
    assert made(read_codes=True, write_codes=True, start_from_content=True, node_counts=True) == (True, True)
    with pytest.raises(ValueError, match="`start_from_content` is of nodes' content"):
        ItemLevelArguments(content=False, start_from_content=True)


def test_what_does_not_fit_is_named(two, tmp_path, catalogue_of, caplog):
    domains, tokenizers = two
    trainer = pretrain_item_level(domains, tokenizers, ARGUMENTS, training_in(tmp_path / "training", max_steps=1))
    trainer.model.save_pretrained(tmp_path / "pre")
    _, tokenizer = domain_of("c", catalogue_of, 7)
    arguments = as_pretrained(ItemLevelArguments(), tmp_path / "pre")
    tokenizer.index.set_content(content_of(5).vectors, "another")
    with pytest.raises(ValueError, match="content of the encoder with fingerprint print, and here it is of another"):
        start_from(new_item_level(arguments, tokenizer, 0), tmp_path / "pre")
    tokenizer.index.set_content(np.ones((ITEMS, 3), np.float32), "print")
    with pytest.raises(ValueError, match="was pre-trained with content_size 5, and here it is 3"):
        start_from(new_item_level(arguments, tokenizer, 0), tmp_path / "pre")
    tokenizer.index.set_content(content_of(5).vectors, "print")
    with pytest.raises(ValueError, match="size mismatch|another architecture"):
        try:
            start_from(new_item_level(replace(arguments, num_layers=2), tokenizer, 0), tmp_path / "pre")
        except RuntimeError as error:  # torch's own, of weights of other shapes
            raise ValueError(error) from error
    tokenizer.fingerprint = "g"
    start_from(new_item_level(arguments, tokenizer, 0), tmp_path / "pre")
    assert "semantic IDs of another item tokenizer" in caplog.text
    with pytest.raises(ValueError, match="different|differ in their content"):
        set_centred_content(
            domains, tokenizers, {"a": content_of(0), "b": replace(content_of(1), fingerprint="q")}, None
        )
