"""Finding the theorems, putting each through its ways and its controls, and saying whether it stands."""

import importlib
import multiprocessing
import os
import pkgutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from proofs.statement import WAYS, Check, Statement, Way, Wrong
from simgap.certify.balls import precision
from simgap.certify.verdict import Verdict

BITS = 128
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Control:
    """A wrong law and what each way called it; stands: all that had to refute it did."""

    name: str
    verdicts: dict[str, str]
    stands: bool
    why: str = ""


@dataclass(frozen=True)
class Result:
    """One theorem put through everything. stands: it is proved by every applicable way, simulation agrees, every control failed, and the
    enclosures at twice the precision overlap the first. objections: why not. bits: the higher precision; radius: the widest enclosure at
    the lower one, half of it."""

    id: str
    name: str
    title: str
    statement: Statement
    verdicts: dict[str, str]
    reasons: dict[str, str]
    steps: dict[str, tuple[str, ...]]
    controls: tuple[Control, ...]
    bits: int | None
    radius: float | None
    seconds: float
    objections: tuple[str, ...]

    @property
    def stands(self) -> bool:
        return not self.objections

    def as_dict(self) -> dict[str, Any]:
        face = self.statement
        return {
            "id": self.id, "name": self.name, "statement": self.title, "kind": face.kind, "claim": face.claim,
            "hypotheses": list(face.hypotheses),
            "box": {symbol: [None if end is None else str(end) for end in ends] for symbol, ends in face.box.items()},
            "premises": [{"mark": premise.mark, "text": premise.text} for premise in face.premises], "tight": face.tight,
            "verdicts": self.verdicts, "reasons": self.reasons,
            "controls": [{"name": c.name, "verdicts": c.verdicts, "fails": c.stands, "why": c.why} for c in self.controls],
            "bits": self.bits, "radius": self.radius, "seconds": round(self.seconds, 2),
            "stands": self.stands, "objections": list(self.objections),
        }  # fmt: skip


def theorems() -> dict[str, str]:
    """Module by theorem's file name: every module of a folder of proofs/ but private ones."""
    root = Path(__file__).parent
    folders = sorted(path.name for path in root.iterdir() if (path / "__init__.py").exists())
    modules = (f"proofs.{folder}.{file.name}" for folder in folders for file in pkgutil.iter_modules([str(root / folder)]))
    return {module.rpartition(".")[2]: module for module in modules if not module.rpartition(".")[2].startswith("_")}


def run_all(modules: Sequence[str], jobs: int) -> Iterator[Result]:
    """Results in the order of the modules, each as soon as it and those before it are done."""
    if jobs == 1 or len(modules) == 1:
        yield from map(run_theorem, modules)
        return
    # spawn: a forked child would inherit the locks of numpy's threads.
    with _one_thread_each(), ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(run_theorem, modules)
        except BrokenProcessPool:
            raise OSError("a process ended abruptly (killed, or out of memory); try --jobs 1") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children that start inside leave their linear algebra on one thread: the processes are the parallelism. What the user set stays."""
    added = {name: "1" for name in THREAD_VARIABLES if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def run_theorem(module: str) -> Result:
    """One theorem: its ways, its certificate again at twice the precision, its controls."""
    start = time.perf_counter()
    proof = importlib.import_module(module)
    statement: Statement = proof.STATEMENT
    bits: int = getattr(proof, "BITS", BITS)
    checks: dict[Way, Check] = {way: _run(proof, way, proof.LAW, bits) for way in WAYS}
    objections = list(_objections(statement, checks))
    certified = checks["certified"]
    applies = certified.verdict is not Verdict.NOT_APPLICABLE
    if applies:
        objections += _disagreements(certified, _run(proof, "certified", proof.LAW, 2 * bits))
    controls = tuple(_control(proof, wrong, checks, bits) for wrong in proof.control())
    if not controls:
        objections.append("no control: nothing wrong was tried")
    objections += [
        f"control does not fail: {c.name} ({', '.join(f'{w} {v}' for w, v in c.verdicts.items())})" for c in controls if not c.stands
    ]
    radii = [float(ball.rad()) for ball in certified.enclosures.values()]
    return Result(
        id=statement.id,
        name=module.rpartition(".")[2],
        title=statement.title,
        statement=statement,
        verdicts={way: str(check.verdict) for way, check in checks.items()},
        reasons={way: check.reason for way, check in checks.items() if check.reason},
        steps={way: check.steps for way, check in checks.items()},
        controls=controls,
        bits=2 * bits if applies else None,
        radius=max(radii, default=None),
        seconds=time.perf_counter() - start,
        objections=tuple(objections),
    )


def _run(proof: ModuleType, way: Way, law: Any, bits: int) -> Check:
    if way == "certified":
        with precision(bits):
            return proof.certified(law)
    return proof.symbolic(law) if way == "symbolic" else proof.numeric(law)


def _objections(statement: Statement, checks: dict[Way, Check]) -> Iterator[str]:
    if checks["symbolic"].verdict is checks["certified"].verdict is Verdict.NOT_APPLICABLE:
        yield "neither derived nor certified"
    for way, check in checks.items():
        wanted = (Verdict.AGREES,) if way == "numeric" else (Verdict.PROVED, Verdict.NOT_APPLICABLE)
        if check.verdict not in wanted:
            yield f"{way}: {check.verdict}{f' ({check.reason})' if check.reason else ''}"
        if check.verdict is Verdict.NOT_APPLICABLE and not check.reason:
            yield f"{way}: not applicable, without a reason"
    if not statement.hypotheses:
        yield "no hypotheses on its face"


def _disagreements(once: Check, again: Check) -> list[str]:
    if once.verdict is not again.verdict:
        return [f"certified: {once.verdict}, but {again.verdict} at twice the precision"]
    # A ball that is no number overlaps with everything.
    endless = [name for check in (once, again) for name, ball in check.enclosures.items() if not ball.is_finite()]
    if endless:
        return [f"certified: {name} is not enclosed" for name in dict.fromkeys(endless)]
    apart = [name for name, ball in once.enclosures.items() if name not in again.enclosures or not ball.overlaps(again.enclosures[name])]
    return [f"certified: {name} lies elsewhere at twice the precision" for name in apart]


def _control(proof: ModuleType, wrong: Wrong, checks: dict[Way, Check], bits: int) -> Control:
    applicable = [way for way in wrong.ways if checks[way].verdict is not Verdict.NOT_APPLICABLE]
    verdicts = {way: _run(proof, way, wrong.law, bits).verdict for way in applicable}
    stands = bool(verdicts) and all(verdict is Verdict.REFUTED for verdict in verdicts.values())
    skipped = [way for way in WAYS if way not in wrong.ways and checks[way].verdict is not Verdict.NOT_APPLICABLE]
    if skipped and not wrong.why:
        stands = False
    return Control(wrong.name, {way: str(verdict) for way, verdict in verdicts.items()}, stands, wrong.why)
