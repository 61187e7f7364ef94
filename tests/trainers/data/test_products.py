"""Products without orders: the texts that the quick start reads, images and addresses, and rows that are refused."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tokenization_items import remote_images
from tokenization_items.item_files import CatalogueError
from trainers.data.column_guesses import ProductColumns
from trainers.data.prepared_images import cache_path
from trainers.data.products import read_products
from trainers.data.readers.base import ReadError
from trainers.data.shop import read_shop

PRODUCTS = """Artikelnr;Titel;Warengruppe;Preis;Farbe
A1;Käsemesser;Küche;12,99;rot wie Blut
A2;<b>Löffel</b>;Küche;1.299,00;blau wie See
A3;;Büro;;grün wie Gras
"""


def write(folder, text, name="products.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_texts_are_those_of_the_quick_start(tmp_path, encoding):
    file = write(tmp_path, PRODUCTS, encoding=encoding)
    found = read_products(file)
    orders = pl.DataFrame({"kunde": ["a", "a", "b"], "artikel": ["A1", "A2", "A3"], "zeit": [1, 2, 3]})
    shop = read_shop(orders, file)
    assert found.catalogue.item_ids == ["A1", "A2", "A3"] and found.catalogue.name == "products"
    assert found.catalogue.texts == shop.domain.catalogue.texts
    assert found.catalogue.titles == ["Käsemesser", "Löffel", ""]
    assert found.catalogue.texts[0] == "Käsemesser. rot wie Blut, price 10 to 20. Küche"
    assert found.columns == ProductColumns("Artikelnr", "Titel", "Preis", ("Warengruppe", "Farbe"))
    for line in (
        "id        Artikelnr",
        "price     Preis",
        "text      Farbe",
        "products.csv: 3 rows (csv, separator ';'",
    ):
        assert line in found.describe_columns()


def test_columns_that_are_named_and_those_of_the_last_time(tmp_path):
    file = write(tmp_path, PRODUCTS)
    named = read_products(file, ["id=Farbe", "title=-", "price=-", "text=Farbe"])
    assert named.catalogue.texts[1] == "blau wie See" and named.columns == ProductColumns("Farbe", text=("Farbe",))
    again = read_products(file, known=ProductColumns("Artikelnr", text=("Farbe",)))
    assert again.catalogue.texts == ["rot wie Blut", "blau wie See", "grün wie Gras"]
    other = read_products(file, {"item_id": "Artikelnr", "text": "Titel"}, known=named.columns)
    assert other.columns == ProductColumns("Artikelnr", text=("Titel",))
    with pytest.raises(ReadError, match="no column 'Farbe', which text was to be; it has 'x', 'y'.*text=-"):
        read_products(pl.DataFrame({"x": ["1"], "y": ["a b"]}), {"id": "x"}, known=named.columns)
    with pytest.raises(ReadError, match="expected role=column with a role of id, title, price, text, image"):
        read_products(file, ["user=Titel"])


def test_further_fields_are_read_as_they_are(tmp_path):
    found = read_products(write(tmp_path, PRODUCTS), ["text=-", "price=-"], text_fields=["Farbe", "title"])
    assert found.catalogue.texts[0] == "rot wie Blut. Käsemesser"
    with pytest.raises(ReadError, match="no column 'material' for the text"):
        read_products(tmp_path / "products.csv", text_fields=["title", "material"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sku,name\na,red pen\n,ink\nb,blue pen\n,glue\n", r"2 rows have no id in the column 'sku': .*line 3.*line 5"),
        ("sku,name\na,red\nb,ink\na,blue\nc,d\nd,e\n", r"1 ids of the column 'sku' occur .*'a' in lines 2, 4"),
        ("nichts,gar\n1.5,rot\n1.5,blau\n", "no column is plainly the products' id.*--columns id=NAME"),
    ],
)
def test_rows_without_an_id_of_their_own_are_named(tmp_path, text, message):
    with pytest.raises(ReadError, match=message):
        read_products(write(tmp_path, text))


def png(colour: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(content, "PNG")
    return content.getvalue()


def test_images_are_paths_or_addresses(tmp_path, monkeypatch):
    (tmp_path / "red.png").write_bytes(png("red"))
    file = write(
        tmp_path,
        "sku,name,image_url\na,red pen,red.png\nb,ink,https://cdn.example.com/b.png\nc,glue,\nd,cup,//x.org/d.png\n"
        "e,map,https://cdn.example.com/e.png\n",
    )

    def refused(*_):
        raise AssertionError("something was fetched")

    monkeypatch.setattr(remote_images, "_request", refused)
    found = read_products(file)
    assert found.columns.image == "image_url"
    assert [found.catalogue.has_image(row) for row in range(5)] == [True, False, False, False, False]
    assert found.catalogue.image(0).getpixel((0, 0)) == (255, 0, 0)
    assert "3 addresses, which are not fetched without --download_images" in found.describe_columns()
    asked = []

    def answer(address, timeout, ends):
        asked.append(address)
        if "e.png" in address:
            raise remote_images.RemoteImageError("HTTP 404 Not Found")
        return png("blue"), address

    monkeypatch.setattr(remote_images, "_request", answer)
    fetched = read_products(file, image_cache=tmp_path / "cache")
    assert [fetched.catalogue.has_image(row) for row in range(5)] == [True, True, False, True, False]
    assert fetched.catalogue.image(1).getpixel((0, 0)) == (0, 0, 255)
    assert "3 addresses, 2 of them fetched; 1 could not be" in fetched.describe_columns()
    assert cache_path(tmp_path / "cache", "https://cdn.example.com/b.png").is_file()
    asked.clear()
    read_products(file, image_cache=tmp_path / "cache")
    assert asked == ["https://cdn.example.com/e.png"]  # what is there is not fetched again


def test_private_addresses_are_refused(tmp_path):
    file = write(tmp_path, "sku,name,image\na,pen,https://127.0.0.1/a.png\nb,ink,http://example.com/b.png\n")
    found = read_products(file, image_cache=tmp_path / "cache")
    assert not any(found.catalogue.has_image(row) for row in range(2))
    assert "0 of them fetched; 2 could not be" in found.notes["image"] and "no public address" in found.notes["image"]


def test_paths_stay_in_the_folder_of_the_file(tmp_path):
    (tmp_path / "out.png").write_bytes(png("red"))
    (tmp_path / "in").mkdir()
    found = read_products(write(tmp_path / "in", "sku,name,image\na,pen,../out.png\nb,ink,\n"))
    with pytest.raises(CatalogueError, match="leads out of the folder"):
        found.catalogue.image(0)


def test_images_of_data_frames(tmp_path):
    images = [{"bytes": png("red"), "path": None}, {"bytes": None, "path": "https://x.org/a.png"}, None]
    frame = pl.DataFrame({"id": [7, 8, 9], "title": ["a b", "c d", "e f"], "image": images})
    found = read_products(frame)
    assert found.catalogue.item_ids == ["7", "8", "9"]
    assert [found.catalogue.has_image(row) for row in range(3)] == [True, False, False]
    assert np.asarray(found.catalogue.image(0)).shape == (4, 4, 3)
    with pytest.raises(ReadError, match="holds no images"):
        read_products(pl.DataFrame({"id": ["a"], "title": ["b c"], "image": [3]}))
    several = pl.DataFrame({"id": ["a", "b"], "images": [[str(tmp_path / "x.png"), "y"], []]})
    assert [read_products(several).catalogue.has_image(row) for row in range(2)] == [True, False]
