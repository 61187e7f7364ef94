"""What the workers of Ray on this machine took: memory, and seconds of the cores."""

import contextlib
import threading

import psutil

SAMPLED = 0.5  # seconds between two looks


class WorkerMemory(threading.Thread):
    """The most memory that one of the processes below this one had, and all of them together, in GB; and seconds of
    the cores of all of them, Ray's own included."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest = self.together = self.cpu_seconds = 0.0
        self.ended = threading.Event()
        self._times: dict[int, float] = {}

    def run(self) -> None:
        while not self.ended.wait(SAMPLED):
            sizes = []
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    self._times[process.pid] = sum(process.cpu_times()[:2])
                    if process.name().startswith("ray::"):
                        sizes.append(process.memory_full_info().uss / 1e9)
            self.largest, self.together = max([self.largest, *sizes]), max(self.together, sum(sizes))
            self.cpu_seconds = sum(self._times.values())
