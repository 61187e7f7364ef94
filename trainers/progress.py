"""Progress in lines that people read: what happens now, for how long, and that it goes on where it takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_SECONDS = 8.0  # after which a step that says nothing is said to go on


class Progress:
    """
    Announces steps, says of each that takes long that it goes on, and keeps how long each took.

    Args:
        say (`Callable[[str], None]`, *optional*): takes a line; by default nobody does.
        quiet (`float`, *optional*, defaults to 8.0): seconds without a line after which there is one.

    Attributes:
        seconds (`dict[str, float]`): of each part that is finished, by its name.

    Example:

    ```python
    >>> progress = Progress(print)
    >>> with progress.step("texts", "reading the texts of 20,000 products"):
    ...     vectors = tf_idf_embeddings(texts)
    [   0 s] reading the texts of 20,000 products
    ```
    """

    def __init__(self, say: Callable[[str], None] | None = None, quiet: float = QUIET_SECONDS):
        self._say, self._quiet = say, quiet
        self._began = self._latest = time.monotonic()
        self.seconds: dict[str, float] = {}

    def line(self, text: str) -> None:
        """A line, with the seconds since the beginning."""
        self._latest = time.monotonic()
        if self._say is not None:
            self._say(f"[{self._latest - self._began:4.0f} s] {text}")

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """Announces what the block does; seconds of blocks of one name are added."""
        self.line(text)
        began, ended = time.monotonic(), threading.Event()
        beat = threading.Thread(target=self._beat, args=(text, began, ended), daemon=True)
        if self._say is not None:
            beat.start()
        try:
            yield
        finally:
            ended.set()
            if beat.is_alive():
                beat.join()
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 2)

    def _beat(self, text: str, began: float, ended: threading.Event) -> None:
        while not ended.wait(max(0.01, self._latest + self._quiet - time.monotonic())):
            if time.monotonic() - self._latest >= self._quiet:
                self.line(f"... still {text}, for {time.monotonic() - began:.0f} s now")
