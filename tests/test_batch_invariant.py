"""The bits of a row do not depend on its place, on how many rows there are, or on where its memory begins.

Marked `bits`: repeated under other instruction sets and library modes (`make bits`).
"""

import random

import numpy as np
import pytest
import torch

from simgap.batch_invariant import ALIGNED, aligned, apply, matmul, one_by_one, rounded_up, sum_of_products
from simgap.moe.experts import ACTIVATION_FUNCTIONS
from simgap.threads import pool

SIZES = (1, 2, 3, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 129, 200, 255, 257, 300, 385, 511, 513, 700, 1025)
DTYPES = (torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def one_thread_an_operation():
    with pool():
        yield


def shapes(count: int, seed: int) -> list[tuple[int, int]]:
    chosen = random.Random(seed)  # noqa: S311 - a fixed mix
    return [(chosen.choice(SIZES), chosen.choice(SIZES)) for _ in range(count)]


def normal(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def moved(tensor: torch.Tensor, by: int) -> torch.Tensor:
    """The same numbers in memory that begins `by` numbers after a multiple of 64 bytes."""
    memory = torch.empty(tensor.numel() + by, dtype=tensor.dtype)[by:].view(tensor.shape)
    return memory.copy_(tensor)


def patterns(product, k: int, n: int, dtype, transposed: bool) -> set[bytes]:
    """The bits of one row's product among as many rows as a batch may have, in many places and memories."""
    row, weight = normal(k, dtype=dtype, seed=k), normal(n, k, dtype=dtype, seed=n)
    found = set()
    for batch, rows, by in ((1, 1, 0), (1, 16, 0), (3, 48, 0), (2, 176, 1), (3, 20, 3), (1, 400, 2), (5, 16, 0)):
        left = moved(row.expand(batch, rows, k), by)
        right = moved((weight if transposed else weight.mT).expand(batch, *(weight if transposed else weight.mT).shape), by)
        found |= {np.ascontiguousarray(part).tobytes() for part in product(left, right).reshape(-1, n).numpy()}
    return found


@pytest.mark.bits
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [True, False])
def test_a_row_of_a_product_has_the_same_bits_everywhere(dtype, transposed):
    several = {
        (k, n): len(found)
        for k, n in shapes(60, seed=1)
        if len(found := patterns(lambda left, right: sum_of_products(left, [right], transposed), k, n, dtype, transposed)) > 1
    }
    assert not several


def test_the_probe_sees_a_product_that_depends_on_its_place():
    def by_place(left, right):
        found = torch.bmm(left, right)
        # As a library may: a row that begins elsewhere is summed from the other end.
        found[:, 1::2] = torch.bmm(left.flip(-1), right.flip(-2))[:, 1::2]
        return found

    assert len(patterns(by_place, 100, 9, torch.float32, False)) > 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [True, False])
def test_a_product_is_the_product(dtype, transposed):
    for k, n in shapes(40, seed=2):
        left, right = normal(2, 19, k, dtype=dtype, seed=3), normal(2, k, n, dtype=dtype, seed=4)
        exact = torch.bmm(left.double(), right.double())
        out = torch.empty(2, 19, n, dtype=dtype)
        found = sum_of_products(left, [right.mT.contiguous() if transposed else right], transposed, out)
        assert found is out
        # A sum of k products of standard normal numbers errs by less than k units in the last place of its terms' absolute sum.
        bound = torch.finfo(dtype).eps * k * torch.bmm(left.double().abs(), right.double().abs())
        assert ((found.double() - exact).abs() <= bound).all()


def test_blocks_of_a_weight_are_added_in_order():
    left, W = normal(2, 4, 11, seed=3), normal(2, 11, 5, seed=4)
    first = sum_of_products(left[..., :4], iter([W[:, :4]]))
    kept = first.clone()
    blocks = [W[:, i : i + 4] for i in (0, 4, 8)]
    parts = [torch.bmm(left[..., i : i + 4], W[:, i : i + 4]) for i in (0, 4, 8)]
    assert torch.allclose(sum_of_products(left, iter(blocks)), sum(parts), rtol=0, atol=1e-5)
    assert torch.equal(sum_of_products(left, [block.mT for block in blocks], transposed=True), sum_of_products(left, blocks))
    # A first block alone is not touched by what a second adds.
    assert torch.equal(first, kept)
    assert torch.allclose(first, parts[0], rtol=0, atol=1e-5)
    # Cancelling halves of 2^24 keep the small term only if they are added first.
    one = torch.zeros(1, 1, 12)
    one[..., 0], one[..., 4], one[..., 8] = 2.0**25, -(2.0**25), 1.0
    assert sum_of_products(one, iter(torch.ones(1, 12, 1).split(4, 1))).item() == 1.0
    with pytest.raises(ValueError, match="weights: expected at least one block"):
        sum_of_products(one, iter([]))


def test_what_lies_aligned_is_read_where_it_lies():
    whole = torch.zeros(2, 32, 48)
    assert aligned(whole) is whole
    part = whole[:, :, 16:32]
    assert aligned(part) is part
    for odd in (whole[:, :31], whole[:, :, :47], whole[:, :, 1:17], moved(whole, 1), whole.mT):
        found = aligned(odd)
        assert found.data_ptr() % 64 == 0
        assert found.shape[1:] == (rounded_up(odd.shape[1]), rounded_up(odd.shape[2]))
        assert found.stride(2) == 1
        assert found.stride(1) % ALIGNED == 0


def test_padding_is_zeros_and_the_rest_is_kept():
    found = aligned(normal(2, 3, 5))
    assert torch.equal(found[:, :3, :5], normal(2, 3, 5))
    assert found.count_nonzero() == 30


@pytest.mark.bits
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*ACTIVATION_FUNCTIONS, "sigmoid", "logsigmoid"])
def test_a_function_has_the_same_bits_everywhere(name, dtype):
    function = {"sigmoid": torch.sigmoid_, "logsigmoid": torch.nn.functional.logsigmoid, **ACTIVATION_FUNCTIONS}[name]
    numbers = 3 * normal(97, dtype=dtype)
    expected = apply(function, numbers.repeat(64))[:97].numpy().tobytes()
    for before in (0, 1, 5, 31, 63, 64):
        for after in (0, 1, 30):
            values = torch.cat([normal(before, dtype=dtype, seed=1), numbers, normal(after, dtype=dtype, seed=2)])
            assert apply(function, values)[before : before + 97].numpy().tobytes() == expected
    assert torch.allclose(apply(function, numbers.clone()), function(numbers.clone()), rtol=1e-5, atol=1e-6)


@pytest.mark.bits
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decompose", [torch.linalg.qr, torch.linalg.eigh])
def test_a_decomposition_has_the_same_bits_everywhere(decompose, dtype):
    for size in (2, 3, 9, 17, 33, 65):
        matrix = normal(size, size, dtype=dtype, seed=size)
        matrix = matrix + matrix.mT if decompose is torch.linalg.eigh else matrix
        expected = [part.numpy().tobytes() for part in one_by_one(decompose, matrix)]
        for batch, by in ((3, 0), (2, 1), (7, 3)):
            for parts, alone in zip(one_by_one(decompose, moved(matrix.expand(batch, size, size), by)), expected, strict=True):
                assert {part.numpy().tobytes() for part in parts} == {alone}


def test_decompositions_keep_the_shape_of_a_batch():
    q, r = one_by_one(torch.linalg.qr, normal(2, 3, 5, 4))
    assert (q.shape, r.shape) == ((2, 3, 5, 4), (2, 3, 4, 4))
    assert torch.allclose(matmul(q, r), normal(2, 3, 5, 4), atol=1e-5)


@pytest.mark.bits
@pytest.mark.parametrize("dtype", DTYPES)
def test_reductions_over_the_last_axis_go_row_by_row(dtype):
    reductions = {
        "layernorm": lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]),
        "mean square": lambda x: x.square().mean(-1, keepdim=True),
        "softmax": lambda x: torch.softmax(x, -1),
    }
    for name, reduce in reductions.items():
        for width in SIZES:
            row = normal(width, dtype=dtype, seed=width)
            found = set()
            for batch, rows, by in ((1, 1, 0), (1, 7, 1), (3, 20, 0), (2, 5, 3)):
                reduced = reduce(moved(row.expand(batch, rows, width), by))
                found |= {np.ascontiguousarray(part).tobytes() for part in reduced.reshape(batch * rows, -1).numpy()}
            assert len(found) == 1, (name, width)
