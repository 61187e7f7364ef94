"""The script that embeds a catalogue."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from tokenization_items import Catalogue
from tokenization_items.item_embeddings import load_embeddings
from tokenization_items.text_encoders import TextEncoder
from tokenization_items.text_statistics import tf_idf_embeddings
from trainers.commands.embed import main, without_input


def test_embeds_once(tmp_path, tiny_bert, capsys):
    data, encoder, output = tmp_path / "toys", tmp_path / "encoder", tmp_path / "out"
    data.mkdir()
    items = [{"item_id": f"t{i}", "title": title, "brand": "oak"} for i, title in enumerate(["red amp", "blue bow"])]
    (data / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    backbone, tokenizer, _ = tiny_bert
    backbone.save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    flags = ["--data", data, "--encoder", encoder, "--output_dir", output, "--text_fields", "title"]
    flags += ["--pooling", "cls", "--normalize", "true"]
    main(list(map(str, flags)))
    assert "toys: texts of 2 items embedded into" in capsys.readouterr().out
    catalogue = Catalogue.from_folder(data, text_fields=["title"])
    expected = TextEncoder.from_pretrained(encoder, pooling="cls", normalize=True).embed(catalogue.texts)
    np.testing.assert_array_equal(load_embeddings(output, ["t1", "t0"]), expected[::-1])
    assert json.loads((output / "embeddings.json").read_text())["text_fields"] == ["title"]
    told = yaml.safe_load((output / "run.yaml").read_text())
    assert (told["data"], told["pooling"], told["text_fields"]) == (str(data), "cls", ["title"])
    main(list(map(str, flags)))
    assert "were already in" in capsys.readouterr().out


def test_items_of_which_there_is_nothing_to_embed_are_named(tmp_path, capsys):
    data = tmp_path / "toys"
    (data / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(data / "images" / "a.png")
    items = [{"item_id": f"t{row}", "title": title} for row, title in enumerate(["red amp", "red bow", ""])]
    items[2]["image"] = "images/a.png"
    (data / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    main(["--data", str(data), "--encoder", "tf-idf", "--output_dir", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert "toys: 1 items have no text" in shown and "'t2'" in shown and "texts of 3 items" in shown
    assert without_input(Catalogue.from_folder(data), images=True) == ["t0", "t1"]


def test_without_an_encoder(tmp_path):
    data, output = tmp_path / "toys", tmp_path / "out"
    data.mkdir()
    titles = ["red amp", "blue bow", "red bow", "blue amp"]
    items = [{"item_id": f"t{row}", "title": title} for row, title in enumerate(titles)]
    (data / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    flags = ["--data", str(data), "--encoder", "tf-idf", "--output_dir", str(output)]
    for unread in (["--pooling", "cls"], ["--images"], ["--prefix", "query: "]):
        with pytest.raises(SystemExit, match=f"tf-idf has no {unread[0]}"):
            main([*flags, *unread])
    assert not output.exists()
    main(flags)
    np.testing.assert_array_equal(load_embeddings(output), tf_idf_embeddings(titles))
    assert json.loads((output / "embeddings.json").read_text())["encoder"] == "tf-idf"
