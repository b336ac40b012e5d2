"""The public functions beside torch: each call timed in every round, and its table."""

import csv

from experiments.benchmarks import public, rates
from experiments.cells import Bench
from simgap.records import Records

ORIGIN = {"commit": "abc", "dirty": False, "versions": {}, "canary": "x"}


def test_every_call_is_timed_beside_torch_and_the_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(rates, "PAUSE", 0)
    monkeypatch.setitem(public.TOKENS, "smoke", ((20, 2, 8), (9, 3, 5)))
    monkeypatch.setitem(public.WEIGHTS, "smoke", ((4, 30),))
    records = public.compute("smoke", Bench(tmp_path, "public", quiet=True, origin=ORIGIN))
    assert list(Records(tmp_path / "public.jsonl")) == records
    names = [(record["labels"]["function"], list(record["seconds"])) for record in records]
    tokens = ["token_mso", "token_mso, routing=", "kernel", "torch"]
    assert names[0] == names[1] == ("tokens", tokens)
    assert names[2] == names[3] == ("means", ["mean_mso", "kernel", "torch"])
    assert names[4:] == [("weights", ["weight_mso", "kernel", "torch"])]
    assert all(len(times) == 3 and min(times) > 0 for record in records for times in record["seconds"].values())
    paths = public.render(records, tmp_path)
    assert [path.name for path in paths] == ["public.md", "public.csv"]
    with open(tmp_path / "public.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["call"], row["shape"]) for row in rows[:2]] == [("token_mso", "20 x 2 x 8"), ("token_mso, routing=", "20 x 2 x 8")]
    assert len(rows) == 7
    assert all(float(row["torch / ours"]) > 0 for row in rows)
