"""RecBase's tokenizer from the embeddings of several domains: identifiers, report, reuse, resuming, bad input."""

import json

import numpy as np
import pytest
import torch

from modeling_utgrec import RecBaseTokenizerModel
from tokenization_items import (
    CapacityError,
    Catalogue,
    ContentProcessor,
    EncoderMismatchError,
    TextEncoder,
    TextTemplate,
    UniversalItemTokenizer,
)
from tokenization_items.item_embeddings import (
    ContentEmbeddings,
    EmbeddingError,
    embed_items,
    load_content,
    save_embeddings,
)
from trainers.methods.recbase_tokenizer import (
    RecBaseTokenizerTrainingArguments,
    curriculum_passes,
    recbase_tokenizer,
    recbase_tokenizer_of_catalogues,
)

SIZES = {"hidden_sizes": [16], "codebook_dim": 4, "num_levels": 3, "codebook_size": 8}
ENCODER = {"name": "org/encoder", "fingerprint": "f" * 8, "settings": {"pooling": "mean"}}


def make_domain(num_items: int, seed: int, dim: int = 6, **more) -> ContentEmbeddings:
    embeddings = np.random.default_rng(seed).standard_normal((num_items, dim)).astype(np.float32)
    return ContentEmbeddings([f"i{row}" for row in range(num_items)], embeddings, **more)


def training(folder, **changes) -> RecBaseTokenizerTrainingArguments:
    values = {"max_steps": 12, "per_device_train_batch_size": 16, "curriculum_epochs": 0.5, "learning_rate": 1e-2}
    values |= {"logging_steps": 4, "output_dir": str(folder), "use_cpu": True, "disable_tqdm": True, "report_to": []}
    return RecBaseTokenizerTrainingArguments(**{**values, **changes})


def train(folder, domains, resume=False, config=None, **changes):
    return recbase_tokenizer(domains, folder, training(folder, **changes), resume=resume, **SIZES, **(config or {}))


def test_one_network_and_an_index_for_each_domain(tmp_path):
    toys, films = make_domain(40, 0, encoder=ENCODER), make_domain(30, 1, encoder=ENCODER, without_text=("i3",))
    films.embeddings[5] = toys.embeddings[2]  # a film with a toy's text
    films.embeddings[7:9] = films.embeddings[6]
    items = train(tmp_path, {"toys": toys, "films": films})
    report = json.loads((tmp_path / "tokenizer" / "tokenizer_report.json").read_text())
    assert report == items.report and report["num_items"] == 70 and report["steps"] == 12

    tokenizers = {
        name: UniversalItemTokenizer.from_pretrained(tmp_path / "items" / name) for name in ("toys", "films")
    }
    for name, size in (("toys", 40), ("films", 30)):
        assert len(tokenizers[name]) == size and not tokenizers[name].has_network
        codes = {tuple(tokenizers[name].encode(f"i{row}")) for row in range(size)}
        assert len(codes) == size  # a bijection
    both = [tuple(row) for tokenizer in tokenizers.values() for row in tokenizer.index.codes.tolist()]
    assert report["shared_identifiers"] == sum(both.count(code) > 1 for code in both) >= 2

    raw = np.concatenate([items.raw_codes["toys"], items.raw_codes["films"]])
    model = RecBaseTokenizerModel.from_pretrained(tmp_path / "tokenizer").eval()
    embeddings = torch.from_numpy(np.concatenate([toys.embeddings, films.embeddings]))
    np.testing.assert_array_equal(model(embeddings).codes.numpy(), raw)
    rows = [tuple(row) for row in raw.tolist()]
    assert report["collision_rate"] == pytest.approx(np.mean([rows.count(row) > 1 for row in rows]))
    alone = rows[40:]
    assert report["domains"]["films"]["collision_rate"] == pytest.approx(np.mean([alone.count(r) > 1 for r in alone]))
    assert report["metrics"]["collision_rate_films"] == report["domains"]["films"]["collision_rate"]
    for length, name in ((2, "pairs"), (3, "triples")):
        _, counts = np.unique(raw[:, :length], axis=0, return_counts=True)
        entropy = -sum(count / 70 * np.log(count / 70) for count in counts)
        assert report[f"entropy_{name}"] == pytest.approx(entropy) == report["metrics"][f"entropy_{name}"]

    assert report["identical_content"] == {
        "items": 5,
        "first": ["toys/i2", "films/i5", "films/i6", "films/i7", "films/i8"],
    }
    assert report["domains"]["toys"]["identical_content"]["items"] == 0
    assert report["without_text"] == {"items": 1, "first": ["films/i3"]}
    assert str(items) == (
        f"70 items, {report['collision_rate']:.1%} share their codes with another item; "
        "1 have no text, so only the index tells them apart: ['films/i3']; "
        "5 have another item's content, so only the index tells them apart: "
        "['toys/i2', 'films/i5', 'films/i6', 'films/i7', 'films/i8']"
    )
    config = model.config
    assert (config.text_encoder, config.text_encoder_fingerprint) == ("org/encoder", "f" * 8)
    assert config.curriculum_passes == 2 and model.num_active_levels == 3  # half of the 5 steps of an epoch


def test_domains_that_differ_by_their_means_alone_share_their_codes(tmp_path):
    toys = make_domain(40, 0)
    films = toys._replace(embeddings=toys.embeddings - 4)
    domains = {"toys": toys, "films": films}
    apart = train(tmp_path / "apart", domains).raw_codes
    assert np.isin(apart["toys"][:, 0], apart["films"][:, 0]).mean() < 0.2
    items = train(tmp_path / "centred", domains, config={"centre_domains": True})
    network = UniversalItemTokenizer.from_pretrained(tmp_path / "centred" / "tokenizer").network
    assert network.config.centre_domains
    for name, content in domains.items():
        tokenizer = UniversalItemTokenizer.from_pretrained(tmp_path / "centred" / "items" / name)
        np.testing.assert_array_equal(tokenizer.domain_mean, content.embeddings.mean(0))
        codes = network.eval()(torch.from_numpy(content.embeddings - content.embeddings.mean(0))).codes
        np.testing.assert_array_equal(items.raw_codes[name], codes)
    same = (items.raw_codes["films"] == items.raw_codes["toys"]).all(1)
    assert same.mean() > 0.9  # but for the rounding of the difference
    centred = {
        name: content._replace(embeddings=content.embeddings - content.embeddings.mean(0))
        for name, content in domains.items()
    }
    as_trained = train(tmp_path / "centred_before", centred).raw_codes
    for name, codes in as_trained.items():
        np.testing.assert_array_equal(items.raw_codes[name], codes)
    trained = items.tokenizers["toys"]
    new = UniversalItemTokenizer.from_network(trained.network, trained.processor)
    new.add_items(films)
    np.testing.assert_array_equal(new.index.codes, items.tokenizers["films"].index.codes)
    np.testing.assert_array_equal(new.domain_mean, films.embeddings.mean(0))
    with pytest.raises(ValueError, match="one: .* there is one item"):
        train(tmp_path / "one", domains | {"one": make_domain(1, 2)}, config={"centre_domains": True})
    assert not (tmp_path / "one").exists()


def test_a_domain_that_the_network_never_saw(tmp_path):
    train(tmp_path, {"toys": make_domain(40, 0, encoder=ENCODER)})
    tokenizer = UniversalItemTokenizer.from_pretrained(tmp_path / "tokenizer")
    before = {name: value.clone() for name, value in tokenizer.network.state_dict().items()}
    report = tokenizer.add_items(make_domain(30, 1, encoder=ENCODER))
    assert len(tokenizer) == 30 == len({tuple(tokenizer.encode(f"i{row}")) for row in range(30)})
    assert report.num_items == 30
    assert all(torch.equal(value, tokenizer.network.state_dict()[name]) for name, value in before.items())
    tokenizer.remove_items(tokenizer.index.item_ids)
    with pytest.raises(EncoderMismatchError, match="have width 5, the network reads 6"):
        tokenizer.add_items(make_domain(30, 1, dim=5))
    with pytest.raises(EncoderMismatchError, match="trained on embeddings of org/encoder"):
        tokenizer.add_items(make_domain(30, 1, encoder=ENCODER | {"fingerprint": "other"}))
    with pytest.raises(CapacityError, match="600 new items .* capacity of 512"):
        tokenizer.add_items(make_domain(600, 1))
    assert not len(tokenizer)


def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path):
    """Across the start of a level and restarts, and with the state of an evaluation in between."""
    domains, config = {"toys": make_domain(40, 0), "films": make_domain(30, 1)}, {"restart_passes": 2}
    saving = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2}
    whole = train(tmp_path / "whole", domains, config=config, curriculum_epochs=0.8, **saving)
    checkpoints = tmp_path / "resumed" / "checkpoints" / "tokenizer"
    checkpoints.mkdir(parents=True)
    (tmp_path / "whole" / "checkpoints" / "tokenizer" / "checkpoint-3").rename(checkpoints / "checkpoint-3")
    resumed = train(tmp_path / "resumed", domains, resume=True, config=config, curriculum_epochs=0.8, **saving)
    a, b = whole.network.state_dict(), resumed.network.state_dict()
    assert whole.network.restarts > 0 and whole.network.config.curriculum_passes == 4
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert whole.report["collision_rate"] == resumed.report["collision_rate"]


def test_from_catalogues(tmp_path, tiny_bert):
    backbone, tokenizer, _ = tiny_bert
    for part in (backbone, tokenizer):
        part.save_pretrained(tmp_path / "encoder")
    encoder = TextEncoder.from_pretrained(tmp_path / "encoder")
    words = ["red", "blue", "oak", "steel", "guitar", "drum"]
    records = [{"item_id": f"i{row}", "title": f"{words[row % 6]} {words[row // 6]}"} for row in range(36)]
    catalogues = [
        Catalogue.from_records(records, template=TextTemplate(f"Describe a {name}:"), name=name)
        for name in ("drum", "guitar")
    ]
    arguments = {"training": training(tmp_path, max_steps=6), **SIZES}
    items = recbase_tokenizer_of_catalogues(catalogues, encoder, tmp_path / "run", **arguments)
    assert (tmp_path / "run" / "embeddings" / "drum" / "embeddings.json").is_file()
    loaded = UniversalItemTokenizer.from_pretrained(tmp_path / "run" / "tokenizer")
    assert loaded.fingerprint == items.tokenizers["drum"].fingerprint
    loaded.add_items(catalogues[1])  # through the text encoder that the configuration names
    np.testing.assert_array_equal(loaded.index.codes, items.tokenizers["guitar"].index.codes)
    with pytest.raises(ValueError, match="read the catalogue with a template"):
        recbase_tokenizer_of_catalogues([Catalogue.from_records(records)], encoder, tmp_path / "run", **arguments)


def test_content_of_a_folder(tmp_path, tiny_bert):
    backbone, tokenizer, _ = tiny_bert
    for part in (backbone, tokenizer):
        part.save_pretrained(tmp_path / "encoder")
    encoder = TextEncoder.from_pretrained(tmp_path / "encoder")
    records = [{"item_id": "a", "title": "red amp"}, {"item_id": "b", "title": ""}]
    assert embed_items(Catalogue.from_records(records, template=TextTemplate()), encoder, tmp_path / "with")
    content = load_content(tmp_path / "with")
    assert list(content.item_ids) == ["a", "b"] and content.without_text == ["b"]
    assert content.encoder == {
        "name": encoder.name,
        "fingerprint": encoder.fingerprint,
        "settings": encoder.settings,
        "revision": None,
    }
    with pytest.raises(EmbeddingError, match="none of the 1 items has a text"):
        embed_items(Catalogue.from_records(records[1:], template=TextTemplate()), encoder, tmp_path / "none")
    save_embeddings(tmp_path / "plain", ["a"], np.ones((1, 3)))
    with pytest.raises(EmbeddingError, match="not of texts by a template"):
        load_content(tmp_path / "plain")


def with_row(value: float) -> ContentEmbeddings:
    content = make_domain(40, 0)
    content.embeddings[3] = value
    return content


@pytest.mark.parametrize(
    ("domains", "error", "message"),
    [
        ({}, ValueError, "at least one domain"),
        ({"toys": make_domain(0, 0)}, ValueError, "toys: the domain has no items"),
        ({"toys": with_row(np.nan)}, EmbeddingError, r"toys: 1 items have embeddings with NaN or infinity: 'i3'"),
        ({"toys": with_row(0.0)}, EmbeddingError, r"toys: 1 items have embeddings with only zeros: 'i3'"),
        (
            {"toys": make_domain(40, 0)._replace(item_ids=["a"] * 40)},
            EmbeddingError,
            "occur more than once: 'a'",
        ),
        ({"toys": make_domain(40, 0)._replace(item_ids=["a"])}, EmbeddingError, "1 items need a matrix"),
        ({"a": make_domain(40, 0), "b": make_domain(40, 1, dim=5)}, EmbeddingError, "{'a': 6, 'b': 5}"),
        (
            {
                "a": make_domain(40, 0, encoder=ENCODER),
                "b": make_domain(9, 0, encoder={**ENCODER, "fingerprint": "g"}),
            },
            EmbeddingError,
            "reads embeddings of one encoder; a has those of",
        ),
        ({"toys": make_domain(2, 0, without_text=("i0", "i1"))}, EmbeddingError, "none of the 2 items has a text"),
        ({"toys": make_domain(600, 0)}, CapacityError, "3 levels of 8 codes make 512 semantic IDs.*{'toys': 600}"),
        ({"toys": make_domain(7, 0)}, ValueError, "7 items are fewer than the 8 codes of a level"),
    ],
)
def test_bad_input_is_named_before_work_starts(tmp_path, monkeypatch, domains, error, message):
    monkeypatch.setattr("trainers.methods.recbase_tokenizer.EmbeddingTokenizerTrainer", None)
    with pytest.raises(error, match=message):
        train(tmp_path / "run", domains)
    assert not (tmp_path / "run").exists()


def test_defaults_are_the_papers():
    arguments = RecBaseTokenizerTrainingArguments(use_cpu=True)
    assert (arguments.learning_rate, arguments.weight_decay) == (1e-4, 1e-4)
    assert (arguments.per_device_train_batch_size, arguments.num_train_epochs, arguments.max_steps) == (2048, 100, -1)
    assert curriculum_passes(arguments, 10 * 2048) == 50 and curriculum_passes(arguments, 10 * 2048 + 1) == 55


def test_pairs_of_ids_and_embeddings_will_do(tmp_path):
    ids, embeddings = make_domain(40, 0)[:2]
    items = train(tmp_path, {"toys": (ids, embeddings)}, max_steps=2, curriculum_epochs=0)
    assert items.network.config.text_encoder is None
    processor = items.tokenizers["toys"].processor
    assert isinstance(processor, ContentProcessor) and processor.template == TextTemplate()
