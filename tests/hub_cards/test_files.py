"""Files that are there whole or not at all."""

import os
import stat

import pytest

from hub_cards import replacing, write_text


def contents(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    folder = tmp_path / "model"
    assert write_text(folder / "README.md", "old") == folder / "README.md"
    write_text(folder / "README.md", "new – card")
    assert contents(folder) == {"README.md": "new – card"}


def test_the_old_file_stays_when_writing_fails(tmp_path, monkeypatch):
    write_text(tmp_path / "README.md", "old")

    def fail(*_):
        raise OSError("disk")

    monkeypatch.setattr("hub_cards.files.os.replace", fail)
    with pytest.raises(OSError, match="disk"):
        write_text(tmp_path / "README.md", "new")
    assert contents(tmp_path) == {"README.md": "old"}


def test_several_files_take_their_places_in_order_or_none_does(tmp_path, monkeypatch):
    paths = [tmp_path / "b", tmp_path / "deep" / "a", tmp_path / "c"]
    for path in paths[:1]:
        path.write_text("old")
    with pytest.raises(KeyError), replacing(*paths) as temporary:
        temporary[0].write_text("half")
        assert paths[0].read_text() == "old"
        raise KeyError
    assert contents(tmp_path / "deep") == {} and (tmp_path / "b").read_text() == "old"
    assert not (tmp_path / "c").exists()

    order, replace = [], os.replace
    monkeypatch.setattr("hub_cards.files.os.replace", lambda a, b: (order.append(b), replace(a, b)))
    with replacing(*paths) as temporary:
        for path, place in zip(temporary, paths, strict=True):
            assert path.parent == place.parent  # on the same disk
            path.write_text(place.name)
    assert order == paths and [path.read_text() for path in paths] == ["b", "a", "c"]
    assert len(list(tmp_path.rglob("*"))) == 4


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_of_new_ones(mask, tmp_path):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "a", tmp_path / "b") as (first, second):
            first.write_text("a")
            second.unlink()  # as a writer does that makes a file of its own and renames it
            os.close(os.open(second, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {0o666 & ~mask}
