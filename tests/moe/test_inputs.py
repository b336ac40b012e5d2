"""Tokens: each law's moments at a fixed n, and files that are read or refused with a reason."""

import math

import numpy as np
import pytest
import torch

from simgap.moe.group import draws_of
from simgap.moe.inputs import open_inputs
from simgap.sources import TOKEN_BLOCK
from simgap.specs import InputSpec, LayerSpec

SIGMA = 5.0
D = 16
TRIALS, TOKENS = 200, 250  # 50,000 tokens, 200 independent trials
KINDS = ["gaussian", "sphere", "powerlaw", "clusters", "student"]
DTYPES = ["float32", "float64"]


def opened(inputs, d):
    """A function of (seed, trials, tokens, dtype) that gives tokens of one law."""
    spec = LayerSpec(d_model=d, inputs=inputs)
    source = open_inputs(draws_of(spec, 0, [0]))
    return lambda seed, trials, tokens, dtype: source(draws_of(spec, seed, trials), tokens, dtype)


def draw(trials=range(TRIALS), tokens=TOKENS, d=D, dtype="float64", seed=0, **fields):
    return opened(InputSpec(**fields), d)(seed, trials, tokens, dtype).double().numpy()


def mean_z(trial_values, expected):
    """z of independent trial values against their expectation."""
    return (trial_values.mean() - expected) / (trial_values.std(ddof=1) / math.sqrt(len(trial_values)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["gaussian", "powerlaw", "clusters", "student"])
def test_squared_length_is_the_width_on_average(kind, dtype):
    x = draw(kind=kind, dtype=dtype, dof=12.0)
    squares = (x**2).sum(-1).mean(1)
    assert abs(mean_z(squares, D)) < SIGMA
    # The twin is a width 10% off. Trials spread most for clusters: 2 d separation^2 / n_clusters per trial, sem 0.07, so 22 sigma at least.
    assert abs(mean_z(squares, 1.1 * D)) > SIGMA
    assert x.shape == (TRIALS, TOKENS, D)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sphere_is_exact(dtype):
    x = draw(trials=[0, 5], tokens=TOKEN_BLOCK + 10, kind="sphere", dtype=dtype)
    # A norm of d squares is good to d / 2 + 2 units, and rescaling by it rounds once more.
    assert np.abs((x**2).sum(-1) / D - 1).max() < (D + 4) * np.finfo(dtype).eps
    directions = x.reshape(-1, D)
    assert np.abs(directions.mean(0)).max() * math.sqrt(len(directions)) < SIGMA


def test_powerlaw_variances():
    x = draw(kind="powerlaw", alpha=1.5).reshape(-1, D)
    spectrum = np.arange(1, D + 1) ** -1.5
    variance = spectrum * D / spectrum.sum()
    z = ((x**2).mean(0) / variance - 1) * math.sqrt(len(x) / 2)
    assert np.abs(z).max() < SIGMA
    twin = np.arange(1, D + 1) ** -1.4
    assert np.abs(((x**2).mean(0) / (twin * D / twin.sum()) - 1) * math.sqrt(len(x) / 2)).max() > SIGMA
    covariance = x.T @ x / len(x) / np.sqrt(np.outer(variance, variance))
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() * math.sqrt(len(x)) < SIGMA


def test_powerlaw_at_zero_is_gaussian():
    assert np.array_equal(draw(trials=[1], kind="powerlaw", alpha=0.0), draw(trials=[1], kind="gaussian"))


@pytest.mark.parametrize("separation", [0.2, 0.8])
def test_clusters_hold_their_share_of_the_variance(separation):
    """Two tokens of a trial share a centre with probability 1 / n_clusters, so E x_t . x_t' = d separation / n_clusters."""
    x = draw(kind="clusters", separation=separation, n_clusters=4)
    total = (x.sum(1) ** 2).sum(-1)
    products = (total - (x**2).sum((1, 2))) / (TOKENS * (TOKENS - 1))
    assert abs(mean_z(products, D * separation / 4)) < SIGMA
    assert abs(mean_z(products, 1.4 * D * separation / 4)) > SIGMA


def test_clusters_at_full_separation_are_their_centres():
    x = draw(trials=[3], tokens=TOKEN_BLOCK + 50, kind="clusters", separation=1.0, n_clusters=3)[0]
    centres = np.unique(x, axis=0)
    assert len(centres) == 3
    # The centres belong to the trial and not to a block of tokens.
    assert {tuple(row) for row in x[TOKEN_BLOCK:]} <= {tuple(row) for row in x[:TOKEN_BLOCK]}
    counts = np.array([(x == centre).all(1).sum() for centre in centres])
    assert np.abs(counts - len(x) / 3).max() < SIGMA * math.sqrt(len(x) * 2 / 9)


def test_clusters_without_separation_are_gaussian():
    assert np.allclose(draw(trials=[1], kind="clusters", separation=0.0), draw(trials=[1], kind="gaussian"), rtol=1e-15, atol=0)


def test_student_variance_and_tails():
    x = draw(kind="student", dof=12.0).ravel()
    # Kurtosis 3 + 6 / (dof - 4) = 3.75, so x^2 has variance 2.75.
    error = math.sqrt(2.75 / x.size)
    assert abs(np.mean(x**2) - 1) < SIGMA * error
    assert abs(np.mean(x**2) * 12 / 10 - 1) > SIGMA * error  # a t that was not rescaled
    # E |x| of a t of 12 degrees of freedom in units of its standard deviation; a Gaussian has sqrt(2 / pi).
    absolute = 2 * math.sqrt(12) * math.gamma(6.5) / (math.sqrt(math.pi) * math.gamma(6) * 11) / math.sqrt(1.2)
    error = math.sqrt((1 - absolute**2) / x.size)
    assert abs(np.mean(np.abs(x)) - absolute) < SIGMA * error
    assert abs(np.mean(np.abs(x)) - math.sqrt(2 / math.pi)) > SIGMA * error


@pytest.mark.parametrize("kind", KINDS)
def test_entries_have_mean_zero(kind):
    x = draw(kind=kind)
    per_trial = x.mean((1, 2))
    assert abs(mean_z(per_trial, 0.0)) < SIGMA
    assert abs(mean_z(per_trial, 0.2)) > SIGMA


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_one_vector_to_a_trial(kind, dtype):
    shift = draw(trials=[0, 1], kind=kind, mean=0.7, dtype=dtype) - draw(trials=[0, 1], kind=kind, dtype=dtype)
    # One rounding of a sum whose terms stay below 2^5.
    assert np.abs(shift - shift[:, :1]).max() < 64 * np.finfo(dtype).eps
    assert np.allclose(np.sqrt((shift**2).mean(-1)), 0.7, rtol=100 * np.finfo(dtype).eps)
    assert np.abs(shift[0, 0] - shift[1, 0]).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_trials_and_seeds(kind, dtype):
    together = draw(trials=[2, 7], tokens=30, kind=kind, dtype=dtype, mean=0.1)
    assert np.array_equal(together[1:], draw(trials=[7], tokens=30, kind=kind, dtype=dtype, mean=0.1))
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(together, draw(trials=[2, 7], tokens=30, kind=kind, dtype=dtype, mean=0.1, seed=1))


@pytest.mark.parametrize("kind", KINDS)
def test_whole_blocks_do_not_depend_on_the_tokens_after_them(kind):
    short, long = (draw(trials=[0], tokens=n, d=3, kind=kind, dtype="float32") for n in (TOKEN_BLOCK, TOKEN_BLOCK + 5))
    assert np.array_equal(long[:, :TOKEN_BLOCK], short)
    assert not np.array_equal(long[0, TOKEN_BLOCK:], short[0, :5])


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((40, 6))


def file_spec(path, tensor=""):
    return InputSpec(kind="file", path=str(path), tensor=tensor)


@pytest.mark.parametrize("stored", ["float16", "float32", "float64", ">f4"])
def test_npy_rows_are_drawn_without_replacement(tmp_path, rows, stored):
    matrix = rows.astype(stored)
    np.save(tmp_path / "x.npy", matrix)
    source = opened(file_spec(tmp_path / "x.npy"), 6)
    x = source(0, [0, 1], 30, "float64").numpy()
    known = {tuple(row): i for i, row in enumerate(matrix.astype("float64"))}
    chosen = [[known[tuple(row)] for row in trial] for trial in x]
    assert [len(set(trial)) for trial in chosen] == [30, 30]
    assert set(chosen[0]) != set(chosen[1])
    assert torch.equal(source(0, [1], 30, "float64")[0], torch.from_numpy(x[1]))
    everything = source(0, [0], 40, "float64").numpy()[0]
    assert sorted(map(tuple, everything)) == sorted(known)


def test_every_row_is_as_likely_as_any_other(tmp_path, rows):
    np.save(tmp_path / "x.npy", np.arange(40.0)[:, None] + np.zeros((1, 6)))
    x = opened(file_spec(tmp_path / "x.npy"), 6)(0, range(2000), 10, "float64").numpy()[..., 0]
    counts = np.bincount(x.astype(int).ravel(), minlength=40)
    # A row is among 10 of 40 with probability 1/4, in each of 2000 trials; the twin takes the first row 40% more often.
    z = (counts - 500) / math.sqrt(2000 * 0.25 * 0.75)
    assert np.abs(z).max() < SIGMA
    assert (1.4 * counts[0] - 500) / math.sqrt(2000 * 0.25 * 0.75) > SIGMA


def test_wrong_width(tmp_path, rows):
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(ValueError, match=r"^inputs\.path: '.*x\.npy' has rows of width 6, but d_model is 5$"):
        opened(file_spec(tmp_path / "x.npy"), 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("row", [0, 7, TOKEN_BLOCK + 3])
def test_a_row_that_is_not_finite_is_named(tmp_path, bad, row):
    matrix = np.zeros((TOKEN_BLOCK + 9, 2), np.float32)
    matrix[row, 1] = bad
    matrix[-1, 0] = bad
    np.save(tmp_path / "x.npy", matrix)
    with pytest.raises(ValueError, match=rf"^inputs\.path: row {row} of '.*x\.npy' is not finite$"):
        opened(file_spec(tmp_path / "x.npy"), 2)


def test_too_few_rows(tmp_path, rows):
    np.save(tmp_path / "x.npy", rows)
    source = opened(file_spec(tmp_path / "x.npy"), 6)
    with pytest.raises(ValueError, match=r"^tokens: 41 asked for, but '.*x\.npy' has 40 rows$"):
        source(0, [0], 41, "float32")


@pytest.mark.parametrize("ending", ["npy", "safetensors"])
def test_missing_files_and_folders(tmp_path, ending):
    with pytest.raises(ValueError, match=rf"^inputs\.path: cannot read '.*none\.{ending}': No such file"):
        opened(file_spec(tmp_path / f"none.{ending}"), 6)
    (tmp_path / f"folder.{ending}").mkdir()
    with pytest.raises(ValueError, match=rf"^inputs\.path: cannot read '.*folder\.{ending}': "):
        opened(file_spec(tmp_path / f"folder.{ending}"), 6)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_values_beyond_the_dtype_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.full((4, 6), 1e300))
    with pytest.raises(ValueError, match=r"^inputs\.path: row 0 of '.*x\.npy' "):
        opened(file_spec(tmp_path / "x.npy"), 6)(0, [0], 3, "float32")


def plain_and(tokens=300, trials=(0, 3), dtype="float64", **fields):
    """Tokens of one law without and with what the fields add."""
    bare = {name: value for name, value in fields.items() if name in ("kind", "mean", "alpha")}
    return tuple(draw(trials=list(trials), tokens=tokens, dtype=dtype, **chosen) for chosen in (bare, fields))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_massive_tokens_are_longer_and_the_others_as_they_were(kind, dtype):
    plain, found = plain_and(kind=kind, mean=0.5, massive=0.2, massive_scale=8.0, dtype=dtype)
    ratio = found / plain
    massive = ratio[..., 0] == 8
    assert np.isin(ratio, (1.0, 8.0)).all()
    assert (ratio == ratio[..., :1]).all()
    # 600 tokens, each massive with probability a fifth.
    assert abs(massive.mean() - 0.2) < SIGMA * math.sqrt(0.16 / massive.size)
    assert (massive[0] != massive[1]).any()
    # A token is massive whatever the number of tokens after it.
    few, fewer = plain_and(tokens=40, kind=kind, mean=0.5, massive=0.2, massive_scale=8.0, dtype=dtype)
    assert np.array_equal(fewer / few, ratio[:, :40])


@pytest.mark.parametrize("kind", ["gaussian", "powerlaw"])
def test_tokens_of_a_document_are_autoregressive(kind):
    """Each is rho times the one before it plus a part of its own, and a document's first token is new; documents cross blocks."""
    rho, size, tokens = 0.8, 7, TOKEN_BLOCK + 100
    plain, found = plain_and(kind=kind, tokens=tokens, document_tokens=size, document_correlation=rho)
    expected = plain.copy()
    for t in range(tokens):
        if t % size:
            expected[:, t] = rho * expected[:, t - 1] + math.sqrt(1 - rho**2) * plain[:, t]
    assert np.abs(found - expected).max() < 1e-12
    shorter = draw(trials=[0, 3], tokens=50, kind=kind, document_tokens=size, document_correlation=rho)
    assert np.array_equal(shorter, found[:, :50])


@pytest.mark.parametrize("kind", ["gaussian", "sphere", "powerlaw"])
def test_documents_leave_the_law_of_one_token(kind):
    """Second moments of every place in a document, over 4,000 documents, and the correlation of neighbours."""
    rho, size = 0.9, 4
    found = draw(trials=range(40), tokens=400, kind=kind, document_tokens=size, document_correlation=rho)
    spectrum = np.arange(1, D + 1) ** -1.0 if kind == "powerlaw" else np.ones(D)
    variance = spectrum * D / spectrum.sum()
    for place in range(size):
        squares = (found[:, place::size].reshape(-1, D) ** 2) / variance
        assert (np.abs(squares.mean(0) - 1) < SIGMA * squares.std(0, ddof=1) / math.sqrt(len(squares))).all()
    pairs = (found[:, 1::size] * found[:, 0::size]).sum(-1).ravel() / D
    error = pairs.std(ddof=1) / math.sqrt(len(pairs))
    # A sphere's tokens are brought back to their length: their cosine is rho up to O(1/d).
    assert abs(pairs.mean() - rho) < SIGMA * error + (0.2 / D if kind == "sphere" else 0)
    assert abs(pairs.mean() - 0.8) > SIGMA * error + (0.2 / D if kind == "sphere" else 0)
    apart = (found[:, size::size] * found[:, size - 1 : -1 : size]).sum(-1).ravel() / D
    assert abs(apart.mean()) < SIGMA * apart.std(ddof=1) / math.sqrt(len(apart))


def test_documents_without_correlation_are_names_alone():
    plain, found = plain_and(kind="gaussian", document_tokens=16)
    assert np.array_equal(plain, found)
