"""Item tokenizers, networks and recommenders on the Hub: what was pushed comes back, of the commit asked for."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer, pipeline, set_seed

from modeling_utgrec import (
    ItemLevelConfig,
    ItemLevelForCausalLM,
    RecBaseTokenizerConfig,
    RecBaseTokenizerModel,
    RQVAEConfig,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
    UTGRecTokenizerModel,
)
from tokenization_items import ContentProcessor, ItemProcessor, TextEncoder, TextTemplate, UniversalItemTokenizer
from tokenization_items.catalogue import Catalogue
from tokenization_items.hub_folders import HubError
from tokenization_items.item_embeddings import embed_items, load_content
from tokenization_items.processing_content import EmbeddingProcessor

pytestmark = pytest.mark.hub
# What two processes do at the same time, with an empty cache.
PULL = """
import json, os, sys, torch
from tokenization_items import UniversalItemTokenizer
first = os.fork()  # from here on there are two
tokenizer = UniversalItemTokenizer.from_pretrained(sys.argv[1])
tokenizer.add_items([{"item_id": "late", "title": "red steel"}])
if first:
    _, status = os.waitpid(first, 0)
    assert status == 0
print(json.dumps(tokenizer.encode("late")), flush=True)
"""


@pytest.fixture(scope="module")
def records(tiny_items) -> list[dict]:
    return [{"item_id": item["item_id"], "title": item["text"], "image": item["image"]} for item in tiny_items]


@pytest.fixture
def tokenizer(make_network, tiny_bert, records) -> UniversalItemTokenizer:
    tokenizer = UniversalItemTokenizer.from_network(*make_network(tiny_bert), max_history=3)
    tokenizer.add_items([record for record in records if record["title"]])
    return tokenizer


@pytest.fixture
def recommender(tokenizer) -> UTGRecForConditionalGeneration:
    set_seed(0)
    sizes = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "num_layers": 1}
    layout = tokenizer.network.config.level_layout()
    return UTGRecForConditionalGeneration(
        UTGRecConfig(**layout, **sizes, item_tokenizer_fingerprint=tokenizer.fingerprint)
    ).eval()


def files_of(repo_id, revision=None) -> set[str]:
    return set(HfApi().list_repo_files(repo_id, revision=revision)) - {".gitattributes", "README.md"}


def codes(tokenizer, records):
    return tokenizer.compute_codes(Catalogue.from_records(records[:3]), progress=False)


def assert_same_codes(a, b, records):
    for found, wanted in zip(codes(a, records), codes(b, records), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_push_and_pull(hub, tokenizer, records):
    tokenizer.push_to_hub(repo_id := hub.new_repo("tokenizer"), private=True)
    pulled = UniversalItemTokenizer.from_pretrained(repo_id)
    assert pulled.index.item_ids == tokenizer.index.item_ids and pulled.index.titles == tokenizer.index.titles
    np.testing.assert_array_equal(pulled.index.codes, tokenizer.index.codes)
    assert pulled.has_network and pulled.fingerprint == tokenizer.fingerprint
    assert_same_codes(pulled, tokenizer, records)
    assert not [name for name in files_of(repo_id) if name.endswith((".bin", ".pt", ".pkl", ".tmp"))]


def test_auto_classes_from_repo_ids(hub, tokenizer, recommender, tiny_bert):
    """The lines that users write."""
    tokenizer.push_to_hub(tokenizer_id := hub.new_repo("tokenizer"))
    recommender.push_to_hub(recommender_id := hub.new_repo("recommender"))
    tokenizer.push_to_hub(recommender_id, include_network=False)

    network = AutoModel.from_pretrained(tokenizer_id)
    assert type(network) is UTGRecTokenizerModel and type(AutoConfig.from_pretrained(tokenizer_id)) is type(
        network.config
    )
    assert torch.equal(network.quantizer.root.codes, tokenizer.network.quantizer.root.codes)
    processor = AutoProcessor.from_pretrained(tokenizer_id)
    assert type(processor) is ItemProcessor and processor.prompt_key() == tokenizer.processor.prompt_key()

    for kind in (AutoModelForSeq2SeqLM, AutoModel):
        model = kind.from_pretrained(recommender_id)
        assert type(model) is UTGRecForConditionalGeneration
        assert torch.equal(model.shared.weight, recommender.shared.weight)
    items = AutoTokenizer.from_pretrained(recommender_id)
    assert type(items) is UniversalItemTokenizer and not items.has_network
    assert pipeline("item-recommendation", model=recommender_id)(["item-1", {"title": "red"}], top_k=3) == pipeline(
        "item-recommendation", model=recommender, tokenizer=tokenizer
    )(["item-1", {"title": "red"}], top_k=3)


def test_content_vectors_are_pushed_with_the_index(hub, tokenizer):
    """What an item-level recommender reads of the items beside their codes."""
    tokenizer.index.set_content(np.random.default_rng(0).normal(size=(len(tokenizer), 5)))
    set_seed(0)
    config = ItemLevelConfig(
        level_sizes=tokenizer.index.level_sizes,
        level_offsets=tokenizer.index.level_offsets,
        hidden_size=8,
        content_size=5,
        num_item_residuals=len(tokenizer),
        item_tokenizer_fingerprint=tokenizer.fingerprint,
    )
    recommender = ItemLevelForCausalLM(config).eval()
    recommender.set_catalogue(tokenizer.trie)
    recommender.push_to_hub(repo_id := hub.new_repo("recommender"))
    tokenizer.push_to_hub(repo_id, include_network=False)
    assert {"item_content.safetensors", "item_index.safetensors", "model.safetensors"} <= files_of(repo_id)
    pulled = UniversalItemTokenizer.from_pretrained(repo_id, index_only=True)
    np.testing.assert_array_equal(pulled.index.content, tokenizer.index.content)
    history = tokenizer.index.item_ids[:2]
    found = pipeline("item-recommendation", model=repo_id)(history, top_k=2)
    seen = torch.tensor([[0, 1]])
    batch = tokenizer([history], return_tensors="pt")
    output = recommender.recommend(**batch, trie=tokenizer.trie, num_items=2, exclude=seen)
    assert [each["item_id"] for each in found] == output.item_ids[0]
    assert type(AutoTokenizer.from_pretrained(repo_id)) is UniversalItemTokenizer


def test_branches_and_later_commits(hub, tokenizer, recommender, records):
    repo_id = hub.new_repo("tokenizer")
    tokenizer.push_to_hub(repo_id)
    first = UniversalItemTokenizer.from_pretrained(repo_id)  # its network comes later
    before = HfApi().model_info(repo_id).sha
    old = codes(tokenizer, records)
    with torch.no_grad():
        tokenizer.network.quantizer.root.codes.neg_()
    trial = UniversalItemTokenizer.from_network(tokenizer.network, tokenizer.processor)
    trial.push_to_hub(repo_id, revision="trial")
    assert len(UniversalItemTokenizer.from_pretrained(repo_id)) == len(tokenizer)
    assert len(UniversalItemTokenizer.from_pretrained(repo_id, revision="trial")) == 0
    trial.push_to_hub(repo_id)
    for pulled in (first, UniversalItemTokenizer.from_pretrained(repo_id, revision=before)):
        for found, wanted in zip(codes(pulled, records), old, strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert_same_codes(UniversalItemTokenizer.from_pretrained(repo_id), trial, records)


def test_the_pipeline_reads_index_and_model_of_one_revision(hub, tokenizer, recommender, records, tmp_path):
    recommender.push_to_hub(repo_id := hub.new_repo("recommender"))
    tokenizer.save_pretrained(tmp_path / "items", include_network=False, push_to_hub=True, repo_id=repo_id)
    before = HfApi().model_info(repo_id).sha
    assert len(pipeline("item-recommendation", model=repo_id)(["item-1"], top_k=20)) == len(tokenizer) - 1
    tokenizer.remove_items(["item-0", "item-2"])
    tokenizer.push_to_hub(repo_id, include_network=False)
    for revision, count in ((before, len(tokenizer) + 1), (None, len(tokenizer) - 1)):
        found = pipeline("item-recommendation", model=repo_id, revision=revision)
        assert len(found(["item-1"], top_k=20)) == count


def test_an_index_needs_no_weights(hub_server, hub, tokenizer, recommender):
    tokenizer.push_to_hub(repo_id := hub.new_repo("tokenizer"))
    wanted = {"item_index.safetensors", "item_provenance.safetensors"}
    for index_only in (True, False):
        hub_server.log.clear()
        pulled = UniversalItemTokenizer.from_pretrained(repo_id, index_only=index_only, force_download=True)
        assert pulled.encode("item-1") == tokenizer.encode("item-1")
        asked = {path.rsplit("/", 1)[1] for method, path in hub_server.log if method == "GET" and "/resolve/" in path}
        assert {name for name in asked if name.endswith(".safetensors")} == wanted
        assert not any(name.endswith((".py", ".md")) for name in asked)
        if index_only:
            assert not pulled.has_network and not any(name.endswith(".txt") for name in asked)
            with pytest.raises(ValueError, match="item index only"):
                assert pulled.network


def test_an_index_only_copy_names_the_commit_of_its_network(hub, tokenizer, recommender, records):
    tokenizer.push_to_hub(tokenizer_id := hub.new_repo("tokenizer"))
    commit = HfApi().model_info(tokenizer_id).sha
    recommender.push_to_hub(recommender_id := hub.new_repo("recommender"))
    tokenizer.push_to_hub(recommender_id, include_network=False)
    HfApi().delete_file("model.safetensors", tokenizer_id)  # a later commit changes nothing
    pulled = UniversalItemTokenizer.from_pretrained(recommender_id)
    assert str(pulled.network_reference) == f"{tokenizer_id} at revision {commit}"
    pulled.add_items([{"item_id": "late", "title": "red steel"}])
    assert_same_codes(pulled, tokenizer, records)
    assert "config.json" in files_of(recommender_id)
    assert AutoConfig.from_pretrained(recommender_id).model_type == "utgrec"


def test_nothing_of_this_machine_is_pushed(hub, make_network, tiny_bert, tokenizer, recommender, tmp_path):
    """Neither the folder of a backbone nor that of a network, which are not on the Hub."""
    tiny_bert[0].save_pretrained(tmp_path / "backbone")
    parts = (AutoModel.from_pretrained(tmp_path / "backbone"), *tiny_bert[1:])
    network, processor = make_network(parts, backbone_name_or_path=str(tmp_path / "backbone"))
    network.push_to_hub(network_id := hub.new_repo("network"))
    local = UniversalItemTokenizer.from_network(network, processor)
    local.push_to_hub(tokenizer_id := hub.new_repo("tokenizer"))
    local.save_pretrained(tmp_path / "small")
    assert not AutoConfig.from_pretrained(tmp_path / "small").backbone_saved
    for repo_id in (network_id, tokenizer_id):
        assert AutoConfig.from_pretrained(repo_id).backbone_saved
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    UniversalItemTokenizer.from_pretrained(tmp_path / "tokenizer").push_to_hub(
        items_id := hub.new_repo("items"), include_network=False
    )
    assert UniversalItemTokenizer.from_pretrained(items_id).network_reference is None
    for repo_id in (network_id, tokenizer_id, items_id):
        for name in files_of(repo_id):
            if name.endswith((".json", ".py")):
                path = HfApi().hf_hub_download(repo_id, name)
                assert str(tmp_path) not in open(path, encoding="utf-8").read(), name


def test_a_published_backbone_is_not_pushed_again(hub, make_network, tiny_bert, records):
    tiny_bert[0].push_to_hub(backbone_id := hub.new_repo("backbone"))
    commit = HfApi().model_info(backbone_id).sha
    parts = (AutoModel.from_pretrained(backbone_id), *tiny_bert[1:])
    network, processor = make_network(parts, backbone_name_or_path=backbone_id, backbone_revision=commit)
    tokenizer = UniversalItemTokenizer.from_network(network, processor)
    sizes = {}
    choices = {"small": {}, "whole": {"save_backbone": True}, "smallest": {"without_decoders": True}}
    # What is published later is another backbone.
    with torch.no_grad():
        parts[0].encoder.layer[0].output.dense.weight.mul_(1.1)
    parts[0].push_to_hub(backbone_id)
    with torch.no_grad():
        parts[0].encoder.layer[0].output.dense.weight.div_(1.1)
    for name, choice in choices.items():
        tokenizer.push_to_hub(repo_id := hub.new_repo(name), **choice)
        pulled = UniversalItemTokenizer.from_pretrained(repo_id)
        assert_same_codes(pulled, tokenizer, records)
        config = pulled.network.config
        assert (config.backbone_name_or_path, config.backbone_revision) == (backbone_id, commit)
        files = HfApi().model_info(repo_id, files_metadata=True).siblings
        sizes[name] = {file.rfilename: file.size for file in files}["model.safetensors"]
    assert sizes["smallest"] < sizes["small"] < sizes["whole"]


def test_subfolders(hub, tokenizer, records, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    HfApi().create_repo(repo_id := hub.new_repo("many"))
    HfApi().upload_folder(repo_id=repo_id, folder_path=tmp_path, path_in_repo="items/office")
    pulled = UniversalItemTokenizer.from_pretrained(repo_id, subfolder="items/office")
    assert pulled.index.item_ids == tokenizer.index.item_ids
    assert_same_codes(pulled, tokenizer, records)
    with pytest.raises(FileNotFoundError, match="holds no item tokenizer"):
        UniversalItemTokenizer.from_pretrained(repo_id)


def test_cache_and_local_files_only(hub_server, hub, tokenizer, records, tmp_path):
    tokenizer.push_to_hub(repo_id := hub.new_repo("tokenizer"))
    arguments = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(HubError, match=f"not in this machine's cache .* run `hf download {repo_id}`") as error:
        UniversalItemTokenizer.from_pretrained(repo_id, local_files_only=True, **arguments)
    assert isinstance(error.value.__cause__, LocalEntryNotFoundError)
    assert_same_codes(UniversalItemTokenizer.from_pretrained(repo_id, **arguments), tokenizer, records)
    assert list((tmp_path / "cache").rglob("model.safetensors"))
    hub_server.log.clear()
    again = UniversalItemTokenizer.from_pretrained(repo_id, local_files_only=True, **arguments)
    assert_same_codes(again, tokenizer, records)
    assert not hub_server.log


def test_what_is_not_there_or_not_allowed(hub_server, hub, tokenizer, recommender, tmp_path):
    for name in (f"{hub.namespace}/nothing-there", "a/b/c", "/no/such/folder"):
        is_id = name.endswith("nothing-there")
        said = "no repository that can be read: mind the spelling" if is_id else "neither a folder nor the id of"
        with pytest.raises(HubError, match=f"{name} .*{said}") as error:
            UniversalItemTokenizer.from_pretrained(name)
        assert isinstance(error.value.__cause__, RepositoryNotFoundError if is_id else HFValidationError)
    recommender.push_to_hub(recommender_id := hub.new_repo("recommender"))
    with pytest.raises(FileNotFoundError, match="holds no item tokenizer: item_tokenizer_config.json is missing"):
        UniversalItemTokenizer.from_pretrained(recommender_id)

    tokenizer.push_to_hub(repo_id := hub.new_repo("tokenizer"))
    hub_server.repo(repo_id).readers = set()
    with pytest.raises(HubError, match=f"{repo_id} is gated: ask for access") as error:
        UniversalItemTokenizer.from_pretrained(repo_id, token="hf_reader")
    assert isinstance(error.value.__cause__, GatedRepoError)
    with pytest.raises(HubError, match=f"{repo_id} has no branch, tag or commit 'v2'"):
        UniversalItemTokenizer.from_pretrained(repo_id, revision="v2")
    with pytest.raises(OSError, match="gated repo"):
        AutoModel.from_pretrained(repo_id, token="hf_reader")
    hub_server.repo(repo_id).readers = {"reader"}
    assert UniversalItemTokenizer.from_pretrained(repo_id, token="hf_reader").network is not None
    hub_server.repo(repo_id).private = True
    with pytest.raises(OSError, match="nothing|not a valid model identifier|Repository Not Found"):
        # without what was downloaded while it was allowed, which some versions of huggingface_hub take
        AutoModel.from_pretrained(repo_id, token="hf_reader", cache_dir=tmp_path)


def test_a_push_that_is_cut_leaves_the_repository_as_it_was(hub_server, hub, tokenizer, records, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    tokenizer.push_to_hub(repo_id := hub.new_repo("tokenizer"))
    before = HfApi().model_info(repo_id).sha
    with torch.no_grad():
        tokenizer.network.quantizer.root.codes.add_(0.5)
    changed = UniversalItemTokenizer.from_network(tokenizer.network, tokenizer.processor)
    hub_server.cut("PUT", "/_lfs/", after=1000, times=99)
    with pytest.raises(Exception, match="(?i)write|reset|broken|disconnected|closed|error"):
        changed.push_to_hub(repo_id)
    assert HfApi().model_info(repo_id).sha == before
    assert len(UniversalItemTokenizer.from_pretrained(repo_id)) == len(tokenizer)
    hub_server.heal()
    changed.push_to_hub(repo_id)
    assert_same_codes(UniversalItemTokenizer.from_pretrained(repo_id), changed, records)


def test_two_processes_at_once(hub, tokenizer, tmp_path):
    tokenizer.push_to_hub(repo_id := hub.new_repo("tokenizer"))
    environment = os.environ | {"HF_HOME": str(tmp_path), "PYTHONPATH": os.getcwd()}
    pulls = subprocess.run([sys.executable, "-c", PULL, repo_id], env=environment, capture_output=True, text=True)
    assert pulls.returncode == 0, pulls.stderr[-3000:]
    tokenizer.add_items([{"item_id": "late", "title": "red steel"}])
    assert list(map(json.loads, pulls.stdout.splitlines())) == [tokenizer.encode("late")] * 2


def test_recbase_names_its_text_encoder_by_repo_id_and_commit(hub, tiny_bert, records, tmp_path):
    backbone, text_tokenizer, _ = tiny_bert
    backbone.push_to_hub(encoder_id := hub.new_repo("encoder"))
    text_tokenizer.push_to_hub(encoder_id)
    encoder = TextEncoder.from_pretrained(encoder_id)
    records = [{"item_id": record["item_id"], "title": record["title"]} for record in records]
    catalogue = Catalogue.from_records(records, template=TextTemplate())
    embeddings = torch.from_numpy(encoder.embed(catalogue.texts))
    set_seed(0)
    config = RecBaseTokenizerConfig(
        input_dim=embeddings.shape[1],
        hidden_sizes=[8],
        codebook_dim=4,
        codebook_size=4,
        text_encoder=encoder_id,
        text_encoder_revision=encoder.revision,
        text_encoder_fingerprint=encoder.fingerprint,
        text_encoder_settings=encoder.settings,
    )
    network = RecBaseTokenizerModel(config)
    network.train()(embeddings)
    tokenizer = UniversalItemTokenizer.from_network(network, ContentProcessor(config, encoder))
    tokenizer.add_items(records)

    tokenizer.push_to_hub(repo_id := hub.new_repo("recbase-tokenizer"))
    tokenizer.push_to_hub(items_id := hub.new_repo("recbase-items"), include_network=False)
    assert type(AutoModel.from_pretrained(repo_id)) is RecBaseTokenizerModel
    assert "model.safetensors" not in files_of(items_id)
    with torch.no_grad():  # the encoder has other weights from now on
        backbone.embeddings.word_embeddings.weight.mul_(1.5)
    backbone.push_to_hub(encoder_id)
    backbone.embeddings.word_embeddings.weight.data.div_(1.5)
    assert TextEncoder.from_pretrained(encoder_id).fingerprint != encoder.fingerprint
    late = [{"item_id": "late", "title": "red steel"}]
    for pulled in map(UniversalItemTokenizer.from_pretrained, (repo_id, items_id)):
        np.testing.assert_array_equal(pulled.index.codes, tokenizer.index.codes)
        assert pulled.fingerprint == tokenizer.fingerprint
        pulled.add_items(late)  # network and encoder come from their repositories
        assert pulled.decode(pulled.encode("late")) == "late"
        assert pulled.processor.encoder.name == encoder_id and pulled.processor.encoder.revision == encoder.revision
    embed_items(catalogue, encoder, tmp_path / "embeddings")
    assert load_content(tmp_path / "embeddings").encoder["revision"] == encoder.revision
    EmbeddingProcessor(RQVAEConfig(input_dim=embeddings.shape[1]), encoder).save_pretrained(tmp_path)
    again = EmbeddingProcessor.from_pretrained(tmp_path, RQVAEConfig(input_dim=embeddings.shape[1]))
    assert again.encoder.fingerprint == encoder.fingerprint
