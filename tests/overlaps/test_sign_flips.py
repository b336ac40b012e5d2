"""Sums over sizes and sketches against every choice of signs, and against loops where these are too many."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch

from simgap.overlaps import Signs, TokenPairs, flipped_overlaps, flipped_token_overlaps, size_sums, token_overlap
from simgap.overlaps import sign_flips as module
from simgap.overlaps.sketches import Sketches
from simgap.theory.sign_flips import form_cumulants, form_triangle

SIGMA = 5.0


def cumulants(values):
    values = np.asarray(values)
    apart = values - values.mean()
    return values.mean(), (apart**2).mean(), (apart**3).mean()


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def of_vectors(sums):
    return sums.p, 2 * (sums.p2 - sums.q), 8 * (sums.p3 - 3 * sums.pq + 2 * sums.r) + 24 * sums.triangles


def brute_sums(vectors):
    """SizeSums by loops."""
    u = unit(np.asarray(vectors, float)) ** 2
    p, q, r = np.array([[(a * b) @ (a * b) ** power for power in (0, 1, 2)] for a, b in itertools.combinations(u, 2)]).T
    around = [(float((a * b * c).sum()) ** 2 - float(((a * b * c) ** 2).sum())) for a, b, c in itertools.combinations(u, 3)]
    return p.sum(), (p**2).sum(), (p**3).sum(), q.sum(), (p * q).sum(), r.sum(), sum(around)


def test_vectors_against_every_sign():
    vectors = np.random.default_rng(0).standard_normal((3, 4)) * [1, 5, 0.1, 2]
    u = unit(vectors)
    every = [
        sum((np.array(s) * a @ (np.array(t) * b)) ** 2 for (s, a), (t, b) in itertools.combinations(zip(signs, u, strict=True), 2))
        for signs in itertools.product(itertools.product((1, -1), repeat=4), repeat=3)
    ]
    assert of_vectors(size_sums(torch.from_numpy(vectors))) == pytest.approx(cumulants(every), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("experts", [2, 3, 7, 32])
def test_size_sums_against_loops(experts, dtype):
    vectors = torch.from_numpy(np.random.default_rng(experts).standard_normal((experts, 37)) * 10.0 ** np.arange(37)[::-1] / 1e30).to(dtype)
    vectors[0] *= 1e9
    sums = size_sums(vectors)
    expected = brute_sums(vectors.double().numpy())
    assert sums.pairs == experts * (experts - 1) // 2
    assert (sums.p, sums.p2, sums.p3) == pytest.approx(expected[:3], rel=1e-11)
    assert (sums.q, sums.pq, sums.r) == pytest.approx(expected[3:6], rel=1e-11)
    assert sums.triangles == pytest.approx(expected[6], rel=1e-9)


def test_norms_near_the_ends_of_float64():
    vectors = torch.from_numpy(np.random.default_rng(2).standard_normal((4, 9)))
    scale = torch.tensor([1e200, 1e-200, 1.0, 1e-300], dtype=torch.float64)[:, None]
    assert of_vectors(size_sums(vectors * scale)) == pytest.approx(of_vectors(size_sums(vectors)), rel=1e-12)


def test_zero_vectors_have_no_pairs():
    vectors = torch.from_numpy(np.random.default_rng(3).standard_normal((6, 9)))
    kept = vectors[[0, 2, 3, 5]]
    vectors[[1, 4]] = 0
    found, expected = size_sums(vectors), size_sums(kept)
    assert found.pairs == expected.pairs == 6
    assert of_vectors(found) == pytest.approx(of_vectors(expected), rel=1e-13)


def test_many_vectors_table_by_table(monkeypatch):
    vectors = torch.from_numpy(np.random.default_rng(4).standard_normal((23, 50)))
    expected = brute_sums(vectors.numpy())
    monkeypatch.setattr(module, "SIDE", 8)
    sums = size_sums(vectors)
    assert (sums.p, sums.p2, sums.p3) == pytest.approx(expected[:3], rel=1e-12)


def test_what_is_sampled_is_near(monkeypatch):
    """With outlier columns: corrections from a quarter of the vectors and an eighth of the columns."""
    rng = np.random.default_rng(5)
    vectors = torch.from_numpy(rng.standard_normal((16, 4096)) * np.where(np.arange(4096) % 64 < 2, 10, 1))
    whole = size_sums(vectors)
    monkeypatch.setattr(module, "EXACT", 4 * 512)
    monkeypatch.setattr(module, "SAMPLED", 4 * 512)
    monkeypatch.setattr(module, "FEW_VECTORS", 4)
    sampled = size_sums(vectors)
    assert (sampled.p, sampled.p2, sampled.p3) == (whole.p, whole.p2, whole.p3)
    assert of_vectors(sampled)[:2] == pytest.approx(of_vectors(whole)[:2], rel=0.1)
    assert of_vectors(sampled)[2] == pytest.approx(of_vectors(whole)[2], rel=0.3)


def layer(rng, n, k, width, experts):
    """Tokens whose experts share signs and no more, and their routing; some slots empty."""
    routing = np.argsort(rng.random((n, experts)), 1)[:, :k]
    routing[rng.random((n, k)) < 0.1] = -1
    return rng.standard_normal((n, k, width)), routing


def brute_forms(vectors, routing, experts):
    """M of each pair of experts, by loops."""
    width = vectors.shape[2]
    forms = {pair: np.zeros((width, width)) for pair in itertools.combinations(range(experts), 2)}
    u = unit(vectors)
    for t, slots in enumerate(routing):
        for i, j in itertools.combinations(range(len(slots)), 2):
            if slots[i] >= 0 and slots[j] >= 0:
                a = u[t, i] * u[t, j]
                forms[min(slots[i], slots[j]), max(slots[i], slots[j])] += np.outer(a, a)
    return forms


def brute_cumulants(forms, experts):
    parts = []
    for m in forms.values():
        off = m - np.diag(np.diagonal(m))
        parts.append((np.trace(m), 2 * (off**2).sum(), 8 * np.trace(off @ off @ off)))
    mean, variance, third = np.sum(parts, 0)
    for e, f, g in itertools.combinations(range(experts), 3):
        product = forms[e, f] * forms[e, g] * forms[f, g]
        third += 24 * (product.sum() - np.trace(product))
    return mean, variance, third


def sketched(vectors, routing, signs=None):
    h = torch.from_numpy(vectors)
    signs = signs or Signs.of(routing, vectors.shape[:2], vectors.shape[2])
    kept = None if routing is None else routing >= 0
    return token_overlap(h, kept=kept, signs=signs).sketches.cumulants(vectors.shape[2])


def test_the_loops_agree_with_the_law():
    vectors, routing = layer(np.random.default_rng(6), 6, 2, 3, 3)
    forms = brute_forms(vectors, routing, 3)
    law = np.sum([form_cumulants(m.tolist()) for m in forms.values()], 0)
    law[2] += form_triangle(*(m.tolist() for m in forms.values()))
    assert brute_cumulants(forms, 3) == pytest.approx(tuple(law), rel=1e-12)


@pytest.mark.parametrize(("experts", "k", "width"), [(3, 2, 3), (3, 3, 2), (4, 2, 2)])
def test_tokens_against_every_sign(experts, k, width):
    vectors, routing = layer(np.random.default_rng([7, experts, k]), 9, k, width, experts)
    u = unit(vectors)
    every = []
    for signs in itertools.product(itertools.product((1, -1), repeat=width), repeat=experts):
        s = np.array(signs)
        every.append(
            sum(
                float((u[t, i] * u[t, j] * s[e[i]] * s[e[j]]).sum()) ** 2
                for t, e in enumerate(routing)
                for i, j in itertools.combinations(range(k), 2)
                if e[i] >= 0 and e[j] >= 0
            )
        )
    assert sketched(vectors, routing) == pytest.approx(cumulants(every), rel=1e-11)


@pytest.mark.parametrize("k", [2, 3])
def test_without_names_one_sign_is_common(k):
    vectors = np.random.default_rng(8).standard_normal((7, k, 4))
    u = unit(vectors)
    pairs = [u[:, i] * u[:, j] for i, j in itertools.combinations(range(k), 2)]
    every = [sum(float(((a @ np.array(s)) ** 2).sum()) for a in pairs) for s in itertools.product((1, -1), repeat=4)]
    assert sketched(vectors, None) == pytest.approx(cumulants(every), rel=1e-11)


@pytest.mark.parametrize(("experts", "width"), [(3, 32), (5, 20), (12, 8)])
def test_as_many_buckets_as_coordinates_are_exact(experts, width):
    vectors, routing = layer(np.random.default_rng([9, experts]), 60, 3, width, experts)
    found = sketched(vectors, routing)
    assert found == pytest.approx(brute_cumulants(brute_forms(vectors, routing, experts), experts), rel=1e-10)


def drawn(generator, routing, width, experts, groups):
    pool = generator.integers(0, 2, 32 * 512 + 2 * width, np.uint8) * np.uint8(128)
    begin = 32 * generator.permutation(512)[:experts]
    return Signs(pool, np.stack([begin, begin, np.arange(experts) % groups]), np.maximum(routing, 0))


@pytest.mark.parametrize(("experts", "groups"), [(4, 64), (9, 3)])
def test_fewer_buckets_are_right_on_average(experts, groups, monkeypatch):
    """Over 300 draws of signs, within 5 standard errors; the spread is also near in each. Experts that share groups included."""
    monkeypatch.setattr("simgap.overlaps.sketches.MOST_GROUPS", groups)
    monkeypatch.setattr("simgap.overlaps.sketches.TABLES", 10 * 8**2)
    generator = np.random.default_rng([10, experts])
    vectors, routing = layer(generator, 40, 2, 48, experts)
    # Some tokens repeat, so that their form is far from its diagonal.
    vectors = vectors + 2 * generator.standard_normal((experts, 48))[np.maximum(routing, 0)]
    exact = brute_cumulants(brute_forms(vectors, routing, experts), experts)
    found = np.array([sketched(vectors, routing, drawn(generator, routing, 48, experts, groups)) for _ in range(300)])
    assert found[:, 0] == pytest.approx(exact[0], rel=1e-12)
    variance, sem = found[:, 1].mean(), found[:, 1].std(ddof=1) / math.sqrt(300)
    assert abs(variance - exact[1]) < SIGMA * sem
    assert abs(1.2 * variance - exact[1]) > SIGMA * sem
    assert found[:, 1].min() > 0
    third, sem = found[:, 2].mean(), found[:, 2].std(ddof=1) / math.sqrt(300)
    assert abs(third - exact[2]) < SIGMA * sem + 0.02 * exact[2]
    assert np.std(np.sqrt(found[:, 1])) < 0.2 * math.sqrt(exact[1])


def test_layouts_and_formats_agree():
    vectors, routing = layer(np.random.default_rng(11), 50, 3, 70, 6)
    expected = sketched(vectors, routing)
    signs = Signs.of(routing, (50, 3), 70)
    h = torch.from_numpy(vectors)
    apart = torch.zeros(50, 3, 140, dtype=torch.float64)[..., ::2].copy_(h)
    scaled = h * torch.tensor([1e-200, 1.0, 1e150], dtype=torch.float64)[:, None]
    for value, rel in ((apart, 1e-12), (scaled, 1e-10), (h.float(), 1e-5), (h.float() * 1e25, 1e-5), (h.float() * 1e-25, 1e-5)):
        found = token_overlap(value, kept=routing >= 0, signs=signs).sketches.cumulants(70)
        assert found == pytest.approx(expected, rel=rel)
    half = token_overlap(h.bfloat16(), kept=routing >= 0, signs=signs).sketches.cumulants(70)
    assert half == pytest.approx(sketched(h.bfloat16().double().numpy(), routing), rel=1e-5)


@pytest.mark.parametrize("named", [True, False])
def test_tensor_operations_agree_with_the_kernel(named, monkeypatch):
    vectors, routing = layer(np.random.default_rng(12), 50, 3, 70, 6)
    vectors[3, 1] = 0
    given = routing if named else None
    expected = sketched(vectors, given)
    for name in ("token_overlap", "memory"):
        monkeypatch.setattr(sys.modules[f"simgap.overlaps.{name}"], "on_cpu", lambda _: False)
    assert sketched(vectors, given) == pytest.approx(expected, rel=1e-10)


def test_no_named_expert_has_no_sketch():
    assert isinstance(Signs.of(np.zeros((4, 2), int), (4, 2), 8).sketches(), Sketches)
    assert Signs.of(None, (4, 2), 8).groups == 1


def test_drawn_signs_of_vectors():
    """2,000 draws against the closed forms, within 5 standard errors."""
    vectors = unit(np.random.default_rng(13).standard_normal((4, 30)))
    mean, variance, third = of_vectors(size_sums(torch.from_numpy(vectors)))
    drawn = 6 * flipped_overlaps(torch.from_numpy(vectors), 2000)
    assert len(np.unique(drawn)) > 1990
    assert abs(drawn.mean() - mean) < SIGMA * math.sqrt(variance / 2000)
    squares = (drawn - mean) ** 2
    assert abs(squares.mean() - variance) < SIGMA * squares.std() / math.sqrt(2000)
    cubes = (drawn - mean) ** 3
    assert abs(cubes.mean() - third) < SIGMA * cubes.std() / math.sqrt(2000)
    assert abs(drawn.mean() - 1.1 * mean) > SIGMA * math.sqrt(variance / 2000)


@pytest.mark.parametrize("named", [True, False])
def test_drawn_signs_of_tokens(named):
    """The same for tokens; a sign to each pair instead of each expert has another third moment, and common ones another spread."""
    rng = np.random.default_rng(14)
    vectors, routing = layer(rng, 300, 2, 6, 3)
    vectors = rng.standard_normal((3, 6))[np.maximum(routing, 0)] + 0.3 * vectors
    there = routing >= 0
    if named:
        mean, variance, third = brute_cumulants(brute_forms(vectors, routing, 3), 3)
    else:
        mean, variance, third = brute_cumulants({(0, 1): sum(brute_forms(vectors, routing, 3).values())}, 2)
    meetings = TokenPairs.of(routing if named else None, there, 3 if named else 1)
    draws = 40_000 if named else 4000
    drawn = flipped_token_overlaps(torch.from_numpy(vectors), meetings, draws)
    assert abs(drawn.mean() - mean) < SIGMA * math.sqrt(variance / draws)
    squares, cubes = (drawn - mean) ** 2, (drawn - mean) ** 3
    assert abs(squares.mean() - variance) < SIGMA * squares.std() / math.sqrt(draws)
    assert abs(cubes.mean() - third) < SIGMA * cubes.std() / math.sqrt(draws)
    if named:
        without = third - 24 * (math.prod(brute_forms(vectors, routing, 3).values()) * (1 - np.eye(6))).sum()
        assert abs(cubes.mean() - without) > SIGMA * cubes.std() / math.sqrt(draws)
