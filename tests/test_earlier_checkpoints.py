"""Checkpoints that earlier versions saved: they load, and give the codes and recommendations that they gave then.

See checkpoints/version_0_1/README.md. Only what users import is used here: whatever moves within the packages, these
tests stay as they are.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    configuration_utils,
    pipeline,
)

from tokenization_items import Catalogue, ItemIndex, TextTemplate, UniversalItemTokenizer

FOLDER = Path(__file__).parent / "checkpoints" / "version_0_1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
TOKENIZERS = ["utgrec_tokenizer_text", "utgrec_tokenizer_qwen2_vl", "recbase_tokenizer"]
RECOMMENDERS = {
    "utgrec_recommender": AutoModelForSeq2SeqLM,
    "utgrec_recommender_causal_items": AutoModelForSeq2SeqLM,
    "recbase_recommender": AutoModelForCausalLM,
}
RQVAES = ["tiger", "letter"]
SEQUENTIAL = ["bert4rec", "bsarec", "fmlprec", "gru4rec", "hstu", "sasrec"]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # of scores, which differ from one CPU to the next
NUM_ITEMS = 12  # with identifiers; the items after them are new


@pytest.fixture(autouse=True)
def within_the_folder(monkeypatch):
    """Two checkpoints name a network that lies beside them."""
    monkeypatch.chdir(FOLDER)


def catalogue_of(kind: str) -> Catalogue:
    return Catalogue.from_folder(FOLDER / "items", template=TextTemplate() if kind.startswith("recbase") else None)


def known_items(kind: str) -> Catalogue:
    return catalogue_of(kind).select(range(NUM_ITEMS))


def new_items(kind: str) -> Catalogue:
    return catalogue_of(kind).select([NUM_ITEMS])


def load(auto_class: type, folder: str) -> PreTrainedModel:
    """The model of a folder, and every weight of its file."""
    model, report = auto_class.from_pretrained(FOLDER / folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert type(model).__module__.startswith("modeling_utgrec."), "the installed one"
    return model.eval()


def check_index(tokenizer: UniversalItemTokenizer, expected: dict) -> None:
    """From item to identifier and back, and what ties the index to networks."""
    item_ids = known_items("items").item_ids
    assert tokenizer.index.item_ids == item_ids and len(tokenizer) == NUM_ITEMS
    assert [tokenizer.encode(item_id) for item_id in item_ids] == expected["identifiers"]
    assert [tokenizer.decode(tokens) for tokens in expected["identifiers"]] == item_ids
    assert tokenizer.index.level_sizes == expected["level_sizes"]
    assert tokenizer.index.level_offsets == expected["level_offsets"]
    assert tokenizer.fingerprint == expected["fingerprint"]
    assert tokenizer.index.checksum == expected["index_sha256"]


def history_rows(expected: dict) -> list[list[int]]:
    rows = {item_id: row for row, item_id in enumerate(known_items("items").item_ids)}
    return [[rows[item_id] for item_id in history] for history in expected["histories"]]


def test_every_folder_is_tested():
    assert {*TOKENIZERS, *RECOMMENDERS, *RQVAES, *SEQUENTIAL} == set(EXPECTED)
    beside = {"items", "text_encoder", "qwen2_vl_backbone"}
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == set(EXPECTED) | beside


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_item_tokenizers_give_the_same_codes(kind):
    expected = EXPECTED[kind]
    tokenizer = UniversalItemTokenizer.from_pretrained(FOLDER / kind)
    assert tokenizer.has_network
    check_index(tokenizer, expected)
    codes, _ = tokenizer.compute_codes(known_items(kind), progress=False)
    assert codes.tolist() == expected["codes"]
    assert tokenizer.compute_codes(new_items(kind), progress=False)[0].tolist() == [expected["new_codes"]]
    tokenizer.add_items(new_items(kind), progress=False)
    assert [tokenizer.encode(item_id) for item_id in new_items(kind).item_ids] == [expected["new_identifier"]]
    assert tokenizer.index.token_table[:NUM_ITEMS].tolist() == expected["identifiers"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_networks_make_the_same_index_anew(kind):
    network = load(AutoModel, kind)
    processor = UniversalItemTokenizer.from_pretrained(FOLDER / kind).processor
    tokenizer = UniversalItemTokenizer.from_network(network, processor)
    assert tokenizer.fingerprint == EXPECTED[kind]["fingerprint"]
    tokenizer.add_items(known_items(kind), progress=False)
    check_index(tokenizer, EXPECTED[kind])


@pytest.mark.parametrize("kind", ["utgrec_tokenizer_text", "utgrec_tokenizer_qwen2_vl"])
def test_an_item_tokenizer_is_made_of_network_and_processor(kind):
    network, processor = load(AutoModel, kind), AutoProcessor.from_pretrained(FOLDER / kind)
    tokenizer = UniversalItemTokenizer.from_network(network, processor)
    assert tokenizer.fingerprint == EXPECTED[kind]["fingerprint"]
    assert (processor.image_processor is not None) == (kind == "utgrec_tokenizer_qwen2_vl")


def test_the_text_encoder_is_the_one_that_recbase_names():
    tokenizer = UniversalItemTokenizer.from_pretrained(FOLDER / "recbase_tokenizer")
    found = tokenizer.processor.encoder.fingerprint  # of the files
    assert found == EXPECTED["recbase_tokenizer"]["text_encoder_fingerprint"]
    assert found == tokenizer.network.config.text_encoder_fingerprint
    assert tokenizer.network.config.centre_domains and tokenizer.domain_mean is not None


@pytest.mark.parametrize("kind", RECOMMENDERS)
def test_recommenders_give_the_same_recommendations(kind):
    expected = EXPECTED[kind]
    model, tokenizer = load(RECOMMENDERS[kind], kind), UniversalItemTokenizer.from_pretrained(FOLDER / kind)
    assert model.config.item_tokenizer_fingerprint == tokenizer.fingerprint == expected["fingerprint"]
    tokenizer.check_recommender(model)
    histories = tokenizer(expected["histories"], return_tensors="pt")
    output = model.recommend(**histories, trie=tokenizer.trie, num_items=NUM_ITEMS, num_beams=16)
    assert output.item_ids == expected["recommended"]
    torch.testing.assert_close(output.scores, torch.tensor(expected["scores"]), **TOLERANCE)

    scored = model.score_items(**histories, trie=tokenizer.trie, candidates=output.item_rows)
    torch.testing.assert_close(scored, torch.tensor(expected["scores"]), **TOLERANCE)
    seen = [torch.tensor(rows) for rows in history_rows(expected)]
    output = model.recommend(
        **histories,
        trie=tokenizer.trie,
        num_items=len(expected["recommended_unseen"][0]),
        num_beams=16,
        exclude=torch.nn.utils.rnn.pad_sequence(seen, batch_first=True, padding_value=-1),
    )
    assert output.item_ids == expected["recommended_unseen"]


@pytest.mark.parametrize("kind", RECOMMENDERS)
def test_the_index_beside_a_recommender(kind):
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / kind)
    assert type(tokenizer) is UniversalItemTokenizer and not tokenizer.has_network
    source = EXPECTED[EXPECTED[kind]["tokenizer"]]
    check_index(tokenizer, source | EXPECTED[kind])
    tokenizer.add_items(new_items(EXPECTED[kind]["tokenizer"]), progress=False)  # with the network of another folder
    assert tokenizer.encode(new_items(kind).item_ids[0]) == source["new_identifier"]


@pytest.mark.parametrize("kind", RECOMMENDERS)
def test_the_pipeline_takes_a_recommenders_folder(kind):
    expected = EXPECTED[kind]
    found = pipeline("item-recommendation", model=str(FOLDER / kind), device="cpu")(expected["histories"], top_k=7)
    titles = dict(zip(known_items(kind).item_ids, known_items(kind).titles, strict=True))
    assert [[entry["item_id"] for entry in user] for user in found] == expected["recommended_unseen"]
    assert all(entry["title"] == titles[entry["item_id"]] for user in found for entry in user)


@pytest.mark.parametrize("kind", RQVAES)
def test_rqvaes_give_the_same_codes(kind):
    expected = EXPECTED[kind]
    tokenizer = UniversalItemTokenizer.from_pretrained(FOLDER / kind)
    assert not tokenizer.has_network
    check_index(tokenizer, expected)
    network = load(AutoModel, f"{kind}/network")
    embeddings = json.loads((FOLDER / "items" / "embeddings.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        output = network(torch.tensor(embeddings))
        vectors = [vectors.numpy() for vectors in network.quantizer.level_vectors()]
    codes = output.codes.numpy()
    assert codes.tolist() == expected["codes"]
    assert len(np.unique(codes, axis=0)) < NUM_ITEMS, "some items share their codes"
    if kind == "tiger":  # one more level
        np.testing.assert_array_equal(tokenizer.index.codes[:, :-1], codes)
    else:
        index = ItemIndex(expected["level_sizes"], expected["level_offsets"])
        index.assign(tokenizer.index.item_ids, codes, output.residuals.numpy(), vectors)
        np.testing.assert_array_equal(index.codes, tokenizer.index.codes)


@pytest.mark.parametrize("kind", SEQUENTIAL)
@torch.no_grad()
def test_sequential_models_give_the_same_recommendations(kind):
    expected = EXPECTED[kind]
    rows = history_rows(expected)
    longest = max(map(len, rows))
    input_ids = torch.tensor([[0] * (longest - len(history)) + [row + 1 for row in history] for history in rows])
    model = load(AutoModelForCausalLM, kind)
    scores = model.user_states(input_ids) @ model.item_embeddings.T
    if model.item_bias is not None:
        scores = scores + model.item_bias
    best, order = scores.sort(dim=1, descending=True)
    item_ids = known_items(kind).item_ids
    assert [[item_ids[row] for row in user] for user in order.tolist()] == expected["recommended"]
    torch.testing.assert_close(best, torch.tensor(expected["scores"]), **TOLERANCE)

    encoder = AutoModel.from_pretrained(FOLDER / kind).eval()
    mask = input_ids != 0
    states = encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(states[mask], model(input_ids=input_ids).last_hidden_state[mask])


# What a process does that has transformers and torch, and none of our packages.
STRANGER = """
import importlib, json, sys

for package in ("modeling_utgrec", "tokenization_items", "trainers", "hub_cards"):
    sys.modules[package] = None  # importing it is an ImportError

import torch, transformers
from safetensors.torch import load_file

found = {}
for kind, auto_class in json.loads(sys.argv[1]).items():
    model = getattr(transformers, auto_class).from_pretrained(f"{sys.argv[2]}/{kind}", trust_remote_code=True)
    package, _, _ = type(model).__module__.rpartition(".")
    assert package.startswith("transformers_modules."), package
    inputs = load_file(f"{kind}.safetensors")
    with torch.no_grad():
        if "codes" in inputs:  # the items of a recommender
            tries, config = importlib.import_module(f"{package}.item_trie"), model.config
            trie = tries.ItemTrie(inputs.pop("codes"), config.level_sizes, config.level_offsets)
            output = model.recommend(**inputs, trie=trie, num_items=trie.num_items, num_beams=16)
            found[kind] = {"rows": output.item_rows.tolist(), "scores": output.scores.tolist()}
        else:
            found[kind] = {"codes": model.eval()(**inputs).codes.tolist()}
json.dump(found, open("found.json", "w"))
"""


@pytest.mark.skipif(not hasattr(configuration_utils, "SubConfigSpec"), reason="the code of 0.1 is for 5.20 and later")
def test_checkpoints_with_their_code_load_without_our_packages(tmp_path):
    tokenizer = UniversalItemTokenizer.from_pretrained(FOLDER / "utgrec_tokenizer_text")
    texts = tokenizer.processor.encode_texts(known_items("utgrec_tokenizer_text").texts)
    save_file(tokenizer.processor.collate(texts), tmp_path / "utgrec_tokenizer_text.safetensors")
    expected = EXPECTED["utgrec_recommender"]
    histories = dict(tokenizer(expected["histories"], return_tensors="pt"))
    histories["codes"] = torch.from_numpy(tokenizer.index.codes.copy())
    save_file(histories, tmp_path / "utgrec_recommender.safetensors")

    classes = {"utgrec_tokenizer_text": "AutoModel", "utgrec_recommender": "AutoModelForSeq2SeqLM"}
    process = subprocess.run(
        [sys.executable, "-c", STRANGER, json.dumps(classes), str(FOLDER)],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "home")},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["utgrec_tokenizer_text"]["codes"] == EXPECTED["utgrec_tokenizer_text"]["codes"]
    item_ids = tokenizer.index.item_ids
    recommended = [[item_ids[row] for row in user] for user in found["utgrec_recommender"]["rows"]]
    assert recommended == expected["recommended"]
    scores = torch.tensor(found["utgrec_recommender"]["scores"])
    torch.testing.assert_close(scores, torch.tensor(expected["scores"]), **TOLERANCE)


def test_the_installed_packages_come_before_the_code_of_a_checkpoint():
    for kind, auto_class in (("utgrec_tokenizer_text", AutoModel), ("utgrec_recommender", AutoModelForSeq2SeqLM)):
        model = auto_class.from_pretrained(FOLDER / kind, trust_remote_code=True)
        assert type(model).__module__.startswith("modeling_utgrec.")
