"""The command line: every flag is a field of a spec. Argument parsing only; the work is a call to the public functions."""

import argparse
import contextlib
import errno
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field, fields
from types import UnionType
from typing import Any, Literal, NoReturn, get_args, get_origin

from simgap import __version__
from simgap.checks import nearest, printable
from simgap.help_texts import HELP
from simgap.null_names import OF_LAYERS, TABLE
from simgap.quantities import READINGS, SITES, WEIGHT_KINDS
from simgap.specs import NESTED, LayerSpec, RunSpec

CHOICES = {"--weights": WEIGHT_KINDS, "--sites": SITES, "--readings": READINGS}
NULL = "what values are held against: " + "; ".join(f"{name}, {TABLE[name].chance}" for name in OF_LAYERS)
# Those of simgap.sweeps.engines, which takes longer to load than a help text may.
ENGINES = ("inprocess", "local", "dask")
EXPLAINED_BY = {
    "routing": "(..., k) integers: which expert each vector came from, -1 for none",
    "documents": "(...) integers: the document of each token (default: each its own)",
    "strata": "(...) integers: its kind; other tokens are of the same",
    "mask": "(...) or (..., k) booleans: what is kept",
}


class Parser(argparse.ArgumentParser):
    """argparse whose every complaint is one line and exit status 2, with the nearest flag suggested."""

    def error(self, message: str) -> NoReturn:
        flag = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0] if "unrecognized" in message else ""
        if flag.startswith("-"):
            message = f"unknown flag {flag}{nearest(flag, sorted(self._option_string_actions))}"
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            message += nearest(choice[1], re.findall(r"[\w-]+", choice[2]))
        self.exit(2, f"{self.prog}: error: {printable(' '.join(message.split()))}\n")


class OutputError(OSError):
    """What was printed did not arrive."""


def say(*lines: object) -> None:
    """Print lines on stdout. Raises OutputError where they do not arrive: an error of another file must not be taken for one of this."""
    try:
        print(*lines, sep="\n", end="\n" if lines else "", flush=True)
    except OSError as error:
        raise OutputError(error.errno, f"cannot write to stdout: {error.strerror}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0 done, 1 a check failed or cells were set aside, 2 bad input, 130 stopped."""
    parser = build_parser()
    # Parsed in two steps, so that a flag unknown to a command is answered by that command's parser.
    options, rest = parser.parse_known_args(argv)
    command: Parser = options.parser
    options.given = list(sys.argv[1:] if argv is None else argv)
    if rest:
        command.error(f"unrecognized arguments: {' '.join(rest)}")
    return finish(lambda: options.run(options), command)


def finish(run: Callable[[], int], parser: Parser) -> int:
    """Run a command and turn whatever ends it into an exit status and at most one line: 2 for bad input, 130 for Ctrl-C."""
    # Where the process was given no stream, the next file that is opened would be taken for it, and be written into.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    if sys.stdout is None:
        parser.exit(2, f"{parser.prog}: error: cannot write to stdout: it is closed\n")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that has no sign for plus-minus still gets its table.
        sys.stdout.reconfigure(errors="replace")
    try:
        status = run()
        say()
        return status
    except OutputError as error:
        # Without this, Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            # Nobody reads on.
            return 0
        parser.exit(2, f"{parser.prog}: error: {said(error)}\n")
    except (ValueError, MemoryError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {said(error)}\n")
    except RuntimeError as error:
        if "memory" not in str(error).lower():
            raise
        parser.exit(2, f"{parser.prog}: error: memory: {printable(' '.join(str(error).split())[:200])}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: interrupted\n")


def said(error: Exception) -> str:
    """An error in one line, without the number that the system gives it."""
    named = f": {error.filename!r}" if isinstance(error, OSError) and error.filename is not None else ""
    text = f"{error.strerror}{named}" if isinstance(error, OSError) and error.strerror else str(error)
    return printable(" ".join(text.split())) or "out of memory"


def build_parser() -> Parser:
    parser = Parser(prog="simgap", description="Overlap of Mixture-of-Experts weights and activations, held against its null.")
    parser.add_argument("--version", action="version", version=f"simgap {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    for name, run, text in (
        ("measure", run_measure, "simulate a layer and measure its overlaps beside their nulls"),
        ("predict", run_predict, "the same numbers from theory"),
    ):
        command = _command(commands, name, run, text)
        _add_flags(command, LayerSpec, "layer")
        _add_flags(command, RunSpec, "run")
        for flag, options in CHOICES.items():
            command.add_argument(flag, nargs="+", choices=options, default=list(options), help="which to compute (default: all)")
        command.add_argument("--metrics", nargs="+", metavar="NAME", help="all quantities of these (weight_overlap, routing, ...)")
        command.add_argument("--quantities", nargs="+", metavar="TEXT", help='only these, such as "activation_mso mean output"')
        command.add_argument("--null", metavar="NAME", default="law", help=f"{NULL} (default: law)")
        if run is run_measure:
            text = "say where the overlap of outputs on a token comes from, on the first trial"
            command.add_argument("--explain", action="store_true", help=text)
        else:
            command.add_argument("--hypotheses", action="store_true", help="say what each law rests on")
    _add_judge(commands)
    _add_explain(commands)
    _add_sweep(commands)
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> Parser:
    command: Parser = commands.add_parser(name, help=text, description=text.capitalize() + ".", allow_abbrev=False)
    command.set_defaults(run=run, parser=command)
    command.add_argument("--json", action="store_true", help="print JSON and nothing else")
    return command


def _add_judge(commands: Any) -> None:
    text = "hold a published weight and activation overlap against untrained experts of the printed widths"
    command = _command(commands, "judge", run_judge, text)
    for flag, what in (("--weight-mso", "W_up"), ("--activation-mso", "experts' mean outputs")):
        command.add_argument(flag, metavar="NUMBER", help=f"of {what}, with the digits as printed: 0.0040 says more than 0.004")
    for name in ("d_model", "d_ff", "n_experts"):
        command.add_argument(f"--{name.replace('_', '-')}", type=int, required=True, metavar="INT", help=HELP[name])
    command.add_argument("--top-k", type=int, default=LayerSpec().top_k, metavar="INT", help=HELP["top_k"])
    command.add_argument("--trials", type=int, default=1, metavar="INT", help="layers that a value is a mean of (default: 1)")


def _add_explain(commands: Any) -> None:
    text = "why the outputs of your experts overlap as they do: a ladder of factors from a round space up"
    command = _command(commands, "explain", run_explain, text)
    command.add_argument(
        "vectors", metavar="FILE", help="vectors (..., k, width): .npy, or .safetensors with one tensor or one of that name"
    )
    for name, what in EXPLAINED_BY.items():
        command.add_argument(f"--{name}", required=name == "routing", metavar="FILE", help=what)
    command.add_argument("--activation", metavar="NAME", help="the vectors are what it made of pre-activations: how those correlate")
    command.add_argument("--figure", metavar="STEM", help="draw the ladder into STEM.png and STEM.pdf")


def _add_sweep(commands: Any) -> None:
    text = "measure every layer of a sweep file beside its null; stopped and resumed at will"
    command = _command(commands, "sweep", run_sweep, text)
    command.add_argument("file", nargs="?", metavar="FILE.toml", help="the sweep file; with --resume it may be left out")
    command.add_argument("--out", required=True, metavar="DIR", help="folder of the results: records.jsonl, manifest.json, frame.parquet")
    command.add_argument("--resume", action="store_true", help="go on with the sweep that DIR holds, if it holds one")
    command.add_argument("--dry-run", action="store_true", help="say what it would cost, and write nothing")
    command.add_argument(
        "--engine", choices=ENGINES, help="where cells are measured (default: local processes, where the work is worth it)"
    )
    text = "processes of the local engine (default: one to a core), or how many of a cluster to wait for"
    command.add_argument("--workers", type=int, metavar="INT", help=text)
    command.add_argument("--scheduler", metavar="ADDRESS", help="of the Dask cluster, such as tcp://10.0.0.1:8786")
    command.add_argument(
        "--any-version", action="store_true", help="go on with what another version of simgap began, or a machine of other arithmetic"
    )
    command.add_argument("--null", metavar="NAME", help=f"{NULL}; instead of what the file says")
    _add_flags(command, RunSpec, "run, instead of what the file says", defaults=False)


def _add_flags(parser: argparse.ArgumentParser, spec: type, title: str, defaults: bool = True) -> None:
    group = parser.add_argument_group(title)
    for item in fields(spec):
        if item.name in NESTED:
            kinds = get_args(fields(NESTED[item.name])[0].type)
            default = NESTED[item.name]().kind
            group.add_argument(f"--{item.name}", choices=kinds, default=default, help=f"{HELP[item.name]} (default: {default})")
            for inner in fields(NESTED[item.name])[1:]:
                _add_flag(group, inner, f"--{item.name}.{inner.name}", HELP[f"{item.name}.{inner.name}"])
        else:
            _add_flag(group, item, f"--{item.name.replace('_', '-')}", HELP[item.name], defaults)


def _add_flag(group: argparse._ArgumentGroup, item: Field, flag: str, text: str, defaults: bool = True) -> None:
    default = item.default if defaults and item.default is not MISSING else None
    flags = list(dict.fromkeys([flag, flag.replace("_", "-")]))
    shown = f"{text} (default: {default})" if default not in ("", None) else text
    if item.type is bool:
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, default=default, help=text)
    elif get_origin(item.type) is Literal:
        group.add_argument(*flags, choices=get_args(item.type), default=default, help=shown)
    else:
        kind: Any = str if isinstance(item.type, UnionType) else item.type
        group.add_argument(
            *flags,
            type=kind,
            default=default,
            dest=flag.lstrip("-").replace("-", "_"),
            metavar=getattr(kind, "__name__", "value").upper(),
            help=shown,
        )


def _specs(options: argparse.Namespace) -> tuple[LayerSpec, RunSpec]:
    values = vars(options)
    layer = {item.name: values[item.name] for item in fields(LayerSpec) if item.name not in NESTED}
    for name, kind in NESTED.items():
        inner = {item.name: values[f"{name}.{item.name}"] for item in fields(kind)[1:]}
        layer[name] = kind(kind=values[name], **inner)
    return LayerSpec(**layer), RunSpec(**{item.name: values[item.name] for item in fields(RunSpec)})


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    """What to look at, as keyword arguments of measure and predict."""
    return {name: getattr(options, name) for name in ("sites", "readings", "weights", "metrics", "quantities", "null")}


def run_measure(options: argparse.Namespace) -> int:
    spec, run = _specs(options)
    from simgap import calibrate, measure, predict
    from simgap.api.calibration import row, sentence
    from simgap.report.gap import gap_table

    chosen = _chosen(options)
    key = spec.key()
    quiet = options.json or not sys.stderr.isatty()
    measured = measure(spec, **run.to_dict(), **chosen, progress=not quiet, explain=options.explain)
    predicted = predict(spec, tokens=run.tokens, trials=run.trials, **chosen)
    calibration = calibrate(measured, predicted)
    if spec.key() != key:
        raise ValueError(f"inputs.path: {spec.inputs.path!r} changed while it was read")
    if options.json:
        described = {"spec": spec.to_dict() | {"key": key}, "run": run.to_dict(), "null": options.null}
        beside = {"predicted": predicted.as_dict(), "calibration": calibration.as_dict()}
        beside["quantities"] = {str(q): row(value, predicted[q], calibration[q]) for q, value in measured.values.items()}
        say(json.dumps(described | measured.as_dict() | beside | {"sentence": sentence(measured, calibration)}, allow_nan=False))
        return 0
    say(gap_table(measured, predicted, calibration))
    return 0


def run_predict(options: argparse.Namespace) -> int:
    spec, run = _specs(options)
    from simgap.api.predicted import predict
    from simgap.report.gap import prediction_table

    predicted = predict(spec, tokens=run.tokens, trials=run.trials, **_chosen(options))
    if options.json:
        say(
            json.dumps(
                {"spec": spec.to_dict() | {"key": spec.key()}, "run": run.to_dict(), "null": options.null} | predicted.as_dict(),
                allow_nan=False,
            )
        )
        return 0
    say(prediction_table(predicted, options.hypotheses))
    return 0


def run_judge(options: argparse.Namespace) -> int:
    from simgap.api.judgement import judge

    names = ("weight_mso", "activation_mso", "d_model", "d_ff", "n_experts", "top_k", "trials")
    judgement = judge(**{name: getattr(options, name) for name in names})
    say(json.dumps(judgement.as_dict(), allow_nan=False) if options.json else judgement)
    return 0


def run_explain(options: argparse.Namespace) -> int:
    from simgap.api.array_files import array_in
    from simgap.api.explained import explain

    arrays = {name: getattr(options, name) for name in ("vectors", *EXPLAINED_BY)}
    given = {name: None if path is None else array_in(name, path) for name, path in arrays.items()}
    explanation = explain(**given, activation=options.activation)
    if options.figure is not None:
        explanation.figure(options.figure)
    say(json.dumps(explanation.as_dict(), allow_nan=False) if options.json else explanation)
    return 0


def run_sweep(options: argparse.Namespace) -> int:
    from simgap.report.sweep import cell_lines
    from simgap.sweeps.command import asked
    from simgap.sweeps.engines import check_engine
    from simgap.sweeps.stopping import interruptible

    with interruptible():
        # Before cells are built, which may take minutes.
        check_engine(options.engine, options.workers, options.scheduler)
        given = {item.name: getattr(options, item.name) for item in fields(RunSpec) if getattr(options, item.name) is not None}
        options.progress = False if options.json else None
        job = asked(options.file, options.out, options.resume, options.dry_run, given, options.progress, options.null)
        if not options.json:
            # Before anything runs: whoever misses a cell may still stop.
            _aside(cell_lines("left out", job.cells.left_out))
        return _forecast(options, job) if options.dry_run else _sweep(options, job)


def _aside(lines: Iterable[str]) -> None:
    """Lines beside the output, at once; nothing at all where there are none, or where they cannot be written: they stop nothing."""
    if text := "".join(f"{line}\n" for line in lines):
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()


def _sweep(options: argparse.Namespace, job: Any) -> int:
    from simgap.report.sweep import cell_lines, law_lines
    from simgap.sweeps import sweep
    from simgap.sweeps.command import judged, plain_run, resuming
    from simgap.sweeps.frame import written
    from simgap.sweeps.stopping import undisturbed
    from simgap.sweeps.store import read_store

    way = {name: getattr(options, name) for name in ("engine", "workers", "scheduler", "any_version", "progress")}
    kept = job.recorded()
    try:
        run = sweep(job.cells, quantities=job.selection.texts, null=job.selection.null, **job.run.to_dict(), out=job.out, **way)
        # What was found in the folder, the run has noted.
        table = written(read_store(job.out))
        if options.json:
            say(json.dumps(plain_run(run, job), allow_nan=False))
        else:
            _aside(map(printable, run.notes))
            say(run, *cell_lines("set aside", run.set_aside), *law_lines(judged(table, job.cells)))
    except KeyboardInterrupt:
        # A terminal that is closed says so more than once.
        with undisturbed():
            options.parser.exit(130, f"{options.parser.prog}: stopped with {job.standing()}; go on with: {resuming(options.given)}\n")
    except (OSError, ValueError, MemoryError) as error:
        # A refusal says all there is to say; once cells were recorded, or where the disk is at fault, it matters that they are safe.
        if job.recorded() == kept and not (kept and isinstance(error, OSError)):
            raise
        if isinstance(error, OutputError) and error.errno == errno.EPIPE:
            raise
        text = f"{said(error)}; {job.standing()} and safe; go on with: {resuming(options.given)}"
        raise (OutputError(error.errno, text) if isinstance(error, OutputError) else ValueError(text)) from None
    return 1 if run.set_aside else 0


def _forecast(options: argparse.Namespace, job: Any) -> int:
    from simgap.report.sweep import cell_lines
    from simgap.sweeps.command import forecast, plain_cells

    cost = forecast(job, options.engine, options.workers, options.any_version, options.progress)
    if cost.too_large:
        if not options.json:
            _aside(cell_lines("too large", cost.too_large))
        cells = f"{len(cost.too_large):,} of {cost.cells:,} cells"
        raise ValueError(f"memory: {job.run.memory} cannot hold {cells}; give more, or leave them out by max_parameters")
    if options.json:
        counts = {"path": str(job.out), "cells": len(job.cells), "done": cost.done, "left_out": plain_cells(job.cells.left_out)}
        say(json.dumps(counts | {"seconds": cost.seconds, "memory": cost.memory, "notes": list(cost.notes)}))
    else:
        _aside(map(printable, cost.notes))
        say(*[f"{cost.done:,} of {len(job.cells):,} cells done"] * bool(cost.done), cost.line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
