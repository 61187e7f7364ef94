"""Catalogues in every form they come in, their texts, and images that are broken in every way they come in."""

import gzip
import io
import json
import struct
import types
import zlib
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageOps

from tokenization_items.catalogue import Catalogue, CatalogueError


def picture(size=(40, 30), mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def header_only_png(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 100) + b"IDAT"


def texts_of(*records, **arguments):
    return Catalogue.from_records(
        [{"item_id": row, **record} for row, record in enumerate(records)], **arguments
    ).texts


RECORDS = [
    {"item_id": "b", "title": "Red  shoe", "brand": "Acme", "categories": ["Shoes", "Red"], "image": "b.png"},
    {"item_id": "a", "title": "Sock", "brand": None, "categories": [], "image": None},
    {"item_id": "7", "title": "Hat", "brand": "Ümlaut", "categories": ["Hats"], "image": "7.png"},
]
TEXTS = ["Red shoe. Acme. Shoes, Red", "Sock", "Hat. Ümlaut. Hats"]


def assert_is_the_catalogue(catalogue, root_images=True):
    assert catalogue.item_ids == ["b", "a", "7"] and len(catalogue) == 3
    assert catalogue.texts == TEXTS
    assert catalogue.titles == ["Red shoe", "Sock", "Hat"]
    if root_images:
        assert [catalogue.has_image(row) for row in range(3)] == [True, False, True]
        assert catalogue.image(1) is None
        for row, seed in ((0, 1), (2, 2)):
            assert np.array_equal(np.asarray(catalogue.image(row)), np.asarray(picture(seed=seed)))
        assert catalogue.check() == {"num_items": 3, "num_texts": 3, "num_images": 2, "num_images_checked": 2}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    picture(seed=1).save(folder / "b.png")
    picture(seed=2).save(folder / "7.png")
    return folder


def with_bytes():
    pictures = {"b": encoded(picture(seed=1)), "7": encoded(picture(seed=2))}
    images = [{"bytes": pictures[row["item_id"]], "path": None} if row["image"] else None for row in RECORDS]
    return [row | {"image": image} for row, image in zip(RECORDS, images, strict=True)]


def test_json_lines(folder):
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, RECORDS)) + "\n\n")
    catalogue = Catalogue.from_folder(folder)
    assert catalogue.name == "shop"
    assert_is_the_catalogue(catalogue)


def test_compressed_json_lines(folder):
    with gzip.open(folder / "items.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS))
    assert_is_the_catalogue(Catalogue.from_folder(folder, name="other"))


def test_csv_keeps_ids_and_empty_cells(folder):
    (folder / "items.csv").write_text('item_id,title,brand,image\n007,"Red, shoe",,b.png\n1e5,Sock,Acme,\n')
    catalogue = Catalogue.from_folder(folder)
    assert catalogue.item_ids == ["007", "1e5"] and catalogue.texts == ["Red, shoe", "Sock. Acme"]
    assert catalogue.has_image(0) and not catalogue.has_image(1)


@pytest.mark.parametrize("records", [RECORDS, with_bytes()], ids=["paths", "bytes"])
def test_parquet_images_stay_encoded_until_asked_for(folder, records):
    pq.write_table(pa.Table.from_pylist(records), folder / "items.parquet", row_group_size=2)
    catalogue = Catalogue.from_folder(folder)
    assert isinstance(catalogue.images._sources[0][0], pa.ChunkedArray)
    assert_is_the_catalogue(catalogue)


def test_the_image_feature_of_datasets(folder):
    strings = {name: Value("string") for name in ("item_id", "title", "brand")}
    features = Features(strings | {"categories": [Value("string")], "image": ImageFeature()})
    dataset = Dataset.from_list(with_bytes(), features=features)
    assert_is_the_catalogue(Catalogue.from_records(dataset))
    assert_is_the_catalogue(Catalogue.from_records(dataset.with_format("torch")))
    assert Catalogue.from_records(dataset.select([2, 0])).item_ids == ["7", "b"]
    dataset.to_parquet(folder / "items.parquet")
    assert_is_the_catalogue(Catalogue.from_folder(folder))


def test_polars_frames(folder):
    assert_is_the_catalogue(Catalogue.from_records(pl.DataFrame(RECORDS), image_root=folder))
    assert_is_the_catalogue(Catalogue.from_records(pl.DataFrame(with_bytes())))


def test_pandas_like_frames(folder):
    class Frame(dict):  # the three things of a pandas.DataFrame that are used
        iloc = None

        def __len__(self):
            return len(self["item_id"])

    columns = {name: np.array([record[name] for record in RECORDS] + [None], dtype=object)[:3] for name in RECORDS[0]}
    assert_is_the_catalogue(Catalogue.from_records(Frame(columns), image_root=folder))


def test_dictionaries_and_pictures(folder):
    assert_is_the_catalogue(Catalogue.from_records(RECORDS, image_root=folder))
    assert_is_the_catalogue(Catalogue.from_records(iter(with_bytes())))
    pictures = [picture(seed=1), None, encoded(picture(seed=2))]
    records = [record | {"image": image} for record, image in zip(RECORDS, pictures, strict=True)]
    assert_is_the_catalogue(Catalogue.from_records(records))
    assert_is_the_catalogue(
        Catalogue.from_records([{k: v for k, v in r.items() if k != "image"} for r in RECORDS]), root_images=False
    )


def test_text_fields_are_joined_in_order():
    record = {"description": "D", "categories": ["C", "E"], "features": [], "brand": " ", "title": "T", "price": 3}
    assert texts_of(record) == ["T. C, E. D"]
    assert texts_of(record, text_fields=("price", "title")) == ["3. T"]
    # of two shops one may have no brands
    assert texts_of({"title": "T"}, text_fields=("brand", "title", "features")) == ["T"]


def test_texts_keep_braces_and_lose_control_characters():
    assert texts_of({"title": "{brand} {{x}} {0}\x00\x1b[31m\u0085a\tb\r\n c\u00a0\u2028 %s \ud800"}) == [
        "{brand} {{x}} {0} [31m a b c %s"
    ]


def test_field_values_of_any_type():
    values = [
        ["a", None, ["b", ""], float("nan")],
        np.array(["a", "b"]),
        np.array([["a"], ["b"]], dtype=object),
        float("nan"),
        None,
        np.float32("nan"),
        12,
        {"Color": "red", "Size": None},
        ("a", 2.5),
    ]
    assert texts_of(*({"title": value, "brand": "x"} for value in values)) == [
        "a, b. x",
        "a, b. x",
        "a, b. x",
        "x",
        "x",
        "x",
        "12. x",
        "Color: red. x",
        "a, 2.5. x",
    ]


def test_bytes_are_texts_in_utf_8(folder):
    """As Spark and Impala write texts, whose files do not say that they are."""
    pq.write_table(pa.table({"item_id": [3], "title": pa.array(["Grüner Hut".encode()])}), folder / "items.parquet")
    assert Catalogue.from_folder(folder).texts == ["Grüner Hut"] == Catalogue.from_folder(folder).titles
    assert texts_of({"title": [b"a", "b"]}, {"title": np.array([b"a"])}) == ["a, b", "a"]
    with pytest.raises(CatalogueError, match=r"column title: b'Gr\\xfcn' is no text in UTF-8"):
        texts_of({"title": "Grün".encode("latin-1")})


def test_the_order_of_a_set_is_the_same_in_each_process():
    assert texts_of({"title": {"red", "blue", "green"}}, {"title": frozenset({2, 10})}) == [
        "blue, green, red",
        "10, 2",
    ]


def test_integer_ids_become_strings():
    records = [{"item_id": 3, "title": "a"}, {"item_id": np.int64(4), "title": "b"}]
    assert Catalogue.from_records(records).item_ids == ["3", "4"]
    assert Catalogue.from_records(pl.DataFrame({"item_id": [3, 4], "title": ["a", "b"]})).item_ids == ["3", "4"]


def test_whole_floating_point_ids_are_the_integers_and_others_an_error():
    assert Catalogue.from_records([{"item_id": 1, "title": "a"}, {"item_id": 2.0, "title": "b"}]).item_ids == [
        "1",
        "2",
    ]
    with pytest.raises(CatalogueError, match=r"row 1: item_id '2.5' of type float is no id; make it a string"):
        Catalogue.from_records([{"item_id": 1, "title": "a"}, {"item_id": 2.5, "title": "b"}])


@pytest.mark.parametrize(
    ("records", "arguments", "message"),
    [
        ([{"asin": "a", "title": "b"}], {}, r"no column item_id; found \['title'\]"),
        ([{"item_id": "a", "name": "b"}], {}, "neither an image column nor one of the text fields"),
        ([{"item_id": "a", "title": "b"}], {"text_fields": ("title", "colour")}, r"text fields \['colour'\]"),
        ([{"item_id": "a", "image": 3}], {}, "column image: row 0: an image is a path, .* got int"),
        (pl.DataFrame({"item_id": ["a"], "image": [[1.0]]}), {}, "column image: .* got Arrow type large_list"),
        (["a"], {}, "row 0: expected a dictionary, got str"),
        ("items", {}, "records are a Dataset, a DataFrame or dictionaries, got str"),
        (types, {}, "got module"),
    ],
)
def test_records_of_another_form_are_an_error(records, arguments, message):
    with pytest.raises(CatalogueError, match=message):
        Catalogue.from_records(records, **arguments)


def test_folders_without_one_readable_file_are_an_error(tmp_path):
    with pytest.raises(CatalogueError, match="expected exactly one of .* found none"):
        Catalogue.from_folder(tmp_path)
    lines = tmp_path / "items.jsonl"
    lines.write_text('{"item_id": "a", "title": "b"}\n{"item_id": ')
    with pytest.raises(CatalogueError, match=r"items.jsonl, line 2: not JSON"):
        Catalogue.from_folder(tmp_path)
    lines.write_text("[1]")
    with pytest.raises(CatalogueError, match=r"line 1: expected an object, found list"):
        Catalogue.from_folder(tmp_path)
    lines.write_bytes(b'{"item_id": "\xff"}')
    with pytest.raises(CatalogueError, match="items.jsonl cannot be read"):
        Catalogue.from_folder(tmp_path)
    lines.write_text('{"title": "b"}')
    with pytest.raises(CatalogueError, match=r"items.jsonl: no column item_id"):
        Catalogue.from_folder(tmp_path)
    (tmp_path / "items.csv").write_text("item_id,title\na,b\n")
    with pytest.raises(CatalogueError, match=r"found \['items.jsonl', 'items.csv'\]"):
        Catalogue.from_folder(tmp_path)
    lines.unlink()
    (tmp_path / "items.csv").unlink()
    for name in ("items.parquet", "items.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b'{"item_id": 1}' * 50)[:30])
        with pytest.raises(CatalogueError, match=f"{name} cannot be read"):
            Catalogue.from_folder(tmp_path)
        (tmp_path / name).unlink()


def opened(content):
    return Catalogue.from_records([{"item_id": "x", "image": content}]).image(0)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_rgb(mode):
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    image = opened(encoded(picture(mode=mode), kind))
    assert image.mode == "RGB" and image.size == (40, 30)
    if kind == "PNG":
        assert np.array_equal(np.asarray(image), np.asarray(picture(mode=mode).convert("RGB")))


def test_transparency_is_laid_on_white():
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[..., 0], pixels[0, 0, 3], pixels[0, 1, 3] = 200, 255, 51  # red 200; opaque, a fifth, and clear below
    clear = np.asarray(opened(encoded(Image.fromarray(pixels))))
    assert clear[0, 0].tolist() == [200, 0, 0] and clear[1].tolist() == [[255, 255, 255]] * 2
    assert np.abs(clear[0, 1].astype(int) - [244, 204, 204]).max() <= 1  # 0.2 · (200, 0, 0) + 0.8 · 255
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    assert opened(encoded(palette)).getpixel((0, 0)) == (10, 20, 30)
    assert opened(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_range():
    image = Image.fromarray(np.array([[0, 256 * 100, 65535]], dtype=np.uint16))
    assert np.asarray(opened(encoded(image)))[0, :, 1].tolist() == [0, 100, 255]


def test_grey_of_any_depth_is_what_it_shows():
    """Each of these was black and white, or black."""
    ramp = np.linspace(0, 1, 6)[None]
    shown = [0, 51, 102, 153, 204, 255]
    deep = (ramp * 65535).astype(np.uint16)
    for values in (
        deep.astype(np.int32),
        (ramp * 255).astype(np.int32),
        (ramp * (2**31 - 1)).astype(np.int32),
        ramp.astype(np.float32),
        (ramp * 255).astype(np.float32),
        deep.astype(np.float32),
    ):
        image = Image.fromarray(values)
        assert np.asarray(opened(image))[0, :, 1].tolist() == shown
        assert np.asarray(opened(encoded(image, "TIFF")))[0, :, 2].tolist() == shown
    broken = ramp.astype(np.float32)
    broken[0, :2] = np.nan, -np.inf
    assert np.asarray(opened(Image.fromarray(broken)))[0, :, 0].tolist() == [0, 0, *shown[2:]]
    clear = encoded(Image.fromarray(deep), transparency=0)
    assert np.asarray(opened(clear))[0, :, 0].tolist() == [255, *shown[1:]]
    half = Image.fromarray(np.array([[[100, 0], [100, 255]]], dtype=np.uint8), "LA")
    for image in (half, half.convert("La")):
        assert np.asarray(opened(image))[0, :, 0].tolist() == [255, 100]


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    image = opened(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert image.getpixel((2, 2)) == (255, 0, 0)


def test_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    assert opened(encoded(picture((40, 20)), "JPEG", exif=exif)).size == (20, 40)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_each_orientation_is_that_of_pillow(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture((40, 20)), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        expected = ImageOps.exif_transpose(image)
    assert np.array_equal(opened(content), expected)


def test_odd_exif_does_not_make_an_image_broken():
    # an orientation, and 72 dots per inch as a text, which Pillow reads and cannot write
    entries = struct.pack("<HHLHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHL4s", 0x011A, 2, 3, b"72")
    exif = b"Exif\0\0II*\0" + struct.pack("<LH", 8, 2) + entries + bytes(4)
    assert opened(encoded(picture((40, 20)), "JPEG", exif=exif)).size == (20, 40)
    for kind in ("PNG", "WEBP"):
        assert opened(encoded(picture((40, 20)), kind, exif=b"no EXIF at all")).size == (40, 20)


@pytest.mark.parametrize(
    ("size", "kind", "expected"),
    [
        ((3000, 1500), "JPEG", (1024, 512)),
        ((1000, 2048), "PNG", (500, 1024)),
        ((1024, 7), "PNG", (1024, 7)),
        ((5000, 1), "PNG", (1024, 1)),
    ],
)
def test_large_images_are_made_smaller(size, kind, expected):
    assert opened(encoded(Image.new("RGB", size, "green"), kind)).size == expected


def test_a_given_picture_is_not_changed():
    original = Image.new("RGB", (2048, 1024), "green")
    assert opened(original).size == (1024, 512) and original.size == (2048, 1024)


def test_given_pictures_are_decoded_when_they_are_asked_for(tmp_path):
    content = encoded(picture(), "JPEG")
    (tmp_path / "fine.jpg").write_bytes(content)
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with Image.open(tmp_path / "fine.jpg") as fine, Image.open(tmp_path / "cut.jpg") as cut:
        records = [{"item_id": "fine", "title": "t", "image": fine}, {"item_id": "cut", "title": "t", "image": cut}]
        fine.load = None  # whatever reads its pixels fails
        catalogue = Catalogue.from_records(records)
        del fine.load
        with pytest.raises(CatalogueError, match=r"item 'cut' \(row 1\): broken, truncated or closed"):
            catalogue.check()
        with pytest.raises(CatalogueError, match="item 'cut': broken, truncated or closed image"):
            catalogue.image_digest(1)
        assert catalogue.image(0).size == (40, 30)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an image", "not an image, or not in one of the formats"),
        (encoded(picture(seed=3), "JPEG")[:-100], "broken or truncated image: .*truncated"),
        (encoded(picture(seed=3))[:-1000], "broken or truncated image"),
        (header_only_png(10_000, 10_000), "huge image of 10000×10000 pixels"),
        (header_only_png(60_000, 60_000), "huge image"),
        ("gone.png", "missing image file .*gone.png"),
        ("sub", "missing image file"),
        ("https://shop.example/a.png", "remote image https://shop.example/a.png: download it first"),
        ({"bytes": None, "path": "s3://bucket/a.png"}, "remote image"),
    ],
    ids=["text", "jpeg", "png", "huge", "bomb", "missing", "folder", "remote", "remote-struct"],
)
def test_broken_images_are_found_and_named(tmp_path, content, message):
    (tmp_path / "sub").mkdir()
    limit = Image.MAX_IMAGE_PIXELS
    records = [{"item_id": f"fine-{row}", "title": "t", "image": encoded(picture())} for row in range(70)]
    records.insert(40, {"item_id": "bad one", "title": "t", "image": content})
    catalogue = Catalogue.from_records(records, image_root=tmp_path, name="toys")
    with pytest.raises(CatalogueError, match=message) as caught:
        catalogue.check()
    assert "toys: 1 problems in 71 items" in str(caught.value) and "item 'bad one' (row 40)" in str(caught.value)
    with pytest.raises(CatalogueError, match=f"toys: item 'bad one': {message}"):
        catalogue.image(40)
    assert catalogue.check(images=False)["num_images_checked"] == 0
    assert Image.MAX_IMAGE_PIXELS == limit


def test_problems_of_items_are_listed():
    records = [{"item_id": "twin", "title": "a"}] * 3
    records += [{"item_id": None, "title": "b"}, {"item_id": " ", "title": "b"}, {"item_id": "mute", "title": " \n"}]
    with pytest.raises(CatalogueError) as caught:
        Catalogue.from_records(records).check()
    for problem in (
        "4 problems in 6 items",
        "item 'twin': duplicate item_id, 3 times",
        "row 3: missing item_id",
        "row 4: missing item_id",
        "item 'mute' (row 5): empty text and no image",
    ):
        assert problem in str(caught.value)


def test_at_most_ten_problems_are_spelled_out():
    with pytest.raises(CatalogueError) as caught:
        Catalogue.from_records([{"item_id": f"i{row}", "title": ""} for row in range(25)]).check()
    assert str(caught.value).count("empty text") == 10 and "and 15 more" in str(caught.value)


def test_an_image_makes_up_for_an_empty_text():
    catalogue = Catalogue.from_records([{"item_id": "a", "title": "", "image": encoded(picture())}])
    assert catalogue.check() == {"num_items": 1, "num_texts": 0, "num_images": 1, "num_images_checked": 1}
    assert Catalogue.from_records([{"item_id": "a", "image": encoded(picture())}]).texts == [""]


@pytest.mark.parametrize("missing", [None, "", float("nan"), b"", {"bytes": None, "path": ""}])
def test_absent_images(missing):
    catalogue = Catalogue.from_records([{"item_id": "a", "title": "t", "image": missing}])
    assert not catalogue.has_image(0) and catalogue.image(0) is None


def test_an_empty_catalogue():
    for records in ([], pl.DataFrame(schema={"item_id": pl.String, "title": pl.String})):
        catalogue = Catalogue.from_records(records)
        assert len(catalogue) == 0 and catalogue.check()["num_items"] == 0


def test_selecting_and_concatenating(folder):
    shop = Catalogue.from_records(RECORDS, image_root=folder, name="shop")
    plain = Catalogue.from_records([{"item_id": "a", "title": "plain"}], name="plain")
    both = Catalogue.concatenate([plain, Catalogue.from_records(pl.DataFrame(with_bytes())), shop.select([2, 0, 2])])
    assert both.item_ids == ["a", "b", "a", "7", "7", "b", "7"] and both.name == "plain+catalogue+shop"
    assert [both.has_image(row) for row in range(7)] == [False, True, False, True, True, True, True]
    picked = both.select(np.array([6, 5, 3, 1, 0]))
    assert picked.texts == [TEXTS[2], TEXTS[0], TEXTS[2], TEXTS[0], "plain"]
    for row, seed in enumerate([2, 1, 2, 1]):
        assert np.array_equal(np.asarray(picked.image(row)), np.asarray(picture(seed=seed)))
    assert picked.image(4) is None
    assert Catalogue.concatenate([plain, plain]).images is None
    assert len(both.select([])) == 0


def test_brands_are_read_and_follow_their_items(tmp_path):
    records = [
        {"item_id": "a", "title": "cup", "brand": " Oak\n& Co "},
        {"item_id": "b", "title": "pan", "brand": ["", "Fernwick", "Oak & Co"]},
        {"item_id": "c", "title": "pot", "brand": None},
    ]
    catalogue = Catalogue.from_records(records, text_fields=["title"])
    assert catalogue.brands == ["Oak & Co", "Fernwick", ""]
    assert catalogue.select([2, 0]).brands == ["", "Oak & Co"]
    bare = Catalogue.from_records([{"item_id": "d", "title": "jug"}])
    assert bare.brands is None and bare.select([0]).brands is None
    assert Catalogue.concatenate([bare, catalogue]).brands == ["", "Oak & Co", "Fernwick", ""]
    assert Catalogue.concatenate([bare, bare]).brands is None
    pl.DataFrame({"item_id": ["a", "b"], "title": ["cup", "pan"], "brand": ["Oak", None]}).write_parquet(
        tmp_path / "items.parquet"
    )
    assert Catalogue.from_folder(tmp_path, text_fields=["title"]).brands == ["Oak", ""]
    with pytest.raises(CatalogueError, match="3 item_ids but .*'brands': 2"):
        replace(catalogue, brands=["a", "b"])


def test_columns_of_different_lengths_are_an_error():
    with pytest.raises(CatalogueError, match=r"2 item_ids but \{'texts': 1, 'titles': 2\}"):
        Catalogue(item_ids=["a", "b"], texts=["t"], titles=["", ""])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "item_id,title,x\na,b,c\nd,$1,299.99,Stapler\n",
            r"line 3 has 4 fields, the first line has 3: .*must be quoted",
        ),
        ("item_id,title\n", "items.csv holds no items"),
        ("\ufeffitem_id,title,item_id\na,b,c\n", r"the columns \['item_id'\] occur twice: rename one of each"),
    ],
)
def test_csv_rows_that_are_not_what_the_header_says(tmp_path, content, message):
    (tmp_path / "items.csv").write_text(content)
    with pytest.raises(CatalogueError, match=message):
        Catalogue.from_folder(tmp_path)
