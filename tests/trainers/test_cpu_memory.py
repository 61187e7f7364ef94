"""Pages that the system hands out for large blocks, with freed memory kept and given back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainers import cpu_memory

ROOT = Path(__file__).parents[2]
# In a process of its own: the settings are the process's, and so are the pages that are counted.
SCRIPT = """
import json, resource
import torch
from trainers.cpu_memory import keep_freed_memory, release_freed_memory

def faults(rounds=4):
    def count():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    sum(torch.ones(12_000_000).sum().item() for _ in range(2))  # 48 MB
    before = count()
    sum(torch.ones(12_000_000).sum().item() for _ in range(rounds))
    return (count() - before) / rounds

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

found = {"before": faults()}
keep_freed_memory()
found["kept"] = faults()
full = resident()
release_freed_memory()
found |= {"given_back": full - resident(), "after": faults()}
print(json.dumps(found))
"""


@pytest.mark.skipif(cpu_memory._c_library() is None, reason="the C library is not glibc")
def test_large_blocks_cost_no_pages_while_memory_is_kept():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(run.stdout)
    # a page of 4 KiB for each fault, or of 2 MiB where the system has large ones
    assert found["kept"] < 2 < 20 <= min(found["before"], found["after"])
    assert found["given_back"] > 40_000_000


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(cpu_memory, "_c_library", lambda: None)
    cpu_memory.keep_freed_memory()
    cpu_memory.release_freed_memory()
