"""What a process may use, from made-up control groups of both versions, sound ones and odd ones."""

import os
import subprocess
import sys

import pytest

from simgap import machine
from simgap.machine import cores, memory

GIB = 1 << 30


@pytest.fixture(autouse=True)
def large_machine(monkeypatch):
    """64 cores and 256 GiB, wherever the tests run."""
    for name in ("process_cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1 << 26, "SC_PAGE_SIZE": 4096}.__getitem__)


def made(root, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


def test_without_control_groups_the_machine_counts(tmp_path):
    assert cores(str(tmp_path)) == 64
    assert memory(str(tmp_path)) == 256 * GIB


V1 = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n0::/system.slice\n"
MACHINES = {
    "version 2 in a container": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n", "sys/fs/cgroup/memory.max": f"{3 * GIB}\n"},
        (3, 3 * GIB),
    ),
    "version 2, a parent is tighter": (
        {
            "proc/self/cgroup": "0::/jobs/job 7/step\n",
            "sys/fs/cgroup/jobs/job 7/step/cpu.max": "max 100000\n",
            "sys/fs/cgroup/jobs/job 7/step/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/jobs/job 7/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/jobs/cpu.max": "1600000 100000\n",
            "sys/fs/cgroup/jobs/memory.max": "max\n",
        },
        (16, 2 * GIB),
    ),
    "version 2, less than one core": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1000 100000\n"}, (1, 256 * GIB)),
    "version 2, the path is the host's": ({"proc/self/cgroup": "0::/../../pods/x\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"}, (64, GIB)),
    "version 2 beside version 1": (
        {"proc/self/cgroup": V1, "sys/fs/cgroup/unified/system.slice/memory.max": f"{5 * GIB}"},
        (64, 5 * GIB),
    ),
    "version 1": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
        (2, 4 * GIB),
    ),
    "version 1 in a container, controllers mounted together": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "800000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
        },
        (8, GIB),
    ),
    "version 1 without limits": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "9223372036854771712\n",
        },
        (64, 256 * GIB),
    ),
    "more than the machine has": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9000000 100000", "sys/fs/cgroup/memory.max": f"{999 * GIB}"},
        (64, 256 * GIB),
    ),
    "groups of other controllers": (
        {"proc/self/cgroup": "3:cpuset:/a\n2:cpuacct:/a\n", "sys/fs/cgroup/cpuset/a/cpu.max": "100000 100000"},
        (64, 256 * GIB),
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_limits_of_control_groups(name, tmp_path):
    files, expected = MACHINES[name]
    root = made(tmp_path, files)
    assert (cores(root), memory(root)) == expected


@pytest.mark.parametrize(
    "text", ["", "\n", "max", "none at all", "0", "0 0", "100000 0", "-5", "1e3", "٣", "9" * 5000, "1.5 2", "\x00\xff", "1 " * 100_000]
)
def test_odd_files_limit_nothing(text, tmp_path):
    root = made(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": text})
    assert cores(root) == (1 if text.startswith("1 ") else 64)
    root = made(tmp_path / "memory", {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": text})
    assert memory(root) == (100000 if text == "100000 0" else 1 if text.startswith("1 ") else 256 * GIB)


@pytest.mark.parametrize(
    "line", ["", ":", "::", "0:", "0::", "x\x00y", "0::/a\x00b", "0::/" + "a/" * 30_000, "4:memory", "0::/..:/..", "é"]
)
def test_an_odd_list_of_groups_limits_nothing(line, tmp_path):
    root = made(tmp_path, {"proc/self/cgroup": line})
    assert (cores(root), memory(root)) == (64, 256 * GIB)


def test_a_folder_or_a_pipe_in_place_of_a_file_limits_nothing(tmp_path):
    root = made(tmp_path, {"proc/self/cgroup": "0::/\n"})
    (tmp_path / "sys/fs/cgroup/memory.max").mkdir(parents=True)
    os.mkfifo(tmp_path / "sys/fs/cgroup/cpu.max")
    assert (cores(root), memory(root)) == (64, 256 * GIB)


def test_cores_are_those_that_the_process_is_bound_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 9}, raising=False)
    assert cores(str(tmp_path)) == 3
    monkeypatch.setattr(os, "process_cpu_count", lambda: 2, raising=False)
    assert cores(str(tmp_path)) == 2
    monkeypatch.setattr(os, "process_cpu_count", lambda: None, raising=False)
    assert cores(str(tmp_path)) == 1


def test_a_system_that_does_not_say_its_memory_has_no_end(tmp_path, monkeypatch):
    for pages in (-1, 0):
        monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": pages, "SC_PAGE_SIZE": 4096}.__getitem__)
        assert memory(str(tmp_path)) == sys.maxsize
    monkeypatch.delattr(os, "sysconf")
    assert memory(str(tmp_path)) == sys.maxsize


def test_this_machine_has_cores_and_memory(monkeypatch):
    monkeypatch.undo()
    machine._quotas.cache_clear()
    assert cores() >= 1
    assert memory() > 1 << 27


class Library:
    """What a C library was told."""

    def __init__(self):
        self.told = []

    def mallopt(self, name, value):
        self.told.append((name, value))

    def malloc_trim(self, pad):
        self.told.append(("trim", pad))


def test_freed_arrays_are_given_back_inside_and_kept_again_afterwards(monkeypatch):
    library = Library()
    monkeypatch.setattr(machine, "_c_library", lambda: library)
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)

    def fails():
        with machine.freed_at_once():
            assert library.told == [("trim", 0), (-3, 1 << 20)]
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fails()
    assert library.told[2:] == [(-3, 32 << 20), (-1, 64 << 20), ("trim", 0)]


@pytest.mark.skipif(machine._c_library() is None, reason="not glibc")
def test_what_trials_free_is_kept_for_the_next_ones(monkeypatch):
    # 16 MiB arrays at three a trial: left to itself, glibc gives two thirds of them back and clears them anew for every trial.
    code = (
        "import resource, simgap as sg, torch; torch.set_num_threads(2)\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "measured = lambda: (faults(), sg.measure(sg.LayerSpec(), trials=10), faults())\n"
        "measured(), measured()\n"
        "print(*(after - before for before, _, after in (measured() for _ in range(3))))\n"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    said = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, timeout=120, check=True)
    # At worst the five trials of one thread clear one array each: 20,500 pages; before, 75,000 to 100,000.
    assert max(int(faults) for faults in said.stdout.split()) < 40_000, said.stdout


@pytest.mark.parametrize("name, value", [("MALLOC_ARENA_MAX", "2"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")])
def test_a_user_who_has_set_malloc_is_let_be(monkeypatch, name, value):
    library = Library()
    monkeypatch.setattr(machine, "_c_library", lambda: library)
    monkeypatch.setenv(name, value)
    for _ in range(2):
        # It is told once.
        machine.kept_for_reuse.cache_clear()
        with machine.freed_at_once():
            machine.kept_for_reuse()
        monkeypatch.setattr(machine, "_c_library", lambda: None)
        monkeypatch.delenv(name, raising=False)
    assert library.told == []
    monkeypatch.setattr(machine, "_c_library", lambda: library)
    machine.kept_for_reuse.cache_clear()
    machine.kept_for_reuse()
    machine.kept_for_reuse()
    assert library.told == [(-3, 32 << 20), (-1, 64 << 20)]
