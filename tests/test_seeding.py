"""Streams: one label, one sequence; two labels, two sequences that have nothing to do with each other."""

import itertools
import math
from typing import get_args

import numpy as np
import pytest

from simgap.seeding import Role, stream

ROLES = get_args(Role)
N = 100_000  # draws per stream where correlations are tested
SIGMA = 5.0


def words(seed, role, **label):
    return tuple(stream(seed, role, **label).bit_generator.random_raw(4).tolist())


def test_the_same_label_gives_the_same_numbers():
    for role in ROLES:
        label = {"trial": 3, "expert": 5, "block": 7}
        assert words(11, role, **label) == words(11, role, **label)


def test_two_generators_of_one_label_do_not_share_state():
    first, second = stream(0, "test"), stream(0, "test")
    assert first is not second
    first.standard_normal(100)
    assert np.array_equal(second.random(5), stream(0, "test").random(5))


def test_every_other_label_gives_other_numbers():
    labels = list(itertools.product((0, 1, 2**40), ROLES, (0, 1, 2), (0, 1, 2), (0, 1, 2)))
    drawn = {words(seed, role, trial=t, expert=e, block=b) for seed, role, t, e, b in labels}
    assert len(drawn) == len(labels)


@pytest.mark.parametrize("a, b", [((1, 0, 0), (0, 1, 0)), ((0, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 0, 1)), ((1, 2, 3), (3, 2, 1))])
def test_places_in_a_label_do_not_swap(a, b):
    one, other = (dict(zip(("trial", "expert", "block"), label, strict=True)) for label in (a, b))
    assert words(0, "up", **one) != words(0, "up", **other)


def test_a_seed_is_not_a_trial():
    assert words(1, "up", trial=0) != words(0, "up", trial=1)
    assert words(1, "up", trial=1) != words(0, "up", trial=2)


def test_the_order_of_calls_does_not_enter():
    labels = [("up", 0, 1), ("down", 2, 0), ("inputs", 1, 1), ("router", 0, 0)]
    forward = {label: words(5, label[0], trial=label[1], expert=label[2]) for label in labels}
    backward = {label: words(5, label[0], trial=label[1], expert=label[2]) for label in reversed(labels)}
    assert forward == backward


@pytest.mark.parametrize("kind", [np.int64, np.uint32])
def test_numpy_integers_are_the_same_label(kind):
    assert words(kind(4), "up", trial=kind(1), expert=kind(2), block=kind(3)) == words(4, "up", trial=1, expert=2, block=3)


def test_digits_of_neighbouring_places_do_not_run_together():
    labels = list(itertools.product((1, 11, 111), repeat=4))
    drawn = {words(seed, "up", trial=t, expert=e, block=b) for seed, t, e, b in labels}
    assert len(drawn) == len(labels)


def correlations(series):
    """z of every pair of unit-variance, mean-zero series under independence: sqrt(n) times the mean product."""
    return [float(a @ b) / math.sqrt(len(a)) for a, b in itertools.combinations(series, 2)]


def test_neighbouring_streams_are_uncorrelated():
    labels = [("up", 0, 0, 0), ("up", 1, 0, 0), ("up", 0, 1, 0), ("up", 0, 0, 1), ("down", 0, 0, 0), ("gate", 0, 0, 0)]
    series = [stream(0, role, trial=t, expert=e, block=b).standard_normal(N) for role, t, e, b in labels]
    series.append(stream(1, "up").standard_normal(N))
    assert max(map(abs, correlations(series))) < SIGMA
    # The twin shares 3% of its numbers with another stream: sqrt(n) 0.03 = 9.5 sigma.
    twin = series[1].copy()
    twin[: 3 * N // 100] = series[0][: 3 * N // 100]
    assert abs(correlations([series[0], twin])[0]) > SIGMA


def test_a_stream_shifted_by_one_is_uncorrelated_with_its_neighbour():
    a, b = (stream(0, "inputs", trial=trial).standard_normal(N + 1) for trial in (0, 1))
    assert max(abs(z) for z in (correlations([a[:-1], b[1:]]) + correlations([a[1:], b[:-1]]) + correlations([a[1:], a[:-1]]))) < SIGMA


def test_a_stream_is_uniform_in_mean():
    z = (stream(9, "test").random(N).mean() - 0.5) * math.sqrt(12 * N)
    assert abs(z) < SIGMA
    assert abs(z + 0.02 * math.sqrt(12 * N)) > SIGMA


def test_the_numbers_of_a_label_never_change():
    """Every recorded result rests on them: whoever changes the hash or the generator changes all results, and must know it."""
    assert words(0, "up")[:2] == (2549509372065768191, 15564176542939357854)
    assert words(7, "router_noise", trial=1, expert=2, block=3)[:2] == (8217125428269910425, 1489144770550259773)


def test_an_unknown_role_is_refused():
    with pytest.raises(ValueError, match=r"role: expected one of .*up.*, got 'tpyo'"):
        stream(0, "tpyo")
