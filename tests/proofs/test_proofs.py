"""Every theorem stands: derived or certified, simulated, its controls refuted; and the command that says so."""

import json
import resource

import pytest

from proofs.__main__ import derivation, main, table
from proofs.runner import Result, run_all, run_theorem, theorems

# Every law of the theory, by its number; a letter more marks a part proved in a file of its own.
LAWS = [
    *(f"N{i}" for i in range(1, 8)),
    *(f"F{i}" for i in range(1, 6)),
    *(f"A{i}" for i in range(1, 8)),
    *("L1", "L2"),
    *(f"R{i}" for i in range(1, 8)),
    *("S1", "S2"),
    *("I1", "I2"),
    *("T0", "T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8", "T9", "T10"),
]
LIMIT_SECONDS, JOBS = 180, 2
# By the clock, whichever of these tests comes first: other processes may leave little of a machine.
pytestmark = pytest.mark.timeout(2400)


@pytest.fixture(scope="session")
def proof_run() -> tuple[list[Result], float]:
    """The proofs, and the seconds that they take on as many cores as they have jobs: of the processors' time, since other processes
    lengthen that of the clock."""
    start = processor_seconds()
    results = list(run_all(list(theorems().values()), jobs=JOBS))
    return results, (processor_seconds() - start) / JOBS


def processor_seconds() -> float:
    """Of this process, and of those that it has seen end."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def test_every_theorem_stands(proof_run):
    results, _ = proof_run
    assert [(r.id, r.objections) for r in results if not r.stands] == []


def test_every_law_has_its_theorem(proof_run):
    ids = [r.id for r in proof_run[0]]
    assert len(set(ids)) == len(ids)
    assert set(LAWS) <= set(ids)
    assert {i.rstrip("BCD") for i in ids} == set(LAWS)


def test_ids_are_file_names(proof_run):
    assert {r.name.partition("_")[0].upper() for r in proof_run[0]} == {r.id for r in proof_run[0]}


def test_the_run_is_short_enough(proof_run):
    assert proof_run[1] < LIMIT_SECONDS


def test_every_theorem_says_what_it_needs_and_was_attacked(proof_run):
    for r in proof_run[0]:
        assert r.statement.hypotheses, r.id
        assert r.statement.tight, r.id
        assert len(r.controls) >= 2, r.id
        assert all(c.stands for c in r.controls), r.id
        assert r.verdicts["numeric"] == "agrees", r.id
        assert {r.verdicts["symbolic"], r.verdicts["certified"]} <= {"proved", "not applicable"}, r.id


def test_claimed_constants_are_narrow(proof_run):
    certified = [r for r in proof_run[0] if r.verdicts["certified"] == "proved"]
    assert len(certified) >= 8
    for r in certified:
        assert r.radius is None or r.radius < 1e-20, r.id


def test_premises_that_are_computed_exist(proof_run):
    ids = {r.id for r in proof_run[0]}
    for r in proof_run[0]:
        for premise in r.statement.premises:
            if premise.mark == "computed":
                assert premise.text.split()[0].strip(",.;:") in ids, (r.id, premise.text)


def test_table_and_derivation(proof_run):
    results = proof_run[0]
    lines = table(results).splitlines()
    assert lines[0].split() == ["id", "statement", "symbolic", "certified", "numeric", "controls", "bits", "radius", "seconds"]
    assert lines[-1].startswith(f"{len(results)} of {len(results)} theorems stand")
    text = derivation(results[0])
    assert "hypothesis: " in text
    assert "  1. " in text
    assert text.splitlines()[-1].startswith("stands")


def test_the_template_stands():
    result = run_theorem("proofs.template")
    assert result.objections == ()
    assert result.radius < 1e-20


def test_json_is_the_table_as_a_list(capsys):
    assert main(["N3", "--json", "--jobs", "1"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["id"], found["stands"]) == ("N3", True)
    assert found["verdicts"]["symbolic"] == "proved"
    assert all(control["fails"] for control in found["controls"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["N9"], "no theorem 'N9'; did you mean "), (["--jobs", "0"], "--jobs: expected at least 1, got 0"), (["--jsn"], "--json")],
)
def test_mistakes_end_in_one_line(capsys, argv, message):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert err.count("\n") == 1
    assert message in err
