"""`python -m experiments` lists the artefacts; `python -m experiments FOLDER [ARTEFACT ...]` computes, records and renders them."""

import argparse
import importlib
import logging
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from experiments.cells import Bench
from simgap import RunSpec
from simgap.checks import nearest, printable
from simgap.cli import Parser, finish, say
from simgap.sweeps.store import folder_of

# What an artefact without PRESETS of its own has.
PRESETS = ("smoke", "full")


def artefacts() -> dict[str, dict[str, ModuleType]]:
    """Artefacts by folder: every module of experiments/FOLDER that has a `compute` and a `render`."""
    root = Path(__file__).parent
    by_folder: dict[str, dict[str, ModuleType]] = {}
    for folder in sorted(p.name for p in root.iterdir() if (p / "__init__.py").exists()):
        modules = [importlib.import_module(f"experiments.{folder}.{m.name}") for m in pkgutil.iter_modules([str(root / folder)])]
        named = {m.__name__.rpartition(".")[2]: m for m in modules if hasattr(m, "compute") and hasattr(m, "render")}
        if named:
            by_folder[folder] = named
    return by_folder


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m experiments", description="Regenerate tables and figures.", allow_abbrev=False)
    parser.add_argument("folder", nargs="?", help="which folder of artefacts; none lists them")
    parser.add_argument("artefact", nargs="*", help="which of its artefacts (default: all)")
    about = "smoke: a quick look; cpu: what two cores do within the hour, where an artefact has it; full: everything"
    parser.add_argument("--preset", choices=("smoke", "cpu", "full"), default="full", help=about)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0, help="root of every random stream")
    parser.add_argument("--out", default=None, help="folder for records, tables and figures (default: runs/FOLDER)")
    options = parser.parse_args(argv)
    return finish(lambda: run(options, parser), parser)


def run(options: argparse.Namespace, parser: Parser) -> int:
    by_folder = artefacts()
    if options.folder is None:
        for folder, modules in by_folder.items():
            say(folder)
            for name, module in modules.items():
                # `python -OO` leaves no docstring.
                about = (module.__doc__ or "").partition("\n")[0]
                say(f"  {name:<14} {about}".rstrip())
        return 0
    if options.folder not in by_folder:
        parser.error(f"no folder {options.folder!r}{nearest(options.folder, list(by_folder))}")
    modules = by_folder[options.folder]
    unknown = [name for name in options.artefact if name not in modules]
    if unknown:
        parser.error(f"no artefact {unknown[0]!r} in {options.folder}; there are {', '.join(modules)}")
    for name in options.artefact or modules:
        presets = getattr(modules[name], "PRESETS", PRESETS)
        if options.preset not in presets:
            parser.error(f"{name} has no preset {options.preset!r}; it has {', '.join(presets)}")
    RunSpec(seed=options.seed, device=options.device)
    out = folder_of(options.out if options.out is not None else Path("runs") / options.folder)
    kind = options.device.partition(":")[0]
    for name in options.artefact or modules:
        if kind not in getattr(modules[name], "DEVICES", (kind,)):
            say(f"{name}: runs on {', '.join(modules[name].DEVICES)} alone, left out on {options.device}")
            continue
        # Each cell is on disk as soon as it is measured: the same command goes on from there.
        records = modules[name].compute(options.preset, Bench(out, name, device=options.device, seed=options.seed))
        for path in modules[name].render(records, out):
            say(printable(str(path)))
    return 0


def _without_a_display() -> None:
    """Keep matplotlib, which is not imported yet, from what it would do for a user at a screen: a notebook's backend, which may not even
    be installed here, and words about a folder of settings that cannot be written."""
    os.environ["MPLBACKEND"] = "Agg"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


if __name__ == "__main__":
    _without_a_display()
    sys.exit(main())
