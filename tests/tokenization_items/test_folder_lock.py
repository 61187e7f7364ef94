"""A lock on a folder: one run at a time, and none of a process that is no more."""

import subprocess
import sys

import pytest

from tokenization_items.folder_lock import LOCK_NAME, LockedFolderError, locked_folder

HOLD = "import sys, time; from tokenization_items.folder_lock import locked_folder\n"
HOLD += "with locked_folder(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)"


def test_one_at_a_time(tmp_path):
    folder = tmp_path / "new"
    with locked_folder(folder):
        with pytest.raises(LockedFolderError, match=f"Another run works in {folder}"), locked_folder(folder):
            raise AssertionError
        assert (folder / LOCK_NAME).exists()
    assert not folder.exists()
    with pytest.raises(KeyError), locked_folder(folder):
        (folder / "work").touch()
        raise KeyError
    assert [each.name for each in folder.iterdir()] == ["work"]
    with locked_folder(folder):
        pass


def test_a_process_that_is_killed_holds_it_no_more(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(LockedFolderError), locked_folder(tmp_path):
            raise AssertionError
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert (tmp_path / LOCK_NAME).exists()
    with locked_folder(tmp_path):
        pass
