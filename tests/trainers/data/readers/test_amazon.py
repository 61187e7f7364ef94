"""Amazon Reviews 2014, 2018 and 2023: lines as they are published, with what is odd about them."""

import gzip
import json

import pytest

from trainers.data.readers import AmazonHubReader, AmazonReader, ReadError

DAY = 1_000_000  # microseconds in a second: 2014 and 2018 are in whole seconds


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def review_2014(user, item, time, rating=5.0, **other):
    return {
        "reviewerID": user,
        "asin": item,
        "reviewerName": "J. McDonald",
        "helpful": [2, 3],
        "reviewText": 'I bought this for my husband.\nHe is "happy".',
        "overall": rating,
        "summary": "Heavenly",
        "unixReviewTime": time,
        "reviewTime": "09 13, 2009",
    } | other


# single quotes, double quotes where the text has single ones, no title, price as number: as in meta_*.json.gz of 2014
META_2014 = (
    """{'asin': '0000031852', 'title': "Girl's Ballet Tutu &amp; Zebra", 'price': 3.17, """
    """'imUrl': 'http://ecx.images-amazon.com/images/I/51fAmVkTbyL._SY300_.jpg', """
    """'related': {'also_bought': ['B00JHONN1S', 'B002BZX8Z6'], 'bought_together': ['B002BZX8Z6']}, """
    """'salesRank': {'Toys & Games': 211836}, 'brand': 'Coxlures', """
    """'categories': [['Sports & Outdoors', 'Other Sports', 'Dance'], ['Sports & Outdoors', 'Exercise']]}\n"""
    """{'asin': '0000013714', 'categories': [['Books']], 'description': 'Hymns.<br />Large &quot;print&quot;.'}\n"""
    """{'asin': '0000013715', 'categories': [['Books']], 'title': 'A half line, 'price': 1}\n"""
    """{'title': 'No id', 'categories': [['Books']]}\n"""
)


def test_2014(read, write, examples_of):
    reviews = write(
        "reviews_Sports.json.gz",
        lines(
            review_2014("A1", "0000031852", 1252800000),
            review_2014("A1", "0000013714", 1252800000, 2.0),
            review_2014("A2", "0000013714", 1400000000, reviewerName=None),
        ),
    )
    log, items, report = read(AmazonReader(reviews, write("meta_Sports.json.gz", META_2014), 2014))
    assert log == [
        ("A1", "0000031852", 1252800000 * DAY, 5.0),
        ("A1", "0000013714", 1252800000 * DAY, 2.0),
        ("A2", "0000013714", 1400000000 * DAY, 5.0),
    ]
    assert items["0000031852"] == {
        "item_id": "0000031852",
        "title": "Girl's Ballet Tutu & Zebra",
        "brand": "Coxlures",
        "features": [],
        "categories": ["Sports & Outdoors", "Other Sports", "Dance", "Exercise"],
        "description": "",
        "image": None,
        "image_url": "https://images-na.ssl-images-amazon.com/images/I/51fAmVkTbyL._SY300_.jpg",
    }
    assert items["0000013714"]["description"] == 'Hymns. Large "print".'
    assert items["0000013714"]["image_url"] is None and items["0000013714"]["title"] == ""
    assert len(items) == 2
    broken = examples_of(report, "items", "the line is neither JSON nor a Python literal")
    assert "meta_Sports.json.gz, line 3" in broken
    assert "meta_Sports.json.gz, line 4: item_id" in examples_of(report, "items", "item_id is missing")


def test_2014_never_runs_what_a_line_says(read, write, tmp_path):
    reviews = write("r.json", lines(review_2014("u", "i", 1252800000)))
    victim = tmp_path / "victim"
    metadata = f"{{'asin': 'i', 'title': open({str(victim)!r}, 'w').name}}\n{{'asin': 'j', 'title': 'x'}}\n"
    _, items, report = read(AmazonReader(reviews, write("m.json", metadata), 2014))
    assert list(items) == ["j"] and report.dropped("items") == 1 and not victim.exists()


def test_2014_reviews_may_be_literals_too(read, write):
    reviews = write("r.json", "{'reviewerID': 'u', 'asin': 'i', 'overall': 4.0, 'unixReviewTime': 1252800000}\n")
    log, _, _ = read(AmazonReader(reviews, write("m.json", "{'asin': 'i'}\n"), 2014))
    assert log == [("u", "i", 1252800000 * DAY, 4.0)]


def test_2018(read, write, examples_of):
    review = {
        "overall": 5.0,
        "vote": "1,234",
        "verified": True,
        "reviewTime": "11 22, 2013",
        "reviewerID": "A14H0TJOHEAQ3S",
        "asin": "B0002CZV82",
        "style": {"Color:": " Red"},
        "reviewerName": "Amazon Customer",
        "reviewText": "Great",
        "summary": "Five Stars",
        "unixReviewTime": 1385078400,
        "image": ["https://images-na.ssl-images-amazon.com/images/I/71.jpg"],
    }
    no_text = {name: review[name] for name in ("overall", "verified", "reviewerID", "asin", "unixReviewTime")}
    item = {
        "category": ["Musical Instruments", "Guitars &amp; Amps", "</span></span></span>"],
        "tech1": "",
        "description": ["First <b>part</b>.", "", "Second&nbsp;part."],
        "fit": "",
        "title": "Silver &quot;String&quot;",
        "also_buy": ["B1"],
        "tech2": "",
        "brand": "by\n    \n    Fender",
        "feature": ["Loud<br>", '<span class="a">Red</span>'],
        "rank": ["#22,809 in Instruments"],
        "also_view": [],
        "main_cat": "Musical Instruments",
        "similar_item": "",
        "date": "January 1, 2004",
        "price": "$25.19",
        "asin": "B0002CZV82",
        "imageURL": ["https://images-na.ssl-images-amazon.com/images/I/41._SS40_.jpg"],
        "imageURLHighRes": ["https://images-na.ssl-images-amazon.com/images/I/41.jpg"],
    }
    page = {
        "asin": "B1",
        "title": "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();",
        "price": ".a-box-inner{background-color:#fff}#alohaBuyBoxWidget",
        "description": "one text",
        "feature": "one feature",
        "category": [],
        "imageURL": ["https://images-na.ssl-images-amazon.com/images/I/51._SS40_.jpg"],
        "imageURLHighRes": [],
    }
    bare = {"asin": "B2", "price": "", "title": None, "feature": [], "brand": ""}
    reviews = write("Musical_Instruments_5.json.gz", lines(review, no_text))
    metadata = write("meta_Musical_Instruments.json.gz", lines(item, page, bare, item | {"title": "again"}))
    log, items, report = read(AmazonReader(reviews, metadata, 2018))
    assert log == [("A14H0TJOHEAQ3S", "B0002CZV82", 1385078400 * DAY, 5.0)] * 2
    assert items["B0002CZV82"] == {
        "item_id": "B0002CZV82",
        "title": 'Silver "String"',
        "brand": "Fender",
        "features": ["Loud", "Red"],
        "categories": ["Musical Instruments", "Guitars & Amps"],
        "description": "First part. Second part.",
        "image": None,
        "image_url": "https://images-na.ssl-images-amazon.com/images/I/41.jpg",
    }
    assert items["B1"]["title"] == "" and items["B1"]["description"] == "one text"
    assert items["B1"]["features"] == ["one feature"] and items["B1"]["image_url"].endswith("51._SS40_.jpg")
    assert items["B2"]["title"] == "" and items["B2"]["features"] == [] and items["B2"]["image_url"] is None
    assert "line 2" in examples_of(report, "fields", "title is JavaScript of the page")
    assert "line 4: item_id 'B0002CZV82'" in examples_of(report, "items", "item_id is there already")


def review_2023(user, item, time, rating=5.0):
    return {
        "rating": rating,
        "title": "Such a lovely scent",
        "text": "This spray is really nice.",
        "images": [{"small_image_url": "https://m.media-amazon.com/images/I/1.jpg", "attachment_type": "IMAGE"}],
        "asin": f"child-of-{item}",
        "parent_asin": item,
        "user_id": user,
        "timestamp": time,
        "helpful_vote": 0,
        "verified_purchase": True,
    }


def image(name, variant, hi_res=True, large=True):
    url = "https://m.media-amazon.com/images/I/"
    return {
        "thumb": f"{url}{name}._SS40_.jpg",
        "large": f"{url}{name}.jpg" if large else None,
        "variant": variant,
        "hi_res": f"{url}{name}._SL1500_.jpg" if hi_res else None,
    }


ITEM_2023 = {
    "main_category": "All Beauty",
    "title": "Howard LC0008 Leather Conditioner, 8-Ounce (4-Pack)",
    "average_rating": 4.8,
    "rating_number": 10,
    "features": [],
    "description": [],
    "price": None,
    "images": [image("back", "PT01"), image("front", "MAIN", hi_res=False)],
    "videos": [],
    "store": "Howard Products",
    "categories": [],
    "details": {"Package Dimensions": "7.1 x 5.5 x 3 inches", "UPC": "617390882781"},
    "parent_asin": "B01CUPMQZE",
    "bought_together": None,
}
OTHERS_2023 = [
    {"parent_asin": "B2", "images": [image("only", "PT02", large=False)], "price": 19.99, "details": {"Brand": "Yes"}},
    {"parent_asin": "B3", "images": [], "price": "from 14.99", "store": None, "details": {}, "features": ["a", "b"]},
    {"parent_asin": "B4", "title": "No images at all", "description": ["Cut: \ud83d", "two"], "price": "—"},
]


def test_2023(read, write):
    reviews = write(
        "All_Beauty.jsonl.gz",
        lines(review_2023("AG", "B01CUPMQZE", 1588687728923), review_2023("AG", "B2", 1588615855070, 4.0)),
    )
    metadata = write("meta_All_Beauty.jsonl.gz", lines(ITEM_2023, *OTHERS_2023))
    log, items, report = read(AmazonReader(reviews, metadata, 2023))
    assert log == [("AG", "B01CUPMQZE", 1588687728923000, 5.0), ("AG", "B2", 1588615855070000, 4.0)]
    first = items["B01CUPMQZE"]
    assert first["features"] == [] and first["categories"] == [] and first["description"] == ""
    assert first["brand"] == "Howard Products"
    assert first["image_url"] == "https://m.media-amazon.com/images/I/front.jpg"  # MAIN, not the first
    assert items["B2"]["image_url"] == "https://m.media-amazon.com/images/I/only._SL1500_.jpg"  # no large one
    assert items["B2"]["brand"] == "Yes"
    assert items["B3"]["image_url"] is None and items["B3"]["features"] == ["a", "b"] and items["B3"]["brand"] == ""
    assert items["B4"]["description"] == "Cut: \ufffd two" and items["B4"]["image_url"] is None
    assert report.dropped("items") == 0


@pytest.mark.parametrize(
    "size, name", [("large", "front.jpg"), ("thumb", "front._SS40_.jpg"), ("hi_res", "front.jpg")]
)
def test_2023_image_sizes(read, write, size, name):
    reviews = write("r.jsonl", lines(review_2023("u", "B2", 1588687728923)))
    _, items, _ = read(AmazonReader(reviews, write("m.jsonl", lines(ITEM_2023)), 2023, image_size=size))
    assert items["B01CUPMQZE"]["image_url"].endswith(f"/{name}")  # the next size there is, if hi_res is null


def test_2023_from_a_copy_of_the_hub_repository(read, write, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    reviews = [review_2023(f"u{row}", "B2", 1588687728923 + row) for row in range(30)]
    write("copy/raw/review_categories/All_Beauty.jsonl", lines(*reviews))
    write("copy/raw/meta_categories/meta_All_Beauty.jsonl", lines(ITEM_2023, *OTHERS_2023) + "not json\n")
    monkeypatch.setattr("trainers.data.readers.amazon.HUB_LINES", 7)
    reader = AmazonHubReader("All_Beauty", repository=str(tmp_path / "copy"))
    log, items, report = read(reader)
    assert [row[0] for row in log] == [f"u{row}" for row in range(30)] and log[0][2] == 1588687728923000
    assert list(items) == ["B01CUPMQZE", "B2", "B3", "B4"]
    assert "meta_All_Beauty.jsonl, line 5" in str(report)
    assert reader.files() == [] and "All_Beauty" in str(reader.settings()["addresses"])


def test_a_category_that_is_not_there(read, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "copy").mkdir()
    with pytest.raises(ReadError, match="Beuaty"):
        read(AmazonHubReader("Beuaty", repository=str(tmp_path / "copy")))


def test_bad_lines_are_dropped_and_named(read, write, examples_of):
    content = (
        lines(review_2023("u", "i", 1588687728923))
        + "\n"  # blank lines are no lines
        + '{"user_id": "u", "parent_asin": "i", "timestamp": 15886\n'
        + '["user_id"]\n'
        + lines(review_2023(None, "i", 1588687728923), review_2023("u", ["i"], 1588687728923))
        + lines(review_2023("u", "i", "yesterday"), review_2023("u", "i", None), review_2023("u", "", 1588687728923))
        + lines(review_2023("u", "i", float("nan")), review_2023("u", "i", 4102444800000))
        + lines(review_2023("u", "i", 1588687728924, "five"), review_2023("u", "i", 1588687728925, None))
    )
    log, _, report = read(AmazonReader(write("r.jsonl", content), write("m.jsonl", lines(ITEM_2023)), 2023))
    assert [row[2:] for row in log] == [(1588687728923000, 5.0), (1588687728925000, None)]
    assert report.read["interactions"] == 12
    for reason, line in [
        ("the line is not JSON", 3),
        ("the line is no object", 4),
        ("user_id is missing", 5),
        ("a list or an object in one of user_id, parent_asin, timestamp, rating", 6),
        ("timestamp is no number", 7),
        ("timestamp is missing", 8),
        ("item_id is missing", 9),
        ("timestamp is NaN", 10),
        ("timestamp is in the future", 11),
        ("rating is no number", 12),
    ]:
        assert report.count("interactions", reason) == 1
        assert f"r.jsonl, line {line}" in examples_of(report, "interactions", reason)


def test_a_log_of_which_nothing_is_left(read, write):
    reviews = write("r.jsonl", lines({"reviewerID": "u", "asin": "i", "unixReviewTime": 1385078400}))
    with pytest.raises(ReadError, match="user_id is missing"):
        read(AmazonReader(reviews, write("m.jsonl", lines(ITEM_2023)), 2023))


def test_seconds_are_not_taken_for_milliseconds(read, write):
    reviews = write("r.jsonl", lines(review_2023("u", "i", 1385078400)))
    with pytest.raises(ReadError, match="1970-01-17.*'ms'"):
        read(AmazonReader(reviews, write("m.jsonl", lines(ITEM_2023)), 2023))


def test_a_truncated_file_is_named(read, write, tmp_path):
    data = gzip.compress(lines(*[review_2023(f"u{row}", "i", 1588687728923 + row) for row in range(500)]).encode())
    (tmp_path / "r.jsonl.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ReadError, match="r.jsonl.gz, after line .*complete"):
        read(AmazonReader(tmp_path / "r.jsonl.gz", write("m.jsonl", lines(ITEM_2023)), 2023))


def test_missing_and_empty_files_and_years(write, tmp_path):
    full, empty = write("r.jsonl", "{}"), write("m.jsonl", "")
    with pytest.raises(ReadError, match="m.jsonl is empty"):
        AmazonReader(full, empty, 2023).files()
    with pytest.raises(ReadError, match="absent: no such file"):
        AmazonReader(tmp_path / "absent", full, 2023).files()
    with pytest.raises(ReadError, match="2016"):
        AmazonReader(full, full, 2016)
