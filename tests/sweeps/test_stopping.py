"""Signals wait until nothing is half done."""

import os
import signal
import threading

import pytest

import simgap as sg
from simgap.sweeps import grid, sweep
from simgap.sweeps.stopping import Stopping, interruptible, undisturbed
from tests.sweeps.scripted import Scripted


def strike(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers():
    """The handlers before, put back whatever a test leaves."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) == handler
        signal.signal(number, handler)


def test_a_signal_is_kept_until_it_is_looked_for():
    done = []
    with Stopping() as stopping:
        strike()
        done.append("written")
        with pytest.raises(KeyboardInterrupt):
            stopping.look()
        stopping.look()
    assert done == ["written"]


def test_a_signal_that_nobody_looked_for_is_answered_at_the_end():
    steps = []

    def stopped() -> None:
        with Stopping():
            strike()
            steps.append("went on")

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert steps == ["went on"]


def test_work_that_may_be_dropped_is_dropped_at_once():
    steps = []

    def work(stopping: Stopping) -> None:
        with stopping.anytime():
            strike()
            steps.append("went on")

    with Stopping() as stopping, pytest.raises(KeyboardInterrupt):
        work(stopping)
    assert steps == []


def test_a_signal_from_before_is_answered_before_work_begins():
    with Stopping() as stopping:
        strike()
        with pytest.raises(KeyboardInterrupt), stopping.anytime():
            pytest.fail("work began")


def test_a_second_signal_is_not_kept():
    with Stopping():
        strike()
        with pytest.raises(KeyboardInterrupt):
            strike()


def test_handlers_of_the_caller_are_called_and_put_back():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with Stopping() as stopping:
            strike(signal.SIGTERM)
            assert heard == []
            stopping.look()
            assert heard == [signal.SIGTERM]
        strike(signal.SIGTERM)
        assert heard == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_leaves_signals_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def inside() -> None:
        with Stopping():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_stopped_sweep_has_recorded_all_that_came_back(tmp_path):
    """Struck while a task is taken in: it is recorded before the stop."""
    cells = grid(sg.LayerSpec(d_model=4, d_ff=8, n_experts=4), d_model=[4, 5, 6, 7])
    struck = []

    def act(cell, task):
        if cell.number == 2:
            struck.append(cell.number)
            strike()
        return ""

    with pytest.raises(KeyboardInterrupt):
        sweep(cells, trials=1, tokens=4, out=tmp_path, engine=Scripted(act), workers=1)
    lines = (tmp_path / "records.jsonl").read_bytes().splitlines()
    assert struck == [2]
    assert sum(b'"cell"' in line for line in lines) in (2, 3)
    assert "stopped with" in (tmp_path / "sweep.log").read_text()
    rest = Scripted()
    assert sweep(cells, trials=1, tokens=4, out=tmp_path, engine=rest, workers=1).done == 4
    assert cells.key(2) not in rest.handed_out()


OTHERS = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.parametrize("number", OTHERS)
def test_what_batch_systems_and_terminals_send_stops_as_ctrl_c_does(number):
    with pytest.raises(KeyboardInterrupt), interruptible():
        strike(number)
    with interruptible(), Stopping() as stopping:
        strike(number)
        with pytest.raises(KeyboardInterrupt):
            stopping.look()


def test_what_a_process_ignores_or_has_a_handler_for_stays_so():
    heard = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with interruptible():
            strike(signal.SIGHUP)
            strike(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGUSR1, before[1])
    assert heard == [signal.SIGUSR1]


def test_the_last_line_is_not_cut_short():
    said = []
    with undisturbed():
        for number in (signal.SIGINT, *OTHERS):
            strike(number)
        said.append("all")
    assert said == ["all"]
