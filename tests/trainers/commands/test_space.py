"""The page of `utgrec space`: its views, bounded and with all text as text, and its construction in gradio."""

import os
import re
import shutil
import time
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import pytest
from huggingface_hub import HfApi
from PIL import Image

from tokenization_items.catalogue import Catalogue
from trainers import Recommender
from trainers.commands import publish, run_command
from trainers.commands import space_views as views
from trainers.commands.space import SpaceArguments, run
from trainers.methods.explorer import Explorer

EVIL = "<script>alert('x')</script> & pen"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    orders = [
        (f"c{user}", f"p{(user + 5 * step) % 40}", step) for user in range(80) for step in range(rng.integers(3, 7))
    ]
    products = [
        {"id": f"p{row}", "name": f"{('blue pen', 'ruler', 'paper', 'ink')[row % 4]} number{row // 4}"}
        for row in range(40)
    ]
    rows = [dict(zip(("customer", "product", "time"), row, strict=True)) for row in orders]
    path = tmp_path_factory.mktemp("shop") / "shop"
    Recommender.from_interactions(rows, products).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def explorer(folder):
    items = [
        {"item_id": f"p{row}", "title": "x", "image": Image.new("RGB", (90, 60), (row, 0, 0))} for row in range(4)
    ]
    recommender = Recommender.from_pretrained(folder)
    recommender.tokenizer.index.titles[3] = EVIL  # which a reader of products would have cleaned
    return Explorer(recommender, Catalogue.from_records(items))


def texts(html):
    return re.sub(r"<[^>]+>", " ", html)


def test_recommendations_have_titles_pictures_and_sources(explorer):
    html = views.recommendations(explorer, "p1\np6", 4)
    found = explorer.recommend("p1\np6", 4)
    assert html.count('class="u-item"') == 4 and "bought after" in html
    for each in found:
        assert each.item.item_id in html and " · ".join(map(str, each.item.codes)) in html
    assert html.count("data:image/jpeg;base64,") == sum(
        each.item.item_id in ("p0", "p1", "p2", "p3") for each in found
    )
    assert "what was bought most" in views.recommendations(explorer, "")


def test_what_comes_from_outside_is_text(explorer):
    for html in (
        views.recommendations(explorer, "p3", 10),
        views.tree_view(explorer, explorer.item("p3").codes).items,
        views.recommendations(explorer, EVIL),
        views.introduction(explorer, EVIL),
        views.located(explorer, EVIL).path,
    ):
        assert "<script" not in html and "&lt;script&gt;alert" in html


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nobody",), "None of the 40 items has the id"),
        (("\x00\ud800",), "None of the 40 items"),
        (("p1", 51), "1 to 50 items"),
        (("p1", 5, True, "p2", "p2"), "The rules leave no item"),
        (("x" * 30_000,), "at most 20,000 are read"),
    ],
)
def test_errors_are_read_in_the_page(explorer, arguments, message):
    html = views.recommendations(explorer, *arguments)
    assert 'role="alert"' in html and message in texts(html)


def test_a_mistake_in_the_program_is_told_without_its_text(explorer, monkeypatch, caplog):
    monkeypatch.setattr(explorer, "recommend", lambda *_: {}["secret"])
    assert "Something went wrong" in (html := views.recommendations(explorer, "p1")) and "secret" not in html
    assert "secret" in caplog.text


def test_tree_in_parts(explorer):
    view = views.tree_view(explorer)
    branches, total = explorer.tree.branches(())
    assert view.total == total == len(branches) and len(view.choices) == min(views.BRANCHES, total)
    assert view.choices[0][1] == str(branches[0].prefix[0]) and f"{branches[0].num_items} items" in view.choices[0][0]
    assert all(word in view.choices[0][0] for word in branches[0].words)
    inside = views.tree_view(explorer, branches[0].prefix)
    assert inside.items.count('class="u-item"') == min(views.ITEMS, branches[0].num_items)
    assert f"Items of {branches[0].prefix[0]}" in inside.items
    turned = views.tree_view(explorer, (), 1)
    assert [value for _, value in turned.choices] == [str(each.prefix[0]) for each in branches[1 : 1 + views.BRANCHES]]


def test_places_in_the_tree(explorer):
    codes = explorer.item("p7").codes
    view = views.located(explorer, " p7 ")
    assert view.prefix == codes[: len(view.prefix)] and len(explorer.tree.rows(view.prefix)) > 1
    assert all(len(explorer.tree.rows(codes[:length])) == 1 for length in range(len(view.prefix) + 1, len(codes) + 1))
    for text in (" ".join(map(str, codes)), ", ".join(map(str, codes)), str(codes), " · ".join(map(str, codes))):
        assert views.located(explorer, text).prefix == codes
    assert views.located(explorer, "").prefix == ()
    for text, message in (("999999999 1", "Level 1 has the codes"), ("0 " * 9, "codes,"), ("nobody", "None of the")):
        assert message in texts(views.located(explorer, text).path)


def test_a_new_product_and_health(explorer):
    html = views.new_product(explorer, {"title": explorer.item("p5").title})
    assert "cosine" in html and "Items with most codes in common" in html and "&lt;" not in html
    assert "give it a title" in texts(views.new_product(explorer, {"title": " "}))
    html = views.health(explorer)
    assert html.count("<tr>") == 1 + explorer.index.num_levels
    assert html.count("data:image/png;base64,") == explorer.index.num_levels  # digits have none, prefixes have one


def test_search_is_bounded(explorer):
    assert len(views.found(explorer, "p")) == 8
    assert views.found(explorer, "number1 RULER") == [("ruler number1 (p5)", "p5")]
    assert len(views.shortened("x" * 500)) == views.LABEL


def test_a_large_catalogue_is_never_sent_whole(explorer, tmp_path):
    from tokenization_items.item_index import ItemIndex
    from tokenization_items.tokenization_items import UniversalItemTokenizer

    number, rng = 100_000, np.random.default_rng(0)
    index = ItemIndex([256, 256, 4], [1, 257, 513])
    codes = np.stack(np.unravel_index(rng.permutation(256 * 256 * 4)[:number], (256, 256, 4)), 1)
    words = np.array([f"word{each}" for each in range(2000)])
    index.assign(
        [f"i{row}" for row in range(number)],
        codes,
        titles=[" ".join(each) for each in words[rng.integers(0, 2000, (number, 5))]],
    )
    tokenizer = UniversalItemTokenizer(index, None)
    large = Explorer(SimpleNamespace(tokenizer=tokenizer, memory=None))
    views.tree_view(large)
    began = time.process_time()
    parts = [
        views.tree_view(large),
        views.tree_view(large, (3,)),
        views.tree_view(large, (), 240),
        views.found(large, "word7 word1"),
    ]
    assert time.process_time() - began < 5
    assert all(len(str(part)) < 30_000 for part in parts)


@pytest.mark.hub
def test_a_quickstart_that_was_published_tokenizes_new_products(folder, explorer, hub, tmp_path):
    name = hub.new_repo("shop")
    try:
        shutil.copytree(folder, tmp_path / "shop")
        publish.run(publish.PublishArguments(name=name, recommender=str(tmp_path / "shop"), push=True))
        loaded = Explorer.from_pretrained(f"{name}-recommender")
        fields = {"title": "blue pen 99"}
        assert loaded.new_product(fields).codes == explorer.new_product(fields).codes
        assert [each.item.item_id for each in loaded.recommend("p1")] == [
            each.item.item_id for each in explorer.recommend("p1")
        ]
    finally:
        HfApi().delete_repo(f"{name}-recommender", missing_ok=True)


def test_flags():
    with pytest.raises(SystemExit, match="--port"):
        SpaceArguments("m", port=0)
    with pytest.raises(SystemExit, match="no folder here"):
        run_command("space", ["nobody/nothing-like-it"])


def test_the_page_is_built_and_served_from_here(folder, capsys):
    import gradio as gr

    address = run(SpaceArguments(str(folder), port=free_port()), wait=False)
    try:
        assert address.startswith("http://127.0.0.1:")
        page = urlopen(address).read().decode()
        config = urlopen(f"{address}config").read().decode()
        for name in ("Recommend", "Semantic IDs", "New product", "Health"):
            assert name in config
        assert "fonts.googleapis" not in page + config and len(config) < 200_000
        assert f"open {address}" in capsys.readouterr().out
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        info = urlopen(f"{address}gradio_api/info").read().decode()
        assert '"named_endpoints":{}' in info.replace(" ", "")
    finally:
        gr.close_all()


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
