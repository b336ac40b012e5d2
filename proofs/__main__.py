"""`python -m proofs` puts every theorem through its ways and prints the table; `python -m proofs NAME` shows one, step by step."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from simgap.checks import nearest
from simgap.cli import Parser, finish

try:
    from proofs.runner import Result, run_all, theorems
    from proofs.statement import WAYS
except ModuleNotFoundError as missing:
    if missing.name not in ("flint", "sympy"):
        raise
    sys.exit(print(f"python -m proofs: error: {missing.name} is not installed; pip install 'simgap[proofs]'", file=sys.stderr) or 2)

MARKS = {"proved": "proved", "agrees": "agrees", "refuted": "REFUTED", "undecided": "UNDECIDED", "not applicable": "-"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        prog="python -m proofs", description="Every law: derived, certified, simulated, refuted when moved.", allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="theorems to run, by id (N1) or file name; with their derivations")
    parser.add_argument("--json", action="store_true", help="print a list of results instead of the table")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (default: 2)")
    options = parser.parse_args(argv)
    return finish(lambda: run(options, parser), parser)


def run(options: Any, parser: Parser) -> int:
    if options.jobs < 1:
        parser.error(f"--jobs: expected at least 1, got {options.jobs}")
    module_of = theorems()
    ids = {name.partition("_")[0].upper(): name for name in module_of}
    chosen = []
    for asked in options.names:
        name = ids.get(asked.upper(), asked)
        if name not in module_of:
            parser.error(f"no theorem {asked!r}{nearest(asked, [*module_of, *ids])}")
        chosen.append(name)
    modules = [module_of[name] for name in chosen or module_of]
    results = []
    with tqdm(total=len(modules), desc="proofs", unit="theorem", disable=None) as bar:
        for result in run_all(modules, options.jobs):
            bar.update()
            results.append(result)
    if options.json:
        print(json.dumps([result.as_dict() for result in results], indent=1, allow_nan=False))
    else:
        print("\n\n".join(derivation(result) for result in results) if chosen else table(results))
    return 0 if all(result.stands for result in results) else 1


def table(results: Sequence[Result]) -> str:
    """One line to a theorem, and one to each objection."""
    head = ("id", "statement", *WAYS, "controls", "bits", "radius", "seconds")
    rows = [head]
    for r in results:
        failed = sum(control.stands for control in r.controls)
        radius = "-" if r.radius is None else f"{r.radius:.0e}"
        marks = [MARKS[r.verdicts[way]] for way in WAYS]
        rows.append((r.id, r.title, *marks, f"{failed}/{len(r.controls)} fail", str(r.bits or "-"), radius, f"{r.seconds:.1f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += [f"{r.id}: {objection}" for r in results for objection in r.objections]
    standing = sum(r.stands for r in results)
    lines += ["", f"{standing} of {len(results)} theorems stand, {sum(len(r.controls) for r in results)} controls tried."]
    return "\n".join(lines)


def derivation(result: Result) -> str:
    """A theorem with all that its file says and found."""
    face = result.statement
    box = ", ".join(f"{s} in [{'-inf' if lo is None else lo}, {'inf' if hi is None else hi}]" for s, (lo, hi) in face.box.items())
    lines = [f"{face.id}  {face.title}", f"  claim ({face.kind}): {face.claim}"]
    lines += [f"  where {box}"] if box else []
    lines += [f"  hypothesis: {text}" for text in face.hypotheses]
    lines += [f"  premise, {premise.mark}: {premise.text}" for premise in face.premises]
    lines += [f"  tight: {face.tight}"] if face.tight else []
    for way in WAYS:
        reason = f" ({result.reasons[way]})" if way in result.reasons else ""
        lines.append(f"{way}: {result.verdicts[way]}{reason}")
        lines += [f"  {number}. {step}" for number, step in enumerate(result.steps[way], 1)]
    lines.append("controls: each must be refuted")
    for control in result.controls:
        verdicts = ", ".join(f"{way} {verdict}" for way, verdict in control.verdicts.items())
        lines.append(
            f"  {'fails' if control.stands else 'DOES NOT FAIL'}: {control.name} ({verdicts}){f'; {control.why}' if control.why else ''}"
        )
    lines += [f"OBJECTION: {objection}" for objection in result.objections]
    lines.append(f"{'stands' if result.stands else 'DOES NOT STAND'}, {result.seconds:.1f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
