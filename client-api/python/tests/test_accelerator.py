# SPDX-License-Identifier: AGPL-3.0-or-later
"""The simulated accelerator (runtime/src/test/cpp/accelerator): memory, streams and generators behave as a GPU's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not torch.__version__.startswith("2.10."), reason="it is written for torch 2.10"
    ),
]

TORCH = Path(torch.__file__).parent
LIBTORCH = ("libc10.so", "libtorch_cpu.so")


@pytest.fixture
def run(accelerator_library):
    """Runs statements in a process with the devices, since they cannot be unloaded."""

    def process(text: str, **variables: str) -> subprocess.CompletedProcess[str]:
        # The devices come before torch asks for them for the first time.
        begin = (
            "import ctypes\n"
            f"for name in {[*(str(TORCH / 'lib' / name) for name in LIBTORCH), str(accelerator_library)]!r}:\n"
            "    ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)\n"
            "import torch\n"
            "torch.mtia._lazy_init = lambda: None\n"
            'd = torch.device("mtia:0")\n'
        )
        return subprocess.run(
            [sys.executable, "-c", begin + text],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        )

    return process


def test_computes_what_the_cpu_computes(run):
    done = run("""
x = torch.arange(24.0).view(2, 3, 4)
def work(x):
    y = (x + 1).transpose(0, 2)
    y[1].mul_(3)
    z = torch.empty(0, device=x.device)
    torch.cat([y, y.flip(0)], out=z)
    torch.manual_seed(1)
    return [t.cpu().clone() for t in (y, z, z.nonzero(), z.sum((0, 1)), *z.split(3), z.view(-1)[::5])]
here, there = work(x), work(x.to(d))
assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(here, there))
assert x.to(d).to("mtia:3").add(1).cpu().equal(x + 1)
""")
    assert done.returncode == 0, done.stderr


def test_random_numbers_are_those_of_the_device_s_generator(run):
    done = run("""
g = torch.Generator(device=d).manual_seed(7)
expected = torch.randn(5, generator=torch.Generator().manual_seed(7))
assert torch.randn(5, device=d, generator=g).cpu().equal(expected)
before = torch.get_rng_state()
torch.rand(5, device=d)
torch.nn.functional.dropout(torch.ones(5, device=d))
assert torch.get_rng_state().equal(before)
""")
    assert done.returncode == 0, done.stderr


def test_the_host_cannot_touch_the_memory(run):
    done = run("""
import ctypes
x = torch.ones(4, device=d)
x.cpu()
print("before", flush=True)
ctypes.c_float.from_address(x.data_ptr()).value
print("after", flush=True)
""")
    assert done.stdout == "before\n"
    assert done.returncode == -signal.SIGSEGV


def test_work_is_still_running_when_a_call_returns(run):
    done = run(
        """
begin, end = (torch.Event(device=d, enable_timing=True) for _ in range(2))
for _ in range(20):  # this process may be suspended for longer than the delay
    begin.record()
    x = torch.ones(4, device=d)
    end.record()
    running = not end.query()
    end.synchronize()
    if running:
        break
assert running
assert begin.query() and end.query()
assert begin.elapsed_time(end) > 0
assert x.cpu().equal(torch.ones(4))
""",
        REMORA_SIMULATED_DELAY_MICROS="200000",
    )
    assert done.returncode == 0, done.stderr


def test_memory_runs_out_and_comes_back(run):
    done = run(
        """
def fill():
    held = []
    try:
        while True:
            held.append(torch.ones(1 << 20, device=d))
    except torch.OutOfMemoryError as e:
        assert "out of memory" in str(e)
    return len(held)
assert fill() == fill() == 15
""",
        REMORA_SIMULATED_MIB="63",
    )
    assert done.returncode == 0, done.stderr
