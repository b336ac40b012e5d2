"""Both plans of dispatch against the obvious loop."""

import numpy as np
import pytest
import torch

from simgap.batch_invariant import ALIGNED
from simgap.moe.dispatch import everywhere, routed_only

E = 5


def random_table(seed, trials=3, tokens=17, k=3, missing=0.0, experts=E):
    """Distinct experts per token, a share of the slots empty, empty slots anywhere."""
    generator = np.random.default_rng(seed)
    table = np.stack([[generator.permutation(experts)[:k] for _ in range(tokens)] for _ in range(trials)])
    table[generator.random(table.shape) < missing] = -1
    return torch.from_numpy(table)


def idle_table():
    return random_table(4, experts=E - 1)  # the last expert gets no token


def empty_table():
    return torch.full((2, 6, 3), -1)


def crowded_table():
    return torch.tensor([[[0], [0], [0], [0]], [[0], [1], [2], [3]]])


TABLES = {
    "full": random_table(0),
    "holes": random_table(1, missing=0.4),
    "one expert each": random_table(2, k=1),
    "every expert": random_table(3, k=E),
    "an idle expert": idle_table(),
    "no expert at all": empty_table(),
    "one token": random_table(5, tokens=1),
    "all on one": crowded_table(),
    "a token without any": torch.tensor([[[-1, -1], [2, 0], [-1, 4]]]),
}


def check_slots(plan, table):
    """Every slot's row lies in its expert's rows, holds the slot's token, is owned by the expert, and belongs to no other slot."""
    s, n, k = table.shape
    length = plan.tokens.shape[-1]
    assert (plan.tokens.shape, plan.owner.shape) == ((s, E, length), (s, E * length))
    assert plan.index.shape == (s, n, k)
    for trial in range(s):
        used = set()
        for token in range(n):
            for slot in range(k):
                expert, row = int(table[trial, token, slot]), int(plan.index[trial, token, slot])
                assert (row == -1) == (expert == -1)
                if expert >= 0:
                    assert row // length == expert
                    assert int(plan.tokens[trial].flatten()[row]) == token
                    assert int(plan.owner[trial, row]) == expert
                    assert row not in used
                    used.add(row)
        assert int((plan.owner[trial] >= 0).sum()) == len(used)


@pytest.mark.parametrize("name", TABLES)
def test_routed_only(name):
    table = TABLES[name]
    plan = routed_only(table, E)
    check_slots(plan, table)
    loads = [[int((table[t] == e).sum()) for e in range(E)] for t in range(len(table))]
    longest, length = max(1, max(map(max, loads))), plan.tokens.shape[-1]
    assert length % ALIGNED == 0
    assert longest <= length < longest + ALIGNED
    for trial, expert in np.ndindex(len(table), E):
        load = loads[trial][expert]
        # Tokens in their order, then padding that points at a token which exists.
        own = [t for t in range(table.shape[1]) if expert in table[trial, t].tolist()]
        assert plan.tokens[trial, expert, :load].tolist() == own
        assert plan.owner[trial].view(E, length)[expert].tolist() == [expert] * load + [-1] * (length - load)
    assert int(plan.tokens.min()) >= 0
    assert int(plan.tokens.max()) < table.shape[1]


@pytest.mark.parametrize("name", TABLES)
def test_everywhere(name):
    table = TABLES[name]
    plan = everywhere(table, E)
    check_slots(plan, table)
    s, n, _ = table.shape
    assert plan.tokens.shape == (s, E, -(-n // ALIGNED) * ALIGNED)
    owner = plan.owner.view(plan.tokens.shape)
    assert torch.equal(plan.tokens[..., :n], torch.arange(n).expand(s, E, n))
    assert not plan.tokens[..., n:].any()
    assert bool((owner[..., n:] == -1).all())
    for trial, expert, token in np.ndindex(s, E, n):
        assert int(owner[trial, expert, token]) == (expert if expert in table[trial, token].tolist() else -1)


@pytest.mark.parametrize("name", TABLES)
def test_both_plans_gather_the_same_vectors(name):
    """What a slot reads is a function of (expert, token) alone, whichever plan computed it."""
    table = TABLES[name]
    s, n, _ = table.shape
    values = torch.arange(s * E * n).reshape(s, E, n)  # a distinct number for each (trial, expert, token)
    read = []
    for plan in (routed_only(table, E), everywhere(table, E)):
        rows = values.gather(2, plan.tokens).flatten(1)
        read.append(torch.where(plan.index < 0, -1, rows.gather(1, plan.index.clamp(min=0).flatten(1)).view(table.shape)))
    assert torch.equal(read[0], read[1])
    expected = [
        [[-1 if e < 0 else int(values[t, e, i]) for e in row] for i, row in enumerate(trial.tolist())] for t, trial in enumerate(table)
    ]
    assert read[0].tolist() == expected


def test_experts_without_tokens_keep_rows():
    plan = routed_only(empty_table(), E)
    assert plan.tokens.shape == (2, E, ALIGNED)
    assert bool((plan.owner == -1).all())
    assert bool((plan.index == -1).all())
