"""Timing for benchmarks that compare: everything in one run, interleaved, with what the machine can do beside it."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from tqdm.auto import tqdm

from modeling_utgrec.generation_layers import fused_dtypes

# Products of this size are what a processor does best; copies of this size come from memory, not from caches.
PRODUCT_SIZE = 2048
COPY_BYTES = 256 * 2**20


def clock(device: torch.device | str) -> float:
    """Seconds, once the device has done what it was told to."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def interleave(
    methods: dict[str, Callable[[], Any]], repetitions: int, warmup: int, device: torch.device | str = "cpu"
) -> dict[str, list[float]]:
    """
    Seconds of each repetition of each method. Every repetition runs all methods one after the other, so that whatever
    slows the machine for a while slows them all; the first `warmup` rounds are not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    gc.collect()
    for repetition in tqdm(range(warmup + repetitions), desc="repetitions", disable=None):
        for name, method in methods.items():
            start = clock(device)
            method()
            if repetition >= warmup:
                seconds[name].append(clock(device) - start)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Minimum and median."""
    return {"min": significant(min(seconds)), "median": significant(statistics.median(seconds))}


def significant(value: float, digits: int = 4) -> float:
    """A number rounded for printing."""
    return float(f"{value:.{digits}g}")


def product(dtype: torch.dtype, device: torch.device | str) -> tuple[dict[str, Callable[[], Any]], float]:
    """
    Matrix products to time, and the FLOPs of one. On a CPU the products of two libraries: the BLAS behind `torch.mm`
    and oneDNN, which `recommend` uses with UTGREC_FAST_CPU=1; the limit is set by the faster.
    """
    left, right = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=device).to(dtype) for _ in range(2))
    methods = {"product": lambda: torch.mm(left, right)}
    # The model's own list: oneDNN has no bfloat16 for processors without such instructions.
    if torch.device(device).type == "cpu" and dtype in fused_dtypes():
        fused = torch.ops.mkldnn._linear_pointwise
        methods["product (oneDNN)"] = lambda: fused(left, right, None, "none", [], "")
    return methods, 2.0 * PRODUCT_SIZE**3


def copy(device: torch.device | str) -> tuple[dict[str, Callable[[], Any]], float]:
    """A copy in memory to time, and the bytes that it reads and writes."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return {"copy": lambda: target.copy_(source)}, 2.0 * COPY_BYTES


def environment(device: torch.device | str) -> dict[str, Any]:
    """What a result depends on."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"device": f"{device.type} ({name})", "threads": torch.get_num_threads(), "torch": torch.__version__}


def table(seconds: dict[str, list[float]], work: dict[str, float], unit: str) -> str:
    """A line for each method: minimum and median in milliseconds, and `work` a second."""
    lines = [f"{'':34}{'min ms':>11}{'median ms':>11}{unit:>14}"]
    for name, times in seconds.items():
        least, middle = min(times), statistics.median(times)
        rate = f"{work[name] / least:14,.1f}" if name in work else ""
        lines.append(f"{name:34}{least * 1e3:11.2f}{middle * 1e3:11.2f}{rate}")
    return "\n".join(lines)
