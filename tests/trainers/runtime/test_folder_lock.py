"""A lock on a folder: one process at a time, and what a process that is no more left is taken over."""

import os
import socket
import subprocess
import sys

import pytest

from trainers.runtime.folder_lock import LOCK_NAME, LockedFolderError, locked_folder


def test_one_at_a_time(tmp_path):
    folder = tmp_path / "new"
    with locked_folder(folder):
        assert (folder / LOCK_NAME).read_text() == f"{socket.gethostname()} {os.getpid()}"
        with pytest.raises(LockedFolderError, match=f"Process {os.getpid()} on {socket.gethostname()} works in"):
            with locked_folder(folder):
                raise AssertionError
    assert not [*folder.iterdir()]
    with pytest.raises(KeyError), locked_folder(folder):
        raise KeyError
    with locked_folder(folder):
        pass


def test_what_a_killed_process_left_is_taken_over(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / LOCK_NAME).write_text(f"{socket.gethostname()} {done.stdout.strip()}")
    with locked_folder(tmp_path):
        assert (tmp_path / LOCK_NAME).read_text().endswith(f" {os.getpid()}")
    assert not (tmp_path / LOCK_NAME).exists()


@pytest.mark.parametrize("owner", ["another-machine 1", "", "x"])
def test_an_owner_that_cannot_be_asked_is_believed(tmp_path, owner):
    (tmp_path / LOCK_NAME).write_text(owner)
    with pytest.raises(LockedFolderError, match=f"delete .*{LOCK_NAME}"), locked_folder(tmp_path):
        raise AssertionError
    assert (tmp_path / LOCK_NAME).read_text() == owner
