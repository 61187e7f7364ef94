"""Facts about a training for its card."""

import pytest

import modeling_utgrec
from hub_cards import METHODS
from trainers.hub.model_facts import method_of, place_name

OF_ONE_METHOD = {
    "UTGRecTokenizerConfig": "UTGRec",
    "RecBaseTokenizerConfig": "RecBase",
    "RecBaseConfig": "RecBase",
    "SASRecConfig": "SASRec",
    "GRU4RecConfig": "GRU4Rec",
    "BERT4RecConfig": "BERT4Rec",
    "FMLPRecConfig": "FMLP-Rec",
    "BSARecConfig": "BSARec",
    "HSTUConfig": "HSTU",
    "FDSAConfig": "FDSA",
    "S3RecConfig": "S3-Rec",
    "MISSRecConfig": "MISSRec",
    "UniSRecConfig": "UniSRec",
    "VQRecConfig": "VQ-Rec",
    "ItemLevelConfig": "Item-level recommender",
}
OF_SEVERAL = {"UTGRecConfig", "RQVAEConfig"}  # a T5 on the codes of any item tokenizer; TIGER's and LETTER's network


def test_every_configuration_tells_its_method_or_none():
    configs = {name for name in modeling_utgrec.__all__ if name.endswith("Config")} - {"SequentialConfig"}
    assert configs == OF_ONE_METHOD.keys() | OF_SEVERAL


@pytest.mark.parametrize("name", OF_ONE_METHOD)
def test_a_network_of_one_method(name):
    assert METHODS[method_of(getattr(modeling_utgrec, name))].title == OF_ONE_METHOD[name]


@pytest.mark.parametrize("name", sorted(OF_SEVERAL))
def test_a_network_of_several_methods(name):
    assert method_of(getattr(modeling_utgrec, name)) is None


def test_of_a_folder_its_name_is_told_and_of_a_repository_its_id(tmp_path, monkeypatch):
    (tmp_path / "office" / "tokenizer").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "office")
    for name in (str(tmp_path / "office" / "tokenizer"), "tokenizer", "../office/tokenizer"):
        assert (place_name(name), place_name(name, 2)) == ("tokenizer", "office/tokenizer")
    assert place_name("/gone/far/away") == "away" and place_name("org/encoder") == "org/encoder"
    assert place_name(".", 2).endswith("/office")
