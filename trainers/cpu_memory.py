"""Memory of a training on a CPU: what a layer frees is there for the next one.

The C library of Linux gives blocks of more than 32 MiB back to the system when they are freed, and gets them again
page by page, each filled with zeros. The activations of a text encoder are such blocks: with MiniLM and 128 items a
batch, a fifth to a third of a step goes into it. During a training everything is kept instead.
"""

import ctypes
from functools import cache
from typing import Any

from transformers import TrainerCallback

# of malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
LARGEST_MMAP_THRESHOLD = 32 * 2**20
DEFAULT_MMAP_MAX = 65536


@cache
def _c_library() -> Any:
    """glibc, or None where the process has another one (macOS, musl)."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018
        return library
    except (AttributeError, OSError, TypeError):
        return None


def keep_freed_memory() -> None:
    """From here on the process keeps what it frees. Does nothing where the C library is not glibc."""
    if (library := _c_library()) is not None:
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, -1)


def release_freed_memory() -> None:
    """Gives what is free back to the system, as from here on large blocks are when they are freed."""
    if (library := _c_library()) is not None:
        library.mallopt(MMAP_MAX, DEFAULT_MMAP_MAX)
        library.mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)  # what it learns by itself from large blocks
        library.mallopt(TRIM_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)
        library.malloc_trim(0)


class KeptMemoryCallback(TrainerCallback):
    """Keeps freed memory for the time of a training."""

    def on_train_begin(self, args, state, control, **kwargs):
        keep_freed_memory()

    def on_train_end(self, args, state, control, **kwargs):
        release_freed_memory()
