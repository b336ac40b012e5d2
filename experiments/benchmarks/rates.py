"""What this machine can do, measured in the run that uses it: the rates that a floor is made of, and how to time rivals side by side."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from simgap.kernels.compiled import kernel
from simgap.kernels.tiles import tile

Rates = dict[str, float]
Times = dict[str, list[float]]
# Wait before each call of a round: OpenMP's threads go on spinning for some milliseconds after their work.
PAUSE = 0.01
# Numbers that one task of a reader sums up, a fourth of them at a time, and how far ahead of the sum memory is asked.
READ_AT_ONCE, READ_COLUMNS = 1 << 22, 1 << 10


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


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    before: Callable[[], object] | None = None,
    synchronise: Callable[[], object] = lambda: None,
) -> Times:
    """Wall times of every contender, each once a round in an order drawn anew, after one round that is not counted.

    What else the machine does then falls on all alike, and none always follows the same other. before: called ahead of each, not timed.
    """
    generator = np.random.default_rng(0)
    times: Times = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name in generator.permutation(list(contenders)).tolist():
            if before is not None:
                before()
            time.sleep(PAUSE)
            synchronise()
            start = time.perf_counter()
            contenders[name]()
            synchronise()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


@contextmanager
def readers(flat: Float[Tensor, " N"]) -> Iterator[dict[str, Callable[[], object]]]:
    """Ways to read an array of 2^k numbers, k >= 12, that do next to nothing else; the fastest of them is the read bandwidth.

    On a CPU a float32 sum by torch and by numba on all threads, and the kernels' own loads with memory asked ahead, from one place and
    from four at once, on threads that are there before. Elsewhere torch's sum.
    """
    if flat.device.type != "cpu":
        yield {"torch.sum": flat.sum}
        return
    array = flat.numpy()
    with ThreadPoolExecutor(torch.get_num_threads()) as executor:

        def over(reader: Callable[[np.ndarray], float]) -> Callable[[], float]:
            parts = [array[start : start + READ_AT_ONCE] for start in range(0, array.size, READ_AT_ONCE)]
            return lambda: sum(executor.map(reader, parts))

        yield {
            "torch.sum": flat.sum,
            "numba sum": over(_sum),
            "one stream, asked ahead": over(lambda part: _one_stream(part, READ_COLUMNS)),
            "four streams, asked ahead": over(lambda part: _four_streams(part, READ_COLUMNS)),
        }


@kernel(fastmath={"reassoc", "contract"})
def _sum(part):
    total = np.float32(0.0)
    for i in range(part.size):
        total += part[i]
    return total


@kernel()
def _one_stream(part, columns):
    total = 0.0
    for start in range(0, part.size, columns):
        total += tile(part, (start,), None, (start + 2 * columns,), columns)[0]
    return total


@kernel()
def _four_streams(part, columns):
    total, apart = 0.0, part.size // 4
    for start in range(0, apart, columns):
        a, b, c, d = start, start + apart, start + 2 * apart, start + 3 * apart
        ahead = (a + columns, b + columns, c + columns, d + columns)
        products = tile(part, (a, b, c, d), None, ahead, columns)
        total += products[0] + products[4] + products[7] + products[9]
    return total


def fastest(times: Mapping[str, Sequence[float]]) -> str:
    """The contender with the least median."""
    return min(times, key=lambda name: statistics.median(times[name]))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return low, middle, high


def log_slope(x: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope of log seconds on log x, and its standard error; at least three different x."""
    across, up = np.log(x), np.log(seconds)
    across = across - across.mean()
    square = float(across @ across)
    slope = float(across @ up) / square
    left = up - up.mean() - slope * across
    return slope, math.sqrt(float(left @ left) / (len(left) - 2) / square)
