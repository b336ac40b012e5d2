"""The pool: order kept, one thread to a task, and torch's thread count put back whatever happens."""

import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from simgap import threads as simgap_threads
from simgap.machine import cores
from simgap.settings import SMALLEST_NORMAL
from simgap.threads import PARALLEL_FROM, if_large, in_order, pool


@pytest.fixture(autouse=True)
def two_torch_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_in_order_is_map_done_at_once():
    assert in_order(lambda a, b: a - b, [5, 6], [1, 3]) == [4, 3]


def test_small_work_stays_on_this_thread():
    with pool(2) as (task_map, _):
        assert if_large(task_map, PARALLEL_FROM - 1) is in_order
        assert if_large(task_map, PARALLEL_FROM) is task_map


@pytest.mark.parametrize("workers", [None, 1, 2, 7])
def test_results_come_in_the_order_of_the_tasks(workers):
    def slow_first(i):
        time.sleep(0.02 if i == 0 else 0)
        return i * i

    with pool(workers) as (task_map, _):
        assert list(task_map(slow_first, range(9))) == [i * i for i in range(9)]
        assert list(task_map(lambda a, b: a + b, [1, 2], [10, 20])) == [11, 22]
        assert list(task_map(slow_first, [])) == []


def test_the_number_of_workers_follows_torch():
    torch.set_num_threads(1)
    with pool() as (task_map, workers):
        assert workers == 1
        assert task_map is in_order
    assert torch.get_num_threads() == 1


def test_workers_never_outnumber_the_cores(monkeypatch):
    monkeypatch.setattr("simgap.threads.cores", lambda: 2)
    with pool(64) as (_, workers):
        assert workers == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_inside_each_task_has_one_torch_thread(workers, monkeypatch):
    monkeypatch.setattr("simgap.threads.cores", lambda: 2)
    met = threading.Barrier(workers)

    def look(_):
        met.wait(timeout=30)
        return torch.get_num_threads(), threading.get_ident()

    with pool(workers) as (task_map, count):
        assert count == workers
        assert torch.get_num_threads() == 1
        seen = list(task_map(look, range(workers)))
    assert {threads for threads, _ in seen} == {1}
    assert len({thread for _, thread in seen}) == workers
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_the_setting_comes_back_after_an_exception_in_the_block(workers):
    with pytest.raises(KeyError, match="outside"), pool(workers):
        raise KeyError("outside")
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_in_a_task_comes_out_as_it_is(workers):
    def fails(i):
        if i == 3:
            raise ValueError(f"task {i} of 5")
        return i

    with pytest.raises(ValueError, match=r"^task 3 of 5$"), pool(workers) as (task_map, _):
        task_map(fails, range(5))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("here", [True, False])
def test_waiting_tasks_are_dropped_after_an_exception_in_any_thread(here, monkeypatch):
    monkeypatch.setattr("simgap.threads.cores", lambda: 2)
    started = []

    def task(i):
        started.append(i)
        if (threading.current_thread() is threading.main_thread()) is here:
            raise ValueError("the first one")
        time.sleep(0.01)

    with pytest.raises(ValueError, match=r"^the first one$"), pool(2) as (task_map, _):
        task_map(task, range(500))
    assert len(started) < 400


def test_a_pool_serves_more_than_one_map():
    with pool(2) as (task_map, _):
        first = task_map(str, range(3))
        assert task_map(lambda i: first[i] + "!", range(3)) == ["0!", "1!", "2!"]


def test_two_pools_after_each_other():
    for _ in range(2):
        with pool(2) as (task_map, _workers):
            assert task_map(abs, [-1, 2]) == [1, 2]
        assert torch.get_num_threads() == 2


def test_threads_are_kept_and_one_that_is_busy_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("simgap.threads.cores", lambda: 2)
    monkeypatch.setattr("simgap.threads._helpers", type(simgap_threads._helpers)())
    met = threading.Barrier(2)

    def threads():
        with pool(2) as (task_map, _):
            return set(task_map(lambda _: met.wait(timeout=30) * 0 + threading.get_ident(), range(2)))

    first = threads()
    assert len(first) == 2
    assert threads() == first
    entered, leave = threading.Event(), threading.Event()

    def hold(i):
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            leave.wait(timeout=30)
        else:
            entered.wait(timeout=30)
        return i

    def other():
        # Its own share of the pool is the only other thread that there is.
        with pool(2) as (task_map, _):
            assert task_map(abs, [-1, 2, -3]) == [1, 2, 3]
        leave.set()

    beside = threading.Thread(target=lambda: entered.wait(timeout=30) and other())
    beside.start()
    with pool(2) as (task_map, _):
        assert task_map(hold, range(2)) == [0, 1]
    beside.join()
    assert leave.is_set()


KEPT = ExitStack()
LEFT_BEHIND = {
    "no gradients": lambda: torch.set_grad_enabled(False),
    "threads": lambda: torch.set_num_threads(7),
    "default device": lambda: torch.set_default_device("meta"),
    "flushed denormals": lambda: torch.set_flush_denormal(True),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "inference mode": lambda: KEPT.enter_context(torch.inference_mode()),
    "numpy raises": lambda: np.seterr(all="raise"),
}


@pytest.mark.parametrize("leave", LEFT_BEHIND.values(), ids=LEFT_BEHIND)
def test_what_a_task_leaves_behind_in_a_thread_is_gone_at_the_next_call(leave, monkeypatch):
    monkeypatch.setattr("simgap.threads.cores", lambda: 2)
    monkeypatch.setattr("simgap.threads._helpers", type(simgap_threads._helpers)())

    def of_the_other_thread(look):
        met = threading.Barrier(2)

        def task(_):
            met.wait(30)
            return None if threading.current_thread() is threading.main_thread() else (threading.get_ident(), look())

        with pool(2) as (task_map, _):
            return next(filter(None, task_map(task, range(2))))

    def settings():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), np.geterr()
        return *modes, torch.empty(1).device.type, torch.get_num_threads(), SMALLEST_NORMAL / 2 > 0

    def spoil():
        leave()
        return settings()

    thread, before = of_the_other_thread(settings)
    spoilt = of_the_other_thread(spoil)
    assert spoilt[0] == thread
    assert spoilt[1] != before
    assert of_the_other_thread(settings) == (thread, before)
    assert torch.get_num_threads() == 2


def run(code: str) -> str:
    """What a process of its own prints; it has a minute, its end included."""
    ran = subprocess.run([sys.executable, "-c", PROCESS + code], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


PROCESS = """
import os, threading, time
from simgap import threads
threads.cores = lambda: 12
def total(workers):
    with threads.pool(workers) as (task_map, _):
        return sum(task_map(lambda i: time.sleep(0.001) or i, range(40)))
"""


def test_a_thread_that_cannot_be_started_is_done_without():
    code = """
start, started = threading.Thread.start, []
def fails(thread):
    started.append(thread)
    if len(started) > 1:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = fails
print(total(4), total(4))
"""
    assert run(code) == "780 780\n"


def test_threads_do_not_pile_up():
    """Whatever numbers of them are asked for, by several at once: no more than one call needs, and forks are looked for once."""
    code = """
hooks, register = [], os.register_at_fork
os.register_at_fork = lambda **hook: hooks.append(hook) or register(**hook)
callers = [threading.Thread(target=total, args=(12,)) for _ in range(8)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
totals = {total(workers) for workers in range(2, 13)}
kept = [thread for thread in threading.enumerate() if thread.name.startswith("simgap")]
print(totals, len(kept), sum("simgap.threads" in str(hook) for hook in hooks))
"""
    assert run(code) == "{780} 11 1\n"


def test_pools_within_tasks_of_callers_at_the_same_time_come_to_an_end(monkeypatch):
    monkeypatch.setattr("simgap.threads.cores", lambda: 3)
    found = []

    def nested(depth):
        if depth == 0:
            return 1
        with pool(3) as (task_map, _):
            return sum(task_map(nested, [depth - 1] * 4))

    callers = [threading.Thread(target=lambda: found.append(nested(4)), daemon=True) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert found == [4**4] * 4


def test_an_interrupt_waits_for_what_has_begun(monkeypatch, torch_settings):
    """Settings are put back when nothing computes any more."""
    monkeypatch.setattr("simgap.threads.cores", lambda: 2)
    torch.set_float32_matmul_precision("medium")
    entered, seen = threading.Event(), []

    def task(_):
        if threading.current_thread() is threading.main_thread():
            assert entered.wait(30)
            return
        entered.set()
        # By now the caller waits.
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.2)
        seen.append(torch.get_float32_matmul_precision())

    with pytest.raises(KeyboardInterrupt), pool(2) as (task_map, _):
        task_map(task, range(2))
    assert seen == ["highest"]
    assert torch.get_float32_matmul_precision() == "medium"


def test_an_interrupt_while_threads_are_asked_leaves_no_task_to_begin(monkeypatch):
    monkeypatch.setattr("simgap.threads.cores", lambda: 2)
    helpers, entered, started, finished = type(simgap_threads._helpers)(), threading.Event(), [], []
    monkeypatch.setattr("simgap.threads._helpers", helpers)
    ask = helpers.ask

    def interrupted(*arguments):
        ask(*arguments)
        assert entered.wait(30)
        raise KeyboardInterrupt

    def task(i):
        started.append(i)
        entered.set()
        time.sleep(0.05)
        finished.append(i)

    monkeypatch.setattr(helpers, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt), pool(2) as (task_map, _):
        task_map(task, range(40))
    assert 0 < len(started) < 40
    assert finished == started


def test_overlapping_pools_share_one_change_of_settings(torch_settings):
    """A enters, B enters, A leaves, B leaves: the user's settings come back, and B works with the user's count, not A's 1."""
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    entered, leave, seen = threading.Event(), threading.Event(), []

    def first():
        with pool():
            entered.set()
            leave.wait(30)

    other = threading.Thread(target=first)
    other.start()
    entered.wait(30)
    with pool() as (_, workers):
        seen += [workers, torch.get_float32_matmul_precision()]
        leave.set()
        other.join()
        seen.append(torch.get_float32_matmul_precision())
    assert seen == [min(2, cores()), "highest", "highest"]
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (2, "medium")
    born_later = []
    later = threading.Thread(target=lambda: born_later.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert born_later == [2]


@pytest.fixture
def torch_settings():
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
