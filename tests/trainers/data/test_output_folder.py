"""Folders that are there whole or not at all."""

import pytest

from trainers.data.output_folder import fresh_folder, sha256_of

MARK = "done.json"


def make(path, content="new", overwrite=False, fail=False):
    with fresh_folder(path, MARK, overwrite) as working:
        (working / "data" / "a.txt").write_text(content)
        (working / "scratch").mkdir()
        (working / "data" / MARK).write_text("{}")
        assert not (path / "a.txt").exists() or (path / "a.txt").read_text() != content
        if fail:
            raise RuntimeError("half-way")


def test_appears_when_it_is_complete(tmp_path):
    make(tmp_path / "deep" / "out")
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == ["a.txt", MARK]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_an_error_leaves_nothing_new_and_everything_old(tmp_path):
    with pytest.raises(RuntimeError):
        make(tmp_path / "out", fail=True)
    assert list(tmp_path.iterdir()) == []
    make(tmp_path / "out", "old")
    with pytest.raises(RuntimeError):
        make(tmp_path / "out", overwrite=True, fail=True)
    assert (tmp_path / "out" / "a.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_failed_exchange_puts_the_old_folder_back(tmp_path):
    make(tmp_path / "out", "old")
    with pytest.raises(FileNotFoundError), fresh_folder(tmp_path / "out", MARK, overwrite=True) as working:
        (working / "data").rmdir()
    assert (tmp_path / "out" / "a.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_overwrites_only_when_asked_and_only_its_own(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    make(out, "first")  # empty folders are free
    with pytest.raises(FileExistsError, match="not empty"):
        make(out, "second")
    make(out, "second", overwrite=True)
    assert (out / "a.txt").read_text() == "second" and len(list(tmp_path.iterdir())) == 1
    (out / MARK).unlink()
    with pytest.raises(FileExistsError, match="holds no done.json"):
        make(out, "third", overwrite=True)
    with pytest.raises(FileExistsError, match="is a file"):
        make(out / "a.txt", overwrite=True)
    assert (out / "a.txt").read_text() == "second"


def test_checksum(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
