"""The benchmarks at tiny sizes: whole files, rivals that compute the same numbers, work counted by hand. Speed is no test."""

import csv
import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from scipy.stats import linregress

mpl.use("Agg")


from experiments.__main__ import main
from experiments.benchmarks import expressions, kernels, layer, rates, scaling
from experiments.cells import Bench
from simgap import LayerSpec
from simgap.records import Records
from tests.reference import token_overlap

ORIGIN = {"commit": "abc", "dirty": False, "versions": {}, "canary": "x"}
SMALL = {
    kernels: {"NUMBERS": {"smoke": {"cpu": 1 << 14}}, "ROUNDS": {"smoke": 2}, "WIDTHS": {"smoke": (64,)}},
    layer: {"SIZES": {"smoke": ((16, 2), (32, 1))}, "ROUNDS": {"smoke": 2}},
    scaling: {
        "NUMBERS": {"smoke": 1 << 16},
        "ROUNDS": {"smoke": 2},
        "D_MODELS": {"smoke": (16, 24, 32)},
        "LARGEST": {"smoke": 16},
        "TRIALS_D_MODEL": {"smoke": 16},
        "TRIALS": (2, 4, 8),
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, quick_figures):
    """Every artefact once: by name its folder, its records and what render returned."""
    done = {}
    with pytest.MonkeyPatch.context() as patch:
        for module, values in SMALL.items():
            for name, value in values.items():
                patch.setattr(module, name, value)
        # A compiler takes seconds for each expression.
        patch.setattr(torch, "compile", lambda function, dynamic: function)
        patch.setattr(kernels, "KS", (2, 4))
        patch.setattr(rates, "PAUSE", 0)
        machine = rates.measure_rates()
        patch.setattr(layer, "measure_rates", lambda: machine)
        for module in SMALL:
            name = module.__name__.rpartition(".")[2]
            out = tmp_path_factory.mktemp(name)
            records = module.compute("smoke", Bench(out, name, tokens=64, quiet=True, origin=ORIGIN))
            done[name] = out, records, module.render(records, out)
    return done


@pytest.mark.parametrize("name, tables", [("kernels", 4), ("layer", 1), ("scaling", 2)])
def test_files(made, name, tables):
    out, records, paths = made[name]
    endings = [".md", ".csv", *(f"_{i}.csv" for i in range(1, tables)), ".png", ".pdf"]
    assert [path.name for path in paths] == [name + ending for ending in endings]
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert list(Records(out / f"{name}.jsonl")) == records
    assert all(record["provenance"] == ORIGIN for record in records)


def test_rendering_reads_nothing_but_records(made, tmp_path):
    out = made["layer"][0]
    for path in layer.render(list(Records(out / "layer.jsonl")), tmp_path):
        assert path.read_bytes() == (out / path.name).read_bytes()


def test_every_contender_of_the_kernels(made):
    """Each timed in every round, and its numbers are ours: to float64 where it sums in that, else to float32."""
    records = made["kernels"][1]
    names = [(record["labels"]["kernel"], record["labels"].get("k", record["labels"].get("experts"))) for record in records]
    assert names == [("token", 2), ("token", 4), ("gathered", 2), ("gathered", 4), ("gram", 8), ("gram", 64), ("means", 8), ("means", 64)]
    exact = {kernels.OURS, "numba loop", kernels.GATHERED, kernels.HELD, "mm in float64", "index_add_ in float64"}
    for record in records:
        assert all(len(times) == 2 and min(times) > 0 for times in record["seconds"].values())
        assert sum(name.startswith(kernels.READ) for name in record["seconds"]) == 4
        for name, distance in record["apart"].items():
            assert distance < (1e-12 if name in exact else 1e-4), name
    assert set(records[0]["apart"]) == set(records[0]["seconds"]) - {kernels.HALF} - {n for n in records[0]["seconds"] if "read: " in n}
    assert records[0]["missing"] == {}
    assert sum(name.startswith(kernels.COMPILED) for name in records[0]["seconds"]) == kernels.FINALISTS


def test_ratios_of_a_record():
    seconds = {"simgap": [1.0, 2.0, 4.0], "bfloat16": [1.0, 1.0, 1.0], "read: a": [1.0, 1.0, 1.0], "read: b": [9.0, 9.0, 0.1]}
    record = {"seconds": seconds, "bytes": 4e9, "labels": {"kernel": "token", "k": 2, "d": 512}}
    assert kernels.times_ours(record, kernels.READ) == (0.375, 0.5, 0.75)
    assert kernels.times_ours(record, kernels.HALF) == (3.0, 4.0, 6.0)
    assert kernels.times_ours(record, kernels.COMPILED) is None
    assert kernels.ratio(record, kernels.OURS, kernels.OURS) == (1.0, 1.0, 1.0)
    table = kernels._targets({"token": [record], "gathered": [], "gram": [], "means": []})
    assert [row[-2:] for row in table.rows[:2]] == [["0.50 to 0.50", "0 of 1 shapes"], [None, "0 of 0 shapes"]]
    assert table.rows[-1][-1] == "1 of 1 shapes"


def test_the_expressions_mean_what_the_reference_says():
    h = torch.randn(5, 3, 20, generator=torch.Generator().manual_seed(0))
    wanted, _ = token_overlap(h.double().numpy())
    eager = [f(h).numpy() for f in expressions.COMPILED.values()]
    others = [f(h.numpy()) for f in (expressions.numpy_matmul, expressions.numpy_einsum, expressions.numba_loop)]
    for values in eager + others:
        np.testing.assert_allclose(values, wanted, rtol=1e-4)


def test_without_a_compiler_its_contenders_are_missing(made, monkeypatch, tmp_path):
    def refuse(*arguments, **options):
        raise RuntimeError("no C++\ncompiler")

    monkeypatch.setattr(torch, "compile", refuse)
    found, missing = expressions.compiled(torch.ones(4, 2, 8))
    assert found == {}
    assert missing == dict.fromkeys(expressions.COMPILED, "no C++ compiler")
    records = [dict(record) for record in made["kernels"][1]]
    for record in records:
        record["seconds"] = {name: times for name, times in record["seconds"].items() if not name.startswith(kernels.COMPILED)}
        record["missing"] = missing if record["labels"]["kernel"] == "token" else {}
    kernels.render(records, tmp_path)
    with open(tmp_path / "kernels.csv", newline="") as file:
        assert [(row["/ compiled"], row["best compiled"]) for row in csv.DictReader(file)] == [("", "")] * 2
    assert "Not compiled: broadcast at 2 x 64: no C++ compiler" in (tmp_path / "kernels.md").read_text()


def test_the_work_of_a_layer_counted_by_hand():
    """d = 2, f = 3, two experts, one of them to a token, 5 tokens: 24 weights, 10 token entries, 10 gathered, 15 hidden, 10 outputs."""
    spec = LayerSpec(d_model=2, d_ff=3, n_experts=2, top_k=1)
    found = layer.work(spec, ("output",), 5)
    assert found["draws"] == 24 + 10 + 4
    assert found["gemm"] == 2 * (5 * 2 * 2 + 5 * 2 * 3 + 5 * 3 * 2)
    assert found["copy"] == 4 * (3 * 24 + 2 * 10 + 3 * 10 + 2 * 10 + 4 * 15 + 10 + 2 * 10)
    more = layer.work(spec, ("pre", "hidden", "output"), 5)
    assert more == found | {"copy": found["copy"] + 4 * 2 * 2 * 15}


def test_floors_are_made_of_their_rates(made):
    for record in made["layer"][1]:
        work = layer.work(
            LayerSpec(**{n: record["spec"][n] for n in ("d_model", "d_ff", "n_experts", "top_k")}), layer.REQUESTS["outputs"], 64
        )
        for run in record["runs"]:
            assert run["seconds"] > 0
            assert run["floor"] == pytest.approx(sum(run["parts"].values()))
            assert run["parts"]["gemm"] == pytest.approx(record["labels"]["trials"] * work["gemm"] / run["rates"]["gemm"])
    assert [(r["labels"]["d_model"], r["labels"]["request"]) for r in made["layer"][1]] == [
        (d, request) for d in (16, 32) for request in ("outputs", "three sites")
    ]


def test_axes_of_the_scaling(made):
    records = made["scaling"][1]
    axes = {record["labels"]["axis"]: record for record in records}
    assert list(axes) == ["tokens", "width", "k", "experts", "size of a vector", "trials", "parameters", "threads", ""]
    assert list(axes["parameters"]["seconds"]) == [str(64 * d * d) for d in (16, 24, 32)]
    for record in records[:-2]:
        assert all(min(times) > 0 for times in record["seconds"].values())
        assert all(math.isfinite(value) for value in scaling.fitted(record))
    for times in axes["threads"]["seconds"].values():
        assert list(times) == ["1", "2"]
    memory = axes[""]
    assert memory["parameters"] == 64 * 16 * 16
    # An interpreter with torch and numba, and far from all of the machine.
    assert 1 << 26 < memory["bytes"] < 1 << 32
    assert memory["seconds"] > 0


def test_threads_are_given_back():
    before, seen = torch.get_num_threads(), []
    scaling._with_threads(1, lambda: seen.append(torch.get_num_threads()))()
    assert (seen, torch.get_num_threads()) == ([1], before)


def test_slope_and_its_error():
    x, noise = [1.0, 2.0, 4.0, 8.0], [1.1, 0.9, 1.0, 1.2]
    assert rates.log_slope(x, [3 * v**1.5 for v in x]) == pytest.approx((1.5, 0), abs=1e-7)
    found = linregress(np.log(x), np.log(noise))
    assert rates.log_slope(x, noise) == pytest.approx((found.slope, found.stderr))


def test_rounds_are_shuffled_and_the_first_is_not_counted(monkeypatch):
    monkeypatch.setattr(rates, "PAUSE", 0)
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = rates.interleaved(contenders, 4, before=lambda: calls.append("-"))
    assert {name: len(t) for name, t in times.items()} == dict.fromkeys("abc", 4)
    assert calls[::2] == ["-"] * 15
    turns = ["".join(calls[1::2][at : at + 3]) for at in range(0, 15, 3)]
    assert {"".join(sorted(turn)) for turn in turns} == {"abc"}
    assert len(set(turns)) > 1


@pytest.mark.parametrize("reader", ["torch.sum", "numba sum", "one stream, asked ahead", "four streams, asked ahead"])
def test_a_reader_reads_every_number(reader):
    """Ones alone, of which sum and sum of squares are the count."""
    with rates.readers(torch.ones(1 << 14)) as found:
        assert float(found[reader]()) == 1 << 14


def test_on_a_card_what_needs_a_cpu_is_left_out(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ["--device", "cuda", "--out", str(tmp_path)]
    assert main(["benchmarks", "layer", "reproduction", *arguments]) == 0
    left = [f"{name}: runs on cpu alone, left out on cuda" for name in ("layer", "reproduction")]
    assert capsys.readouterr().out.splitlines() == left
    with pytest.raises(SystemExit):
        main(["benchmarks", *arguments])
    out, err = capsys.readouterr()
    assert out == "dual_map: runs on cpu alone, left out on cuda\n"
    assert err.count("\n") == 1
    assert "device: 'cuda' asked for" in err
    assert list(tmp_path.iterdir()) == []
