"""What this machine can do, measured in the run that uses it: the rates that a floor is made of."""

import statistics
import time
from collections.abc import Callable

import torch

Rates = dict[str, float]


def seconds(function: Callable[[], object], repeats: int = 7) -> float:
    """Median wall time of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_rates() -> Rates:
    """GEMM FLOP/s (float32, all threads), normal draws/s (twice torch.randn's single-thread rate), copy bytes/s (read plus written),
    and eigendecomposed float64 matrices/s of width 128 (all threads, one LAPACK call each)."""
    generator = torch.Generator().manual_seed(0)
    threads = torch.get_num_threads()
    a, b = (torch.randn(2048, 2048, generator=generator) for _ in range(2))
    out = torch.empty(2048, 2048)
    gemm = 2 * 2048**3 / seconds(lambda: torch.mm(a, b, out=out))
    source, target = torch.randn(1 << 24, generator=generator), torch.empty(1 << 24)
    copy = 2 * 4 * source.numel() / seconds(lambda: target.copy_(source))
    try:
        torch.set_num_threads(1)
        block = torch.empty(1 << 20)
        draws = 2 * block.numel() / seconds(lambda: block.normal_(generator=generator))
        gram = torch.randn(16, 128, 128, generator=generator).double()
        gram = gram.mT @ gram
        eigen = threads * len(gram) / seconds(lambda: torch.linalg.eigh(gram))
    finally:
        torch.set_num_threads(threads)
    return {"gemm": gemm, "draws": draws, "copy": copy, "eigen": eigen, "threads": float(threads)}
