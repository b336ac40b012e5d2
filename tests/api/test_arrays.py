import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

import simgap as sg
from tests import reference


def round_off(width):
    """A dot product of `width` terms in float64, in any order, is off by at most width eps |u||v|; cos^2 takes in four such errors."""
    return 4 * (width + 4) * np.finfo(np.float64).eps


def null_variance(width):
    """Var cos^2 of independent isotropic vectors, from the moments of Beta(1/2, (width - 1) / 2)."""
    a, b = Fraction(1, 2), Fraction(width - 1, 2)
    return a * b / ((a + b) ** 2 * (a + b + 1))


def as_float16(array, tmp_path):
    return torch.from_numpy(array).half()


def as_bfloat16(array, tmp_path):
    return torch.from_numpy(array).bfloat16()


def as_memmap(array, tmp_path):
    path = tmp_path / "array.bin"
    array.astype(np.float32).tofile(path)
    return np.memmap(path, np.float32, mode="r", shape=array.shape)


KINDS = {
    "float64": lambda array, _: array,
    "float32": lambda array, _: array.astype(np.float32),
    "float16": lambda array, _: array.astype(np.float16),
    "longdouble": lambda array, _: array.astype(np.longdouble),
    "big-endian": lambda array, _: array.astype(">f8"),
    "int64": lambda array, _: np.rint(9 * array).astype(np.int64),
    "int8": lambda array, _: np.rint(9 * array).astype(np.int8),
    "list": lambda array, _: array.tolist(),
    "reversed view": lambda array, _: array[::-1, ..., ::-1],
    "transposed view": lambda array, _: np.ascontiguousarray(array.T).T,
    "read-only memmap": as_memmap,
    "torch float64": lambda array, _: torch.from_numpy(array),
    "torch float32 with gradient": lambda array, _: torch.from_numpy(array).float().requires_grad_(),
    "torch float16": as_float16,
    "torch bfloat16": as_bfloat16,
    "torch int32": lambda array, _: torch.from_numpy(np.rint(9 * array)).int(),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def in_float64(value):
    """What the oracle sees: exactly the numbers that were handed over."""
    if isinstance(value, torch.Tensor):
        return value.detach().double().numpy()
    return np.asarray(value).astype(np.float64)


def assert_consistent(overlap, width):
    """What follows from mean, null and null_sd by their definitions."""
    assert overlap.round_null == 1 / width
    assert overlap.excess == pytest.approx(overlap.mean / overlap.null, rel=1e-14)
    assert overlap.z == pytest.approx((overlap.mean - overlap.null) / overlap.null_sd, rel=1e-9)
    assert 0 < overlap.p <= 1
    assert "\n" not in str(overlap)
    assert str(overlap).startswith(f"overlap {overlap.mean:.4g}")


@kinds
def test_weight_mso_against_the_oracle(kind, tmp_path):
    weights = KINDS[kind](np.random.default_rng(0).standard_normal((5, 6, 4)), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        overlap = sg.weight_mso(weights)
    flat = in_float64(weights).reshape(5, -1)
    mean, pairs = reference.mean_overlap(flat)
    assert overlap.mean == pytest.approx(mean, abs=round_off(24))
    assert overlap.pairs == pairs == 10
    assert overlap.dropped == 0
    sem = np.std(list(reference.pair_overlaps(flat).values()), ddof=1) / math.sqrt(10)
    assert overlap.sem == pytest.approx(sem, rel=1e-9)
    null, variance = reference.sign_null(flat)
    assert (overlap.null, overlap.null_sd) == pytest.approx((null, math.sqrt(variance)), rel=1e-12)
    assert_consistent(overlap, 24)


@kinds
def test_token_mso_against_the_oracle(kind, tmp_path):
    vectors = KINDS[kind](np.random.default_rng(1).standard_normal((12, 3, 8)), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        overlap = sg.token_mso(vectors)
    means, counts = reference.token_overlap(in_float64(vectors))
    assert overlap.mean == pytest.approx(np.mean(means), abs=round_off(8))
    assert overlap.pairs == sum(counts) == 36
    assert overlap.sem == pytest.approx(np.std(means, ddof=1) / math.sqrt(12), rel=1e-9)
    # Formats of less than 64 bits are multiplied in float32.
    narrow = any(name in kind for name in ("float32", "float16", "memmap"))
    null = np.mean([reference.sign_null(token)[0] for token in in_float64(vectors)])
    assert overlap.null == pytest.approx(null, rel=1e-6 if narrow else 1e-12)
    assert_consistent(overlap, 8)


@kinds
def test_mean_mso_against_the_oracle(kind, tmp_path):
    rng = np.random.default_rng(2)
    vectors = KINDS[kind](rng.standard_normal((30, 2, 8)), tmp_path)
    routing = np.array([rng.permutation(5)[:2] for _ in range(30)])
    routing[::7, 1] = -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        overlap = sg.mean_mso(vectors, routing)
    every = np.zeros((30, 5, 8))
    for t, slots in enumerate(routing):
        for slot, expert in enumerate(slots):
            if expert >= 0:
                every[t, expert] = in_float64(vectors)[t, slot]
    mean, pairs = reference.mean_overlap(reference.mean_vectors(every, routing))
    # The means carry a sum's error over at most 30 tokens; entries of size up to 4 against a mean vector's length near 1.
    assert overlap.mean == pytest.approx(mean, abs=round_off(8) + 4 * 30 * 4 * np.finfo(np.float64).eps * math.sqrt(8))
    assert overlap.pairs == pairs == 10
    null, variance = reference.sign_null(reference.mean_vectors(every, routing))
    assert (overlap.null, overlap.null_sd) == pytest.approx((null, math.sqrt(variance)), rel=1e-9)
    assert_consistent(overlap, 8)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, ">i4"])
def test_routing_of_any_whole_type(dtype):
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((9, 2, 4))
    routing = np.array([rng.permutation(3)[:2] for _ in range(9)])
    assert sg.mean_mso(vectors, routing.astype(dtype)) == sg.mean_mso(vectors, torch.from_numpy(routing))


def test_two_experts_have_no_sem():
    overlap = sg.weight_mso(np.array([[3.0, 4.0], [4.0, 3.0]]))
    assert overlap.mean == pytest.approx(0.9216, rel=4e-16)
    assert overlap.sem is None
    assert overlap.pairs == 1
    assert "±" not in str(overlap)


def test_width_one_has_nothing_to_compare():
    overlap = sg.weight_mso(np.array([[2.0], [-3.0]]))
    assert (overlap.mean, overlap.null, overlap.null_sd, overlap.z, overlap.p) == (1, 1, 0, 0, 1)


def test_p_at_one_pair_of_many_entries_is_the_exact_tail():
    """cos^2 of one pair with entries of equal size is chi^2 of one degree of freedom over N, to an error of order 1/N."""
    overlap = sg.weight_mso(np.sign(np.random.default_rng(4).standard_normal((2, 4000))))
    assert overlap.p == pytest.approx(stats.chi2(1).sf(4000 * overlap.mean), rel=1e-3)
    assert (overlap.null, overlap.round_null) == pytest.approx((1 / 4000, 1 / 4000), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_float32_norms_far_from_one(scale):
    vectors = np.random.default_rng(5).standard_normal((20, 3, 8)).astype(np.float32)
    scaled = (vectors * np.float32(scale)).astype(np.float32)
    routing = np.tile([0, 1, 2], (20, 1))
    for plain, far in [
        (sg.weight_mso(vectors), sg.weight_mso(scaled)),
        (sg.token_mso(vectors), sg.token_mso(scaled)),
        (sg.mean_mso(vectors, routing), sg.mean_mso(scaled, routing)),
    ]:
        # Scaling rounds each float32 entry once.
        assert far.mean == pytest.approx(plain.mean, rel=8 * float(np.finfo(np.float32).eps))
        assert far.null_sd == pytest.approx(plain.null_sd, rel=1e-5)


def form_variance(vectors, routing=None):
    """Law T0 by loops: 2 sum of squares off the diagonal of M, of each pair of experts or of all pairs of slots together."""
    forms = {}
    width = vectors.shape[2]
    for t, token in enumerate(vectors):
        units = [v / np.linalg.norm(v) for v in token]
        for i in range(len(units)):
            for j in range(i + 1, len(units)):
                pair = None if routing is None else tuple(sorted((routing[t][i], routing[t][j])))
                a = units[i] * units[j]
                forms[pair] = forms.get(pair, np.zeros((width, width))) + np.outer(a, a)
    return sum(2 * (m**2).sum() - 2 * (np.diagonal(m) ** 2).sum() for m in forms.values())


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_token_null_sd_against_loops(k, shared):
    """Six coordinates, for which it is exact."""
    rng = np.random.default_rng([k, int(2 * shared)])
    vectors = shared * rng.standard_normal((1, k, 6)) + (1 - shared) * rng.standard_normal((14, k, 6))
    routing = np.argsort(rng.random((14, 4)), 1)[:, :k]
    pairs = 14 * k * (k - 1) // 2
    assert sg.token_mso(vectors).null_sd == pytest.approx(math.sqrt(form_variance(vectors)) / pairs, rel=1e-10)
    assert sg.token_mso(vectors, routing=routing).null_sd == pytest.approx(math.sqrt(form_variance(vectors, routing)) / pairs, rel=1e-10)


def test_null_sd_of_one_token_is_that_of_its_pairs():
    vectors = np.random.default_rng(6).standard_normal((1, 4, 9))
    overlap = sg.token_mso(vectors, routing=np.arange(4)[None])
    assert overlap.null_sd == pytest.approx(math.sqrt(reference.sign_null(vectors[0])[1]), rel=1e-12)
    assert overlap.sem is None


def test_tokens_that_repeat_one_pair_keep_the_spread_of_one_pair():
    one = np.random.default_rng(7).standard_normal((1, 2, 12))
    vectors = np.repeat(one, 50, axis=0)
    for given in ({}, {"routing": np.tile([3, 1], (50, 1))}):
        assert sg.token_mso(vectors, **given).null_sd == pytest.approx(math.sqrt(reference.sign_null(one[0])[1]), rel=1e-12)


REPETITIONS = 500
TOKENS, WIDTH, EXPERTS = 32, 24, 4


def independent_tokens(rng):
    return rng.standard_normal((TOKENS, 2, WIDTH))


def frozen_experts(rng):
    """Each expert says the same on every token: only their 6 pairs count, however many tokens there are."""
    outputs = rng.standard_normal((EXPERTS, WIDTH))
    routing = rng.permuted(np.tile(np.arange(EXPERTS), (TOKENS, 1)), axis=1)[:, :2]
    return outputs[routing] * rng.standard_normal((TOKENS, 2, 1))


def squares(draw, seed):
    """z^2 with the reported null_sd, and with that of independent pairs."""
    rng = np.random.default_rng(seed)
    naive = math.sqrt(null_variance(WIDTH) / TOKENS)
    overlaps = [sg.token_mso(draw(rng)) for _ in range(REPETITIONS)]
    # null_sd is estimated from the same vectors and its covariance is held at zero or above: z^2 averages somewhat below one.
    return np.array([o.z**2 for o in overlaps]), np.array([((o.mean - o.null) / naive) ** 2 for o in overlaps])


def sigmas_from_one(values):
    return (values.mean() - 1) / (values.std(ddof=1) / math.sqrt(len(values)))


def test_z_has_unit_spread_for_independent_tokens():
    reported, naive = squares(independent_tokens, 8)
    assert abs(sigmas_from_one(naive)) < 5
    assert abs(sigmas_from_one(reported)) < 5
    assert sigmas_from_one(1.5**2 * naive) > 5


def test_z_has_unit_spread_for_frozen_experts():
    reported, naive = squares(frozen_experts, 9)
    assert abs(sigmas_from_one(reported)) < 5
    assert sigmas_from_one(naive) > 5
    assert naive.mean() > 3


def test_weight_z_has_unit_spread():
    rng = np.random.default_rng(10)
    values = np.array([sg.weight_mso(rng.standard_normal((5, 4, 6))).z ** 2 for _ in range(2000)])
    assert abs(sigmas_from_one(values)) < 5
    assert abs(sigmas_from_one(1.3**2 * values)) > 5


def test_zero_weights_are_dropped_and_named():
    weights = np.random.default_rng(11).standard_normal((5, 3, 3))
    weights[[1, 3]] = 0
    overlap = sg.weight_mso(weights)
    assert overlap.mean == pytest.approx(reference.mean_overlap(weights.reshape(5, 9))[0], abs=round_off(9))
    assert (overlap.pairs, overlap.dropped, overlap.dropped_at) == (3, 2, "expert 1, expert 3")
    assert str(overlap).endswith("; 2 undefined vectors left out (expert 1, expert 3)")
    assert_consistent(overlap, 9)


def test_zero_vectors_on_tokens_are_dropped_and_named():
    vectors = np.random.default_rng(12).standard_normal((8, 3, 5))
    vectors[3, 1] = 0
    vectors[6] = 0
    overlap = sg.token_mso(vectors)
    pairs = [c for token in vectors for c in reference.pair_overlaps(token).values() if not math.isnan(c)]
    assert overlap.mean == pytest.approx(np.mean(pairs), abs=round_off(5))
    assert (overlap.pairs, overlap.dropped) == (len(pairs), 4) == (19, 4)
    assert overlap.dropped_at.startswith("token 3 slot 1, token 6 slot 0, ")
    assert "4 undefined vectors left out (token 3 slot 1" in str(overlap)
    assert_consistent(overlap, 5)


def test_unreached_experts_are_dropped_and_named():
    vectors = np.random.default_rng(13).standard_normal((10, 2, 6))
    overlap = sg.mean_mso(vectors, np.tile([0, 3], (10, 1)))
    assert overlap.mean == pytest.approx(reference.cos2(vectors[:, 0].mean(0), vectors[:, 1].mean(0)), abs=10 * round_off(6))
    assert (overlap.pairs, overlap.dropped, overlap.dropped_at) == (1, 2, "expert 1, expert 2")
    assert "expert 1, expert 2" in str(overlap)


def test_padding_of_a_routing_is_never_read():
    vectors = np.random.default_rng(14).standard_normal((6, 2, 4))
    routing = np.tile([0, 1], (6, 1))
    routing[2, 1] = -1
    expected = sg.mean_mso(vectors, routing)
    vectors[2, 1] = math.nan
    assert sg.mean_mso(vectors, routing) == expected


@pytest.mark.parametrize("shape", [(), (3,), (1, 4), (0, 4)])
def test_weight_mso_refuses_fewer_than_two_experts(shape):
    with pytest.raises(ValueError, match=r"weights: expected \(E, \.\.\.\) with at least 2 experts and some entries, got shape \("):
        sg.weight_mso(np.ones(shape))


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 1, 3), (0, 2, 3), (4, 2, 1, 3)])
def test_token_mso_refuses_other_shapes(shape):
    with pytest.raises(
        ValueError, match=r"vectors: expected \(\.\.\., k, width\) with at least one token, k >= 2, width >= 1, got shape \("
    ):
        sg.token_mso(np.ones(shape))


@pytest.mark.parametrize("routing", [np.zeros((3, 2)), np.full((3, 2), -1), np.full((3, 2), -2), torch.zeros(3, 2)])
def test_mean_mso_refuses_a_routing_that_names_no_experts(routing):
    with pytest.raises(ValueError, match=r"routing: expected (whole numbers|indices from 0)"):
        sg.mean_mso(np.ones((3, 2, 4)), routing)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_its_place(bad):
    vectors = np.random.default_rng(15).standard_normal((6, 2, 4))
    vectors[3, 1, 2] = bad
    with pytest.raises(ValueError, match="weights: expert 3 holds a value that is not finite"):
        sg.weight_mso(vectors)
    with pytest.raises(ValueError, match="vectors: not finite at token 3 slot 1"):
        sg.token_mso(vectors)
    with pytest.raises(ValueError, match="vectors: not finite at token 3 slot 1"):
        sg.mean_mso(vectors, np.tile([0, 1], (6, 1)))


def test_what_is_not_finite_is_found_among_many_tokens():
    vectors = np.random.default_rng(16).standard_normal((3000, 2, 3))
    vectors[2500, 0, 1] = math.nan
    with pytest.raises(ValueError, match="vectors: not finite at "):
        sg.token_mso(vectors)


def test_nothing_but_zeros_is_refused():
    with pytest.raises(ValueError, match="weights: fewer than 2 experts have a non-zero vector"):
        sg.weight_mso(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="vectors: no token has two non-zero vectors"):
        sg.token_mso(np.zeros((5, 2, 3)))
    with pytest.raises(ValueError, match="vectors: fewer than 2 experts have a non-zero vector"):
        sg.mean_mso(np.zeros((5, 2, 3)), np.tile([0, 1], (5, 1)))


def test_one_reached_expert_is_refused():
    with pytest.raises(ValueError, match="vectors: fewer than 2 experts"):
        sg.mean_mso(np.ones((4, 1, 3)), np.zeros((4, 1), int))


@pytest.mark.parametrize(
    "weights", [np.ones((3, 4), complex), np.ones((3, 4), bool), np.array([["a", "b"], ["c", "d"]]), torch.ones(3, 4).bool()]
)
def test_what_is_not_a_number_is_refused(weights):
    with pytest.raises(ValueError, match=r"weights: expected (real )?numbers, got dtype"):
        sg.weight_mso(weights)


def test_inputs_are_left_as_they_were():
    vectors = np.random.default_rng(17).standard_normal((5, 2, 4))
    routing = np.tile([0, 1], (5, 1))
    before = vectors.copy(), routing.copy()
    sg.weight_mso(vectors)
    sg.token_mso(vectors)
    sg.mean_mso(vectors, routing)
    np.testing.assert_array_equal(vectors, before[0])
    np.testing.assert_array_equal(routing, before[1])
