"""RecBase's network in `UniversalItemTokenizer`: text encoder by name, codes, index, files."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import pipeline, set_seed

from modeling_utgrec import (
    RecBaseConfig,
    RecBaseForCausalLM,
    RecBaseTokenizerConfig,
    RecBaseTokenizerModel,
    RQVAEConfig,
)
from tokenization_items import (
    Catalogue,
    CatalogueError,
    ContentProcessor,
    EmbeddingProcessor,
    EncoderMismatchError,
    TextEncoder,
    TextTemplate,
    TokenizerMismatchError,
    UniversalItemTokenizer,
)
from tokenization_items.processing_content import ENCODER_NAME
from tokenization_items.text_statistics import STATISTICS_NAME, FittedTextStatistics

WORDS = ["red", "blue", "oak", "steel", "guitar", "drum", "violin", "amp", "string", "bow", "case", "strap"]


def make_items(num_items: int = 24, start: int = 0) -> list[dict]:
    rng = np.random.default_rng(start)
    return [
        {"item_id": f"i{start + row}", "title": " ".join(rng.choice(WORDS, 3)), "brand": "oak" if row % 2 else ""}
        for row in range(num_items)
    ]


@pytest.fixture
def encoder_folder(tmp_path, tiny_bert):
    backbone, tokenizer, _ = tiny_bert
    backbone.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def folder(tmp_path, encoder_folder):
    """A trained tokenizer of RecBase on disk."""
    encoder = TextEncoder.from_pretrained(encoder_folder)
    embeddings = torch.from_numpy(encoder.embed(Catalogue.from_records(make_items(), template=TextTemplate()).texts))
    set_seed(0)
    config = RecBaseTokenizerConfig(
        input_dim=embeddings.shape[1],
        hidden_sizes=[12],
        codebook_dim=4,
        num_levels=3,
        codebook_size=6,
        text_encoder=str(encoder_folder),
        text_encoder_fingerprint=encoder.fingerprint,
        text_encoder_settings=encoder.settings,
    )
    network = RecBaseTokenizerModel(config)
    network.set_input_statistics(embeddings)
    network.train()(embeddings)
    UniversalItemTokenizer.from_network(network, ContentProcessor(network.config)).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_add_items_encode_decode_and_files(folder, tmp_path, encoder_folder):
    tokenizer = UniversalItemTokenizer.from_pretrained(folder)
    assert tokenizer.has_network and tokenizer._network is None and tokenizer.processor._encoder is None  # lazily
    report = tokenizer.add_items(make_items())
    assert report.num_items == 24 and len(tokenizer) == 24
    assert [tokenizer.decode(tokenizer.encode(f"i{row}")) for row in range(24)] == [f"i{row}" for row in range(24)]

    catalogue = Catalogue.from_records(make_items(), template=TextTemplate())
    embeddings = TextEncoder.from_pretrained(encoder_folder).embed(catalogue.texts)
    expected = tokenizer.network.eval()(torch.from_numpy(embeddings)).codes.numpy()
    codes, residuals = tokenizer.compute_codes(catalogue)
    np.testing.assert_array_equal(codes, expected)
    assert residuals.shape == (24, 3, 4)

    tokenizer.save_pretrained(tmp_path / "items", include_network=False)
    assert not (tmp_path / "items" / "config.json").exists()
    bare = UniversalItemTokenizer.from_pretrained(tmp_path / "items")
    assert bare.encode("i5") == tokenizer.encode("i5") and not bare.has_network
    bare.add_items(make_items(5, start=100))  # fetches network and encoder
    assert len(bare) == 29 and bare.encode("i5") == tokenizer.encode("i5")
    tokenizer.save_pretrained(tmp_path / "again")
    again = UniversalItemTokenizer.from_pretrained(tmp_path / "again")
    assert again.fingerprint == tokenizer.fingerprint and again.encode("i7") == tokenizer.encode("i7")


@pytest.fixture
def centred(folder):
    """The tokenizer of `folder`, with a network that reads embeddings without the mean of their domain."""
    network = RecBaseTokenizerModel.from_pretrained(folder)
    network.config.centre_domains = True
    return UniversalItemTokenizer.from_network(network, ContentProcessor(network.config))


def test_the_first_items_set_what_is_taken_off_all(folder, centred, tmp_path):
    assert centred.fingerprint != UniversalItemTokenizer.from_pretrained(folder).fingerprint
    with pytest.raises(ValueError, match="tokenize the domain's catalogue first"):
        centred.add_items(make_items(1))
    catalogue = Catalogue.from_records(make_items(), template=TextTemplate())
    embeddings = centred.processor.embeddings_of(catalogue, batch_tokens=512)
    expected = centred.network.eval()(torch.from_numpy(embeddings - embeddings.mean(0))).codes.numpy()
    np.testing.assert_array_equal(centred.compute_codes(catalogue)[0], expected)
    np.testing.assert_array_equal(centred.domain_mean, embeddings.mean(0))
    centred.add_items(catalogue)
    centred.save_pretrained(tmp_path / "whole")
    centred.save_pretrained(tmp_path / "items", include_network=False)
    new = Catalogue.from_records(make_items(1, start=100), template=TextTemplate())
    vector = centred.processor.embeddings_of(new, batch_tokens=512)
    expected = centred.network(torch.from_numpy(vector - embeddings.mean(0))).codes.numpy()
    for name in ("whole", "items"):
        again = UniversalItemTokenizer.from_pretrained(tmp_path / name)
        np.testing.assert_array_equal(again.domain_mean, centred.domain_mean)
        np.testing.assert_array_equal(again.compute_codes(new)[0], expected)


def test_a_pipeline_reads_items_that_the_index_does_not_know(centred, tmp_path):
    centred.add_items(make_items())
    centred.save_pretrained(tmp_path / "tokenizer")
    sizes = {"level_sizes": centred.index.level_sizes, "item_tokenizer_fingerprint": centred.fingerprint}
    set_seed(0)
    model = RecBaseForCausalLM(RecBaseConfig.tiny(**sizes)).eval()
    model.save_pretrained(tmp_path / "recommender")
    centred.save_pretrained(tmp_path / "recommender", include_network=False)
    new = {"title": "blue drum case"}
    found = pipeline("item-recommendation", model=str(tmp_path / "recommender"))(["i3", new], top_k=4)
    codes, _ = centred.compute_codes(Catalogue.from_records([{"item_id": "new", **new}], template=TextTemplate()))
    tokens = torch.tensor([[*centred.encode("i3"), *(codes[0] + centred.index.level_offsets)]])
    expected = model.recommend(tokens, torch.ones_like(tokens), centred.trie, num_items=4, exclude=torch.tensor([[3]]))
    assert [item["item_id"] for item in found] == expected.item_ids[0]


def test_the_domain_is_what_the_index_holds(centred, tmp_path):
    # gives no identifiers
    centred.compute_codes(Catalogue.from_records(make_items(5, start=50), template=TextTemplate()))
    centred.add_items(make_items())
    mean = centred.processor.embeddings_of(Catalogue.from_records(make_items(), template=TextTemplate()), 512).mean(0)
    np.testing.assert_array_equal(centred.domain_mean, mean)
    for found in (None, np.zeros(1, np.float32)):  # a vector of one number would fit any embedding
        centred.domain_mean = found
        centred.save_pretrained(tmp_path / "items")
        with pytest.raises(TokenizerMismatchError, match=r"must be the 32 numbers .* 24 items of the index, found"):
            UniversalItemTokenizer.from_pretrained(tmp_path / "items").add_items(make_items(2, start=100))


@pytest.mark.parametrize("value", [[], ["a"], [float("nan")], [True], "x"])
def test_a_broken_domain_mean_is_named(centred, tmp_path, value):
    centred.add_items(make_items())
    centred.save_pretrained(tmp_path / "items", include_network=False)
    file = tmp_path / "items" / "item_tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"domain_mean": value}))
    with pytest.raises(ValueError, match="domain_mean must be"):
        UniversalItemTokenizer.from_pretrained(tmp_path / "items")


def test_domains_may_have_an_introduction_of_their_own(folder, tmp_path):
    """Items that come later, which are records, have it too."""
    template = TextTemplate("Describe a violin:", 10)
    more = make_items(24, 24)
    whole = UniversalItemTokenizer.from_pretrained(folder)
    assert whole.template == TextTemplate()
    whole.add_items(Catalogue.from_records(make_items(), template=template))
    whole.save_pretrained(tmp_path / "items", include_network=False)
    whole.save_pretrained(tmp_path / "again", include_network=False)
    for name in ("items", "again"):
        later = UniversalItemTokenizer.from_pretrained(tmp_path / name)
        assert later.template == template
        codes, _ = later.compute_codes(more)
        wanted, _ = whole.compute_codes(Catalogue.from_records(more, template=template))
        np.testing.assert_array_equal(codes, wanted)
        assert later.update_items(make_items()).is_empty
    assert (codes != UniversalItemTokenizer.from_pretrained(folder).compute_codes(more)[0]).any()
    settings = json.loads((file := tmp_path / "items" / "item_tokenizer_config.json").read_text())
    file.write_text(json.dumps(settings | {"max_field_characters": 0}))
    with pytest.raises(ValueError, match="item_tokenizer_config.json: max_field_characters must be at least 1"):
        UniversalItemTokenizer.from_pretrained(file.parent)


def test_items_with_identical_or_no_text_get_identifiers_of_their_own(folder):
    items = [{"item_id": f"same{row}", "title": "red amp"} for row in range(4)]
    items += [{"item_id": f"empty{row}", "title": ""} for row in range(3)]
    tokenizer = UniversalItemTokenizer.from_pretrained(folder)
    report = tokenizer.add_items(items)
    assert report.items_sharing_codes == 7 and report.items_moved >= 5
    assert len({tuple(tokenizer.encode(item["item_id"])) for item in items}) == 7


def test_bad_items_are_named_before_anything_is_added(folder):
    tokenizer = UniversalItemTokenizer.from_pretrained(folder)
    with pytest.raises(CatalogueError, match=r"reads texts by a template.*template=TextTemplate"):
        tokenizer.add_items(Catalogue.from_records(make_items()))
    with pytest.raises(CatalogueError, match="none of the 2 items has a text"):
        tokenizer.add_items([{"item_id": "a", "title": ""}, {"item_id": "b", "title": " "}])
    tokenizer.processor.encoder.embed = lambda texts, *_: np.zeros((len(texts), 32), dtype=np.float32)
    with pytest.raises(CatalogueError, match=r"24 items have vectors with NaN or only zeros: 'i0', "):
        tokenizer.add_items(make_items())
    tokenizer.processor.encoder.embed = lambda texts, *_: np.ones((len(texts), 5), dtype=np.float32)
    with pytest.raises(EncoderMismatchError, match="the vectors of .* have width 5, the network reads 32"):
        tokenizer.add_items(make_items())
    assert not len(tokenizer)


def test_a_changed_encoder_and_a_changed_network_are_noticed(folder, encoder_folder):
    config = RecBaseTokenizerConfig.from_pretrained(folder)
    encoder = TextEncoder.from_pretrained(encoder_folder)
    ContentProcessor(config, encoder)
    with pytest.raises(EncoderMismatchError, match="not {'pooling': 'cls'"):
        ContentProcessor(config, TextEncoder.from_pretrained(encoder_folder, pooling="cls"))
    settings = json.loads((encoder_folder / "tokenizer_config.json").read_text())
    (encoder_folder / "tokenizer_config.json").write_text(json.dumps(settings | {"note": "changed"}))
    tokenizer = UniversalItemTokenizer.from_pretrained(folder)
    with pytest.raises(EncoderMismatchError, match="was trained on embeddings of"):
        tokenizer.add_items(make_items())
    network = RecBaseTokenizerModel.from_pretrained(folder)
    with torch.no_grad():
        network.encoder[0].bias.add_(1.0)
    network.save_pretrained(folder)
    with pytest.raises(TokenizerMismatchError, match="fingerprint"):
        _ = UniversalItemTokenizer.from_pretrained(folder).network


def test_without_a_named_encoder_one_can_be_given(folder, encoder_folder):
    config = RecBaseTokenizerConfig.from_pretrained(folder)
    config.text_encoder = config.text_encoder_fingerprint = None
    with pytest.raises(ValueError, match="names no text encoder"):
        _ = ContentProcessor(config).encoder
    encoder = TextEncoder.from_pretrained(encoder_folder)
    assert ContentProcessor(config, encoder).encoder is encoder
    # one that lies elsewhere than the configuration says, with the same files
    config = RecBaseTokenizerConfig.from_pretrained(folder)
    encoder.name = "somewhere/else"
    tokenizer = UniversalItemTokenizer.from_pretrained(folder)
    tokenizer.processor = ContentProcessor(config, encoder)
    tokenizer.add_items(make_items())
    assert len(tokenizer) == 24 and tokenizer.processor.encoder is encoder


def test_catalogue_order_does_not_matter(folder):
    catalogue = Catalogue.from_records(make_items(), template=TextTemplate())
    tokenizers = []
    for rows in (np.arange(24), np.arange(24)[::-1]):
        tokenizers.append(UniversalItemTokenizer.from_pretrained(folder))
        tokenizers[-1].add_items(replace(catalogue.select(rows), name="turned"))
    assert all(tokenizers[0].encode(f"i{row}") == tokenizers[1].encode(f"i{row}") for row in range(24))


def test_an_encoder_that_is_not_loaded_is_saved_by_its_name(encoder_folder, tmp_path):
    config = RQVAEConfig(input_dim=8, hidden_sizes=[], codebook_dim=4, num_levels=2, codebook_size=4)
    first, second = tmp_path / "first", tmp_path / "second"
    EmbeddingProcessor(config, TextEncoder.from_pretrained(encoder_folder)).save_pretrained(first)
    processor = EmbeddingProcessor.from_pretrained(first, config)
    shutil.rmtree(encoder_folder)  # it is not needed for this
    processor.save_pretrained(second)
    assert (second / ENCODER_NAME).read_bytes() == (first / ENCODER_NAME).read_bytes()


def test_a_network_that_is_saved_over_another_one_leaves_it_no_encoder(encoder_folder, tmp_path):
    """New items got codes of the vectors of another encoder than the network reads, if these had as many numbers."""
    vectors, statistics = FittedTextStatistics.fit([" ".join(WORDS[row : row + 3]) for row in range(10)] * 2)
    config = RQVAEConfig(input_dim=vectors.shape[1], hidden_sizes=[], codebook_dim=4, num_levels=2, codebook_size=4)
    encoder = TextEncoder.from_pretrained(encoder_folder)
    for made, kept in (
        (EmbeddingProcessor(config, statistics), STATISTICS_NAME),
        (EmbeddingProcessor(config, encoder), ENCODER_NAME),
        (EmbeddingProcessor(config, statistics), STATISTICS_NAME),
        (EmbeddingProcessor(config), None),
    ):
        made.save_pretrained(tmp_path / "network")
        loaded = EmbeddingProcessor.from_pretrained(tmp_path / "network", config)
        assert loaded.reads_texts == made.reads_texts
        assert [path.name for path in (tmp_path / "network").iterdir()] == ([] if kept is None else [kept])
    assert loaded.encoder is None
