"""JSON, tensors and folders that are there whole or not at all."""

import contextlib
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file

from hub_cards import files as hub_files
from modeling_utgrec.checkpoint_fingerprint import check_file as files_check
from modeling_utgrec.checkpoint_fingerprint import stamp_file
from tokenization_items import files
from tokenization_items.files import (
    append_lines,
    check_writable,
    read_lines,
    replacing_folder,
    updating_folder,
    write_json,
    write_tensors,
)

MARK = "done.json"


def test_json(tmp_path):
    assert write_json(tmp_path / "deep" / "a.json", {"ü": [1, 2.5]}) == tmp_path / "deep" / "a.json"
    text = (tmp_path / "deep" / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"ü": [1, 2.5]} and text.endswith("]\n}\n")
    write_json(tmp_path / "list.json", ["a", "b"], indent=None)
    assert (tmp_path / "list.json").read_text() == '["a", "b"]'
    with pytest.raises(TypeError):
        write_json(tmp_path / "list.json", {1, 2})
    assert (tmp_path / "list.json").read_text() == '["a", "b"]' and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_tensors_with_the_permissions_of_new_files(kind, tmp_path):
    before = os.umask(0o022)
    try:
        write_tensors(tmp_path / "a.safetensors", {"x": kind([[1, 2], [3, 4]])}, {"version": "1"})
    finally:
        os.umask(before)
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        assert file.get_tensor("x").tolist() == [[1, 2], [3, 4]] and file.metadata()["version"] == "1"
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o644  # safetensors itself: 600
    with pytest.raises(Exception, match=r"(?i)type|metadata|str"):
        write_tensors(tmp_path / "a.safetensors", {"x": kind([1])}, {"version": 2})
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        assert file.get_tensor("x").shape == (2, 2)
    assert len(list(tmp_path.iterdir())) == 1


def make(path, content="new", overwrite=False, fail=False):
    with replacing_folder(path, overwrite, MARK) as working:
        (working / "a.txt").write_text(content)
        (working / MARK).write_text("{}")
        assert not (path / "a.txt").exists() or (path / "a.txt").read_text() != content
        if fail:
            raise RuntimeError("half-way")


def test_a_folder_appears_when_it_is_complete(tmp_path):
    before = os.umask(0o027)
    try:
        make(tmp_path / "deep" / "out")
    finally:
        os.umask(before)
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == ["a.txt", MARK]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert stat.S_IMODE((tmp_path / "deep" / "out").stat().st_mode) == 0o750


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
    with pytest.raises(FileNotFoundError), replacing_folder(tmp_path / "out", True, MARK) as working:
        working.rmdir()
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
    with pytest.raises(FileExistsError, match=r"holds no done\.json"):
        make(out, "third", overwrite=True)
    with replacing_folder(out, overwrite=True) as working:  # without a mark
        (working / "a.txt").write_text("third")
    with pytest.raises(FileExistsError, match="is a file"):
        make(out / "a.txt", overwrite=True)
    assert (out / "a.txt").read_text() == "third"


def test_a_folder_that_takes_no_files_is_named(tmp_path, monkeypatch):
    check_writable(tmp_path)
    check_writable(tmp_path / "deep" / "new")
    assert not list(tmp_path.iterdir()), "nothing is made"
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=rf"No files can be written to {path} \((File exists|Not a directory)\)"):
            check_writable(path)

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # who runs this may write anywhere
    with pytest.raises(OSError, match=r"deep \(Permission denied\): give another folder"):
        check_writable(tmp_path / "deep")


def test_a_link_leads_to_the_folder_that_is_replaced(tmp_path):
    make(tmp_path / "disk" / "out", "old")
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    make(tmp_path / "out", "new", overwrite=True)
    with updating_folder(tmp_path / "out") as working:
        (working / "b.txt").write_text("more")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "out" / "a.txt").read_text() == "new"
    assert (tmp_path / "out" / "b.txt").read_text() == "more"
    assert len(list(tmp_path.iterdir())) == 2 and len(list((tmp_path / "disk").iterdir())) == 1


def test_a_folder_that_cannot_be_replaced_is_known_before_the_work(tmp_path, monkeypatch):
    make(tmp_path / "out", "old")
    monkeypatch.setattr("os.path.ismount", lambda path: path == tmp_path / "out")
    check_writable(tmp_path / "out")
    for use in (lambda: check_writable(tmp_path / "out", replaced=True), lambda: make(tmp_path / "out", "new", True)):
        with pytest.raises(OSError, match=rf"a disk is mounted there.* such as {tmp_path / 'out' / 'run'}"):
            use()
    make(tmp_path / "out" / "run", "within it")
    monkeypatch.undo()

    def refuse(dir):
        if dir == str(tmp_path):
            raise PermissionError(13, "Permission denied")
        return contextlib.nullcontext()

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    check_writable(tmp_path / "out")
    with pytest.raises(OSError, match=rf"written to {tmp_path}, in which .*out is replaced .*Permission denied"):
        check_writable(tmp_path / "out", replaced=True)


def test_what_cannot_take_its_place_is_kept(tmp_path, monkeypatch):
    def busy(*_):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("tokenization_items.files._exchange", busy)
    make(tmp_path / "out", "old")
    with pytest.raises(OSError, match="Device or resource busy; what was to take its place is in ") as error:
        make(tmp_path / "out", "hours of work", overwrite=True)
    kept = Path(str(error.value).split(" is in ")[1].split(":")[0])
    assert (kept / "a.txt").read_text() == "hours of work" and (tmp_path / "out" / "a.txt").read_text() == "old"


def test_a_folder_changes_in_one_step(tmp_path):
    out = tmp_path / "out"
    with updating_folder(out) as working:
        (working / "deep").mkdir()
        (working / "deep" / "a.txt").write_text("1")
        write_tensors(working / "x.safetensors", {"x": np.arange(3)})
        assert not out.exists()
    weights = (out / "x.safetensors").stat().st_ino
    with pytest.raises(KeyError), updating_folder(out) as working:
        (working / "deep" / "a.txt").write_text("2")
        write_tensors(working / "x.safetensors", {"x": np.arange(9)})
        raise KeyError
    assert (out / "deep" / "a.txt").read_text() == "1" and (out / "x.safetensors").stat().st_ino == weights
    with updating_folder(out) as working:
        save_file({"y": np.arange(2)}, working / "y.safetensors")  # as other libraries do
        (working / "b.txt").write_text("3")
        assert (out / "deep" / "a.txt").read_text() == (working / "deep" / "a.txt").read_text() == "1"
    assert sorted(path.name for path in out.iterdir()) == ["b.txt", "deep", "x.safetensors", "y.safetensors"]
    assert len({stat.S_IMODE((out / name).stat().st_mode) for name in ("b.txt", "y.safetensors")}) == 1
    assert (out / "x.safetensors").stat().st_ino == weights  # linked
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_told_in_a_sentence(tmp_path, monkeypatch):
    make(tmp_path / "out", "old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    def full_too(*_, **__):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("tokenization_items.files.save_arrays", full_too)
    with pytest.raises(OSError, match="x.safetensors cannot be written: .*No space left"):
        write_tensors(tmp_path / "x.safetensors", {"x": np.arange(3)})
    monkeypatch.setattr("tokenization_items.files._link_weights", full)
    with pytest.raises(OSError, match="out cannot be copied to be changed: .*No space left"):
        with updating_folder(tmp_path / "out"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_there_is_a_folder_at_any_time(tmp_path, monkeypatch):
    """Where the system exchanges two folders; where it does not, the one that was set aside comes back."""
    make(tmp_path / "out", "old")
    seen, rename = [], type(tmp_path).rename
    monkeypatch.setattr(type(tmp_path), "rename", lambda self, to: (seen.append(to), rename(self, to))[1])
    make(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "a.txt").read_text() == "new"
    monkeypatch.setattr(files.sys, "platform", "other")
    make(tmp_path / "out", "newer", overwrite=True)
    assert (tmp_path / "out" / "a.txt").read_text() == "newer" and len(list(tmp_path.iterdir())) == 1


def left_by_a_dead_process(monkeypatch, path, state, suffix=""):
    """What a process of a container that has started anew left: with this process' number, of another run."""
    with monkeypatch.context() as patch:
        patch.setattr(hub_files, "_RUN", "0" * 6)
        return hub_files.unfinished_path(path, state, suffix)


def test_leftovers_of_dead_processes_are_removed(tmp_path, monkeypatch):
    dead = left_by_a_dead_process(monkeypatch, tmp_path / "out", "unfinished")
    (dead / "deep").mkdir(parents=True)
    left_by_a_dead_process(monkeypatch, tmp_path / "a.json", "unfinished", ".tmp").write_text("half")
    weights = left_by_a_dead_process(monkeypatch, tmp_path / "b.safetensors", "unfinished", ".tmp")
    written = []
    with monkeypatch.context() as patch:  # killed while the fingerprint was written
        patch.setattr(Path, "unlink", lambda path, **_: written.append(path))
        patch.setattr(os, "replace", lambda *_: None)
        save_file({"x": np.zeros(2)}, weights)
        stamp_file(weights)
    assert written[0].exists() and written[0].parent == tmp_path
    replaced = left_by_a_dead_process(monkeypatch, tmp_path / "model", "replaced")
    replaced.mkdir()
    (replaced / "a.txt").write_text("the only copy")
    alive = hub_files.unfinished_path(tmp_path / "other", "unfinished")
    alive.mkdir()
    (tmp_path / ".a.unfinished-of-somebody").mkdir()
    make(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "model", alive.name, ".a.unfinished-of-somebody"}
    assert (tmp_path / "model" / "a.txt").read_text() == "the only copy"


def test_a_change_of_one_byte_is_found(tmp_path):
    path = write_tensors(tmp_path / "a.safetensors", {"x": np.arange(100)})
    files_check(path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 8
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged"):
        files_check(path)


def test_lines_are_added_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "results.jsonl"
    assert read_lines(path) == []
    append_lines(path, [{"a": 1}, {"ü": 2}])
    before = path.read_bytes()

    class FullDisk:
        def __init__(self, *args, **kwargs):
            self.file = open(*args, **kwargs)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, text):
            return self.file.write(text[:5])

        def truncate(self, end):
            return self.file.truncate(end)

    monkeypatch.setattr(files, "open", FullDisk, raising=False)
    with pytest.raises(OSError, match="space"):
        append_lines(path, [{"b": 3}])
    monkeypatch.undo()
    assert path.read_bytes() == before and read_lines(path) == [{"a": 1}, {"ü": 2}]


def test_a_line_that_was_cut_short_is_set_aside(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"a": 1}\n\n{"b": 2}\n{"c": 1')
    with pytest.warns(UserWarning, match=r"results\.jsonl, line 4 was cut short"):
        assert read_lines(path) == [{"a": 1}, {"b": 2}]
    with pytest.warns(UserWarning, match="line 4 was cut short"):
        append_lines(path, [{"d": 4}])
    assert read_lines(path) == [{"a": 1}, {"b": 2}, {"d": 4}]
    assert (tmp_path / "results.jsonl.cut").read_text() == '{"c": 1\n'
    for wrong in ('{"a": 1\n{"b": 2}\n', "[1]\n"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"results\.jsonl, line 1"):
            read_lines(path)


def test_arrays_of_any_order_are_written_by_rows(tmp_path):
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    path = write_tensors(tmp_path / "a.safetensors", {"a": array, "view": array[:, ::2], "number": np.array(3.0)})
    found = load_arrays(path)
    np.testing.assert_array_equal(found["a"], array)
    np.testing.assert_array_equal(found["view"], array[:, ::2])
    assert found["number"].shape == ()
