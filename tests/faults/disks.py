"""Disks that fail: a command meets a full disk, an error of the device or a folder that it may not write to, ends with
an error that names a file, and run again on a disk that works it makes what it would have made.

Four ways to fail: a small file system in memory, where this process may mount one; a limit of the size of files;
an error in place of the n-th file that is opened, renamed, linked or removed, and of all after it; and one in place of
bytes that are written, through a library that is compiled here and stands before libc's, where there is a compiler.
"""

import ctypes
import errno
import os
import random
import resource
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static char prefix[4096];
static long left = -1;
static int number;

void break_writes(const char *folder, long after, int error) {
    strncpy(prefix, folder, sizeof prefix - 1);
    number = error;
    left = after;
}

static int is_broken(int fd, size_t size) {
    char name[64], path[4096];
    if (left < 0) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (strncmp(path, prefix, strlen(prefix))) return 0;
    if ((long)size <= left) {
        left -= size;
        return 0;
    }
    left = 0;
    errno = number;
    return 1;
}

ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    return is_broken(fd, size) ? -1 : real(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    return is_broken(fd, size) ? -1 : real(fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    static ssize_t (*real)(int, const struct iovec *, int);
    size_t size = 0;
    if (!real) real = dlsym(RTLD_NEXT, "writev");
    for (int part = 0; part < count; part++) size += parts[part].iov_len;
    return is_broken(fd, size) ? -1 : real(fd, parts, count);
}
"""
FULL = (errno.ENOSPC, errno.EDQUOT)  # files that are there can still be renamed and removed
DENIED = (errno.EIO, errno.EACCES, errno.EROFS)
MAKES = {"open", "os.mkdir", "os.link", "os.symlink"}


def compiled_library(folder: Path) -> Path | None:
    """The library that stands before libc's writes; `None` without a compiler."""
    if shutil.which("gcc") is None:
        return None
    source, target = folder / "broken_writes.c", folder / "broken_writes.so"
    source.write_text(LIBRARY)
    done = subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", target, source, "-ldl"], capture_output=True)
    return target if done.returncode == 0 else None


@dataclass(frozen=True)
class Break:
    """
    How a disk fails.

    Args:
        way (`str`): `"mount"`, `"limit"`, `"calls"` or `"bytes"`.
        at (`int`): bytes of the disk or of a file, calls, bytes that are written.
        number (`int`, *optional*, defaults to `ENOSPC`): the error, of calls and bytes.
    """

    way: str
    at: int
    number: int = errno.ENOSPC

    def start(self, folder: str) -> None:
        """From now on, for this process; what is not of calls."""
        if self.way == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.at, self.at))
        elif self.way == "bytes":
            ctypes.CDLL(None).break_writes(os.fsencode(folder), ctypes.c_long(self.at), self.number)

    def check_call(self, event: str, path: str, count: int) -> None:
        """Raises the error in place of call number `count`, if it is broken."""
        if self.way == "calls" and count >= self.at and (self.number in DENIED or event in MAKES):
            raise OSError(self.number, os.strerror(self.number), path)


def random_break(rng: random.Random, calls: int, size: int, ways: list[str]) -> Break:
    """One of these ways; of an uninterrupted run the calls are counted, and the bytes of what it made."""
    way = rng.choice(ways)
    if way == "calls":
        return Break(way, rng.randint(1, calls), rng.choice([*FULL, *DENIED]))
    at = rng.randint(1, max(2, size))
    return Break(way, at, rng.choice([*FULL, errno.EIO]))


@contextmanager
def small_disk(folder: Path, size: int):
    """A file system in memory of so many bytes at `folder`; yields a function that gives it room."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(4096, size)}", "tmpfs", folder], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=1g", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


def may_mount(folder: Path) -> bool:
    try:
        with small_disk(folder, 4096):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without those of unfinished work."""
    files = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if ".unfinished" not in name}


def what_is_wrong(said: str, folder: Path) -> list[str]:
    """What a command said when the disk failed: an error that names a file, and no traceback."""
    if "Traceback (most recent call last)" in said:
        return [f"it ended with a traceback: {said[-1800:]}"]
    last = said.strip().splitlines()[-5:]
    if not any(str(folder) in line or "intermediate results in" in line for line in last):
        return [f"it names no file: {last}"]
    return []
