"""MovieLens in its three layouts."""

import pytest

from trainers.data.readers import MovieLensReader, ReadError

SECOND = 1_000_000
FLAGS = "0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0"  # Animation, Children's, Comedy
U_ITEM = (
    f"1|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Toy%20Story%20(1995)|{FLAGS}\n"
    "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "543|Misérables, Les (1995)|01-Jan-1995||http://us.imdb.com/M/title|0|0|0|0|0|0|0|0|1|0|0|0|1|0|0|0|0|0|0\n"
    "600|cut off|01-Jan-1995\n"
).encode("latin-1")


def test_100k(read, write, tmp_path, examples_of):
    write("ml-100k/u.data", "196\t1\t3\t881250949\n186\t543\t3\t891717742\n22\t267\t1\t878887116\n")
    write("ml-100k/u.item", U_ITEM)
    write("ml-100k/u.genre", "unknown|0\nAction|1\n\n")
    reader = MovieLensReader(tmp_path / "ml-100k")
    log, items, report = read(reader)
    assert reader.settings()["layout"] == "100K"
    assert log == [
        ("196", "1", 881250949 * SECOND, 3.0),
        ("186", "543", 891717742 * SECOND, 3.0),
        ("22", "267", 878887116 * SECOND, 1.0),
    ]
    assert items["1"]["title"] == "Toy Story (1995)"
    assert items["1"]["categories"] == ["Animation", "Children's", "Comedy"]
    assert items["543"]["title"] == "Misérables, Les (1995)"  # Latin-1
    assert items["543"]["categories"] == ["Drama", "Musical"]
    assert items["267"]["title"] == "unknown" and items["267"]["categories"] == []
    assert "u.item, line 4" in examples_of(report, "items", "the line has not 24 fields")


def test_1m(read, write, tmp_path):
    write("ml-1m/ratings.dat", "1::1193::5::978300760\n1::661::3.5::978302109\n")
    movies = (
        "1193::One Flew Over the Cuckoo's Nest (1975)::Drama\r\n661::X: é (1996)::Animation|Children's|Musical\r\n"
    )
    write("ml-1m/movies.dat", movies.encode("latin-1"))
    reader = MovieLensReader(tmp_path / "ml-1m")
    log, items, _ = read(reader)
    assert reader.settings()["layout"] == "1M"
    assert log == [("1", "1193", 978300760 * SECOND, 5.0), ("1", "661", 978302109 * SECOND, 3.5)]  # halves: 10M
    assert items["661"]["title"] == "X: é (1996)"  # a colon in the title
    assert items["661"]["categories"] == ["Animation", "Children's", "Musical"]


def test_10m_is_in_utf_8(read, write, tmp_path):
    write("ratings.dat", "1::1::5::838985046\n")
    write("movies.dat", "1::Léon (1994)::Action\n")
    _, items, _ = read(MovieLensReader(tmp_path))
    assert items["1"]["title"] == "Léon (1994)"


def test_20m(read, write, tmp_path):
    write("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n1,29,4.0,1112484676\n")
    write(
        "movies.csv",
        'movieId,title,genres\n2,"American President, The (1995)",Comedy|Drama\n'
        '29,"A ""quoted"" é",(no genres listed)\n',
    )
    write("tags.csv", "userId,movieId,tag,timestamp\n")
    log, items, _ = read(MovieLensReader(tmp_path))
    assert log == [("1", "2", 1112486027 * SECOND, 3.5), ("1", "29", 1112484676 * SECOND, 4.0)]
    assert items["2"]["title"] == "American President, The (1995)" and items["2"]["categories"] == ["Comedy", "Drama"]
    assert items["29"]["title"] == 'A "quoted" é' and items["29"]["categories"] == []


def test_what_cannot_be_read(read, write, tmp_path, examples_of):
    write(
        "ratings.csv", "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n1,29\n,2,3,1112484676\n\n1,2,x,11124846\n"
    )
    write("movies.csv", "movieId,title,genres\n2,A,B\n")
    log, _, report = read(MovieLensReader(tmp_path))
    assert len(log) == 1 and report.dropped("interactions") == 4
    assert examples_of(report, "interactions", "timestamp is missing") == "ratings.csv, line 3: timestamp None"
    assert examples_of(report, "interactions", "user_id is missing") == "ratings.csv, line 4: user_id None"
    assert examples_of(report, "interactions", "the line is empty") == "ratings.csv, line 5"
    assert examples_of(report, "interactions", "rating is no number") == "ratings.csv, line 6: rating 'x'"


def test_a_folder_that_is_none(read, write, tmp_path):
    with pytest.raises(ReadError, match="u.data, ratings.dat, ratings.csv; it holds none"):
        MovieLensReader(tmp_path).files()
    write("u.data", "1\t1\t1\t1\n")
    with pytest.raises(ReadError, match="u.item: no such file"):
        MovieLensReader(tmp_path).files()
    write("ratings.dat", "1::1::1::1\n")
    with pytest.raises(ReadError, match="100K.*1M"):
        MovieLensReader(tmp_path).files()
