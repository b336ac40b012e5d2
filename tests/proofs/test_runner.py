"""What the runner objects to: theorems made for the purpose, each wrong in one way."""

import sys
import types
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
from flint import arb

from proofs import __main__ as command
from proofs import runner
from proofs.runner import run_theorem, theorems
from proofs.statement import EQUAL, Check, Derivation, Statement, Wrong, symbolically_equal
from simgap.certify import Verdict

STATEMENT = Statement(id="T", kind=EQUAL, title="a trial", claim="x", hypotheses=("none worth the name",))


def checked(verdict: Verdict, **more) -> Check:
    return Check(verdict, **more)


def theorem(monkeypatch, **parts) -> str:
    """A module that stands, but for the parts given. Its law is a verdict: what every way says of it."""
    module = types.ModuleType("proofs_under_test")
    module.STATEMENT, module.LAW = STATEMENT, "right"
    module.symbolic = lambda law: checked(Verdict.PROVED if law == "right" else Verdict.REFUTED)
    module.certified = lambda law: Check.not_applicable("nothing to enclose")
    module.numeric = lambda law: checked(Verdict.AGREES if law == "right" else Verdict.REFUTED)
    module.control = lambda: [Wrong("wrong", "wrong")]
    for name, part in parts.items():
        setattr(module, name, part)
    monkeypatch.setitem(sys.modules, "proofs_under_test", module)
    return "proofs_under_test"


def objections(monkeypatch, **parts) -> tuple[str, ...]:
    return run_theorem(theorem(monkeypatch, **parts)).objections


def test_a_theorem_stands(monkeypatch):
    result = run_theorem(theorem(monkeypatch))
    assert result.objections == ()
    assert (result.bits, result.radius) == (None, None)


@pytest.mark.parametrize("verdict", [Verdict.UNDECIDED, Verdict.REFUTED, Verdict.AGREES])
def test_a_derivation_that_does_not_prove(monkeypatch, verdict):
    found = objections(monkeypatch, symbolic=lambda law: checked(verdict if law == "right" else Verdict.REFUTED, reason="a gap"))
    assert found == (f"symbolic: {verdict} (a gap)",)


def test_a_simulation_proves_nothing(monkeypatch):
    found = objections(monkeypatch, numeric=lambda law: checked(Verdict.PROVED if law == "right" else Verdict.REFUTED))
    assert found == ("numeric: proved",)


def test_a_simulation_must_apply(monkeypatch):
    found = objections(monkeypatch, numeric=lambda law: Check.not_applicable("tired"))
    assert found == ("numeric: not applicable (tired)",)


def test_one_of_derivation_and_certificate_must_apply(monkeypatch):
    found = objections(monkeypatch, symbolic=lambda law: Check.not_applicable("hard"))
    assert found == ("neither derived nor certified",)


def test_not_applicable_needs_a_reason(monkeypatch):
    assert objections(monkeypatch, certified=lambda law: Check.not_applicable("")) == ("certified: not applicable, without a reason",)


def test_a_control_that_does_not_fail(monkeypatch):
    found = objections(monkeypatch, numeric=lambda law: checked(Verdict.AGREES))
    assert found == ("control does not fail: wrong (symbolic refuted, numeric agrees)",)


def test_an_undecided_control_does_not_fail(monkeypatch):
    found = objections(monkeypatch, symbolic=lambda law: checked(Verdict.PROVED if law == "right" else Verdict.UNDECIDED))
    assert found == ("control does not fail: wrong (symbolic undecided, numeric refuted)",)


def test_no_control(monkeypatch):
    assert objections(monkeypatch, control=list) == ("no control: nothing wrong was tried",)


def test_a_way_left_out_of_a_control_needs_a_reason(monkeypatch):
    def numeric(law):
        return checked(Verdict.AGREES)

    silent = objections(monkeypatch, numeric=numeric, control=lambda: [Wrong("wrong", "wrong", ways=("symbolic",))])
    assert silent == ("control does not fail: wrong (symbolic refuted)",)
    assert objections(monkeypatch, numeric=numeric, control=lambda: [Wrong("w", "wrong", ways=("symbolic",), why="too small to see")]) == ()


def enclosing(balls):
    """A certificate that gives the next ball at each call, and refutes wrong laws."""
    balls = iter(balls)
    return lambda law: checked(Verdict.PROVED, enclosures={"x": next(balls)}) if law == "right" else checked(Verdict.REFUTED)


def test_enclosures_at_twice_the_precision_lie_with_the_first(monkeypatch):
    assert objections(monkeypatch, certified=enclosing([arb(1, 0.1), arb("1.05", 0.01)])) == ()
    found = objections(monkeypatch, certified=enclosing([arb(1, 0.1), arb(2, 0.01)]))
    assert found == ("certified: x lies elsewhere at twice the precision",)


def test_an_enclosure_that_is_no_number(monkeypatch):
    """It overlaps with everything, and its radius may read 0."""
    for ball in (arb("nan"), arb(float("nan")), arb(1, float("inf"))):
        assert objections(monkeypatch, certified=enclosing([ball, ball])) == ("certified: x is not enclosed",)


def test_a_certificate_runs_at_twice_the_precision(monkeypatch):
    import flint

    seen = []

    def certified(law):
        seen.append(flint.ctx.prec)
        return checked(Verdict.PROVED if law == "right" else Verdict.REFUTED)

    before = flint.ctx.prec
    result = run_theorem(theorem(monkeypatch, certified=certified, BITS=96))
    assert (seen, result.bits, flint.ctx.prec) == ([96, 192, 96], 192, before)


def test_status_one_where_something_does_not_stand(monkeypatch, capsys):
    monkeypatch.setattr(command, "theorems", lambda: {"t_trial": theorem(monkeypatch, control=list)})
    assert command.main(["--jobs", "1"]) == 1
    assert "T: no control: nothing wrong was tried" in capsys.readouterr().out
    monkeypatch.setattr(command, "theorems", lambda: {"t_trial": theorem(monkeypatch)})
    assert command.main(["T", "--jobs", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("stands")


def test_a_killed_process_is_not_a_refutation(monkeypatch, capsys):
    """Status 2 and one line, not the traceback and status 1 that would read as a law refuted."""

    class Killed(ThreadPoolExecutor):
        def __init__(self, jobs, mp_context):
            super().__init__(jobs)

        def map(self, *_):
            raise BrokenProcessPool("terminated abruptly")

    monkeypatch.setattr(runner, "ProcessPoolExecutor", Killed)
    with pytest.raises(SystemExit) as ended:
        command.main(["N1", "N3", "--jobs", "2"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "python -m proofs: error: a process ended abruptly (killed, or out of memory); try --jobs 1\n"


def test_theorems_are_found_by_their_place():
    found = theorems()
    assert found["n1_weight_null"] == "proofs.nulls.n1_weight_null"
    assert not {"template", "runner", "statement"} & set(found)


def test_symbolic_equality():
    import sympy as sp

    x = sp.Symbol("x", positive=True)
    assert symbolically_equal((x + 1) ** 2, x**2 + 2 * x + 1) is Verdict.PROVED
    assert symbolically_equal((x + 1) ** 2, x**2 + 2 * x + 1 + sp.Rational(1, 10**6)) is Verdict.REFUTED
    hard = sp.Integral(sp.exp(-sp.sin(x) * sp.Symbol("y")), (sp.Symbol("y"), 0, sp.Symbol("z")))
    assert symbolically_equal(hard, hard + sp.Function("unknown")(x)) is Verdict.UNDECIDED


def test_derivations_write_down_what_they_find():
    proof = Derivation()
    proof.step("a step", 3)
    proof.holds("a fact", 1 < 2)
    proof.estimate("a mean", 1.0, 0.1, 1.4)
    proof.bounded("a bound", 1.0, 0.1, high=0.9)
    proof.agrees("a number", 1.0, 1.0 + 1e-9, 1e-8)
    assert proof.check().verdict is Verdict.AGREES
    assert len(proof.check().steps) == 5
    for wrong in (
        lambda: proof.estimate("off by 6 sigma", 1.0, 0.1, 1.61),
        lambda: proof.estimate("no spread, and off", 1.0, 0.0, 1.1),
        lambda: proof.bounded("outside", 1.0, 0.1, low=1.6),
        lambda: proof.agrees("too far", 1.0, 1.1, 1e-3),
        lambda: proof.holds("not a fact", 2 < 1),
    ):
        proof.verdicts = [Verdict.AGREES]
        wrong()
        assert proof.check().verdict is Verdict.REFUTED


def test_what_is_no_number_decides_nothing():
    nan, inf = float("nan"), float("inf")
    for undecided in (
        lambda proof: proof.estimate("no mean", nan, 0.1, 1.0),
        lambda proof: proof.estimate("no spread", 1.0, nan, 1.0),
        lambda proof: proof.estimate("any spread", 1.0, inf, 5.0),
        lambda proof: proof.estimate("no claim", 1.0, 0.1, nan),
        lambda proof: proof.bounded("no mean", nan, 0.1, low=0.0),
        lambda proof: proof.bounded("no spread", 1.0, nan, high=2.0),
        lambda proof: proof.bounded("no bound", 1.0, 0.1, low=0.0, high=nan),
        lambda proof: proof.bounded("the largest of nothing", -inf, 0.0, high=0.0),
    ):
        proof = Derivation()
        undecided(proof)
        assert proof.check().verdict is Verdict.UNDECIDED
    proof = Derivation()
    proof.bounded("infinitely far above", inf, 0.1, high=2.0)
    assert proof.check().verdict is Verdict.REFUTED
    with pytest.raises(ValueError, match="low, high: expected at least one bound"):
        proof.bounded("anything", 1.0, 0.1)


def test_balls_of_one_name_are_all_kept():
    proof = Derivation()
    for value in (1, 2, 3):
        proof.ball("x", arb(value))
    assert [float(ball) for ball in proof.check().enclosures.values()] == [1, 2, 3]


@pytest.mark.parametrize(
    ("ball", "verdict"),
    [
        (arb(0, 1e-21), Verdict.PROVED),
        (-arb(1e-21), Verdict.PROVED),
        (arb(0, 1e-19), Verdict.UNDECIDED),
        (-arb(2e-20), Verdict.REFUTED),
        (arb(2e-20), Verdict.REFUTED),
        (arb("nan"), Verdict.UNDECIDED),
    ],
)
def test_a_difference_lies_within_on_either_side(ball, verdict):
    proof = Derivation()
    proof.within("a difference", ball, "1e-20")
    assert proof.verdicts == [verdict]
    assert proof.steps == [f"a difference, within 1e-20 -> {verdict}"]


def test_nothing_shown_is_undecided():
    assert Derivation().check().verdict is Verdict.UNDECIDED
