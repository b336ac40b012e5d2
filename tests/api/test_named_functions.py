"""A small measurement is as much Python as it needs: how many named functions of simgap one call enters, on all of its threads."""

import json
import subprocess
import sys

import pytest

# Counted in a process of its own, since the tests' checks of types enter properties. Lambdas and comprehensions have no name; compiled
# kernels have one.
SCRIPT = """
import json, sys, threading
from pathlib import Path
import simgap as sg, torch
from simgap.api.plan import plan_of

def measured(**more):
    spec = sg.LayerSpec(d_model=32, d_ff=64, n_experts=8, top_k=2)
    sg.measure(spec, quantities=["activation_mso token output"], **more)

def entered(**more):
    here, found = str(Path(sg.__file__).parent), set()
    def seen(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(here) and "<" not in code.co_name:
            found.add((Path(code.co_filename).stem, code.co_firstlineno, code.co_name))
    threading.setprofile(seen)
    sys.setprofile(seen)
    measured(**more)
    sys.setprofile(None)
    threading.setprofile(None)
    return sorted(found)

torch.set_num_threads(int(sys.argv[1]))
measured()
second = entered()
plan_of.cache_clear()
print(json.dumps([second, entered(), entered(progress=True)]))
"""
# What there is today: a layer that passes calls on would be one more. Four ask whether the space is round and tokens are means of others;
# two threads share the work by four more.
MOST = {1: 91, 2: 95}


@pytest.mark.parametrize("threads", MOST)
def test_the_token_reading_of_outputs_alone_enters_few_functions(threads):
    ran = subprocess.run([sys.executable, "-c", SCRIPT, str(threads)], capture_output=True, text=True, check=True)
    second, planned, with_bar = ([tuple(one) for one in found] for found in json.loads(ran.stdout))
    assert len(second) <= MOST[threads], "\n".join(map(str, second))
    # What depends on the shape of the question alone is known from the first call, and the router is not asked before it is used.
    # The counter sees what is there: a task of a thread, a kernel, a plan that is made, a bar.
    assert {"measure", "run_experts", "draw", "list_tokens", "token_cos2"} <= {name for _, _, name in second}
    assert {"plan_of", "group_bytes", "kept_of"} <= {name for _, _, name in planned} - {name for _, _, name in second}
    assert not {"longest_list", "plan_block", "by_metric"} & {name for _, _, name in second}
    assert "_bar" in {name for _, _, name in with_bar}
