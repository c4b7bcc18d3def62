# SPDX-License-Identifier: AGPL-3.0-or-later
"""A program's process: signals, forks, worker processes, its exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import await_that, write_program
from torch.utils.data import DataLoader, Dataset

import remora

pytestmark = pytest.mark.fast


class Squares(Dataset):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, index * index], dtype=torch.float32)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("workers", "pin"), [(0, True), (2, False), (2, True)])
def test_data_loaders_with_workers_and_pinning(device, workers, pin):
    total = torch.zeros((), device=device)
    loader = DataLoader(Squares(), batch_size=4, num_workers=workers, pin_memory=pin)
    for _ in range(2):
        for batch in loader:
            assert batch.device.type == "cpu"
            total += batch.to(device, non_blocking=True)[:, 1].sum()
    assert total.item() == 2 * sum(i * i for i in range(12))


def test_pinned_memory(device):
    x = torch.ones(4).pin_memory()
    assert torch.equal(x.to(device, non_blocking=True).cpu(), torch.ones(4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_that_leaves_the_device_alone_works(device):
    x = torch.ones(3, device=device)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if (torch.ones(5) * 2).sum().item() == 10 else 2
            torch.manual_seed(1)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert x.sum().item() == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_that_uses_the_device_is_told_why_not(device):
    x = torch.ones(3, device=device)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            (x + 1).cpu()
        except Exception as e:
            os.write(writing, f"{type(e).__name__}: {e}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    assert "MachineStateException" in text
    assert "forked" in text
    assert (x + 1).sum().item() == 6


@pytest.mark.critical
def test_the_end_of_a_program_with_work_pending(run_program):
    result = run_program("""
        x = torch.randn(200, 200, device=device)
        for _ in range(200):
            x = (x @ x).tanh()
        print("done")
        """)
    assert result.stdout == "done\n"
    assert "Traceback" not in result.stderr


def test_a_failure_nobody_has_read_is_said_at_the_end(run_program):
    result = run_program("""
        x = torch.ones(3, device=device)[torch.tensor([7], device=device)]
        """)
    assert "out of bounds" in result.stderr


def test_sys_exit_and_uncaught_errors_end_the_program(run_program):
    assert run_program("sys.exit(3)", check=False).returncode == 3
    result = run_program(
        "torch.ones(2, 2, device=device) @ torch.ones(3, device=device)", check=False
    )
    assert result.returncode == 1
    assert "RuntimeError: size mismatch" in result.stderr


def test_daemon_threads_that_record_do_not_disturb_the_end(run_program):
    run_program("""
        def work(begun):
            x = torch.ones(10, device=device)
            for step in range(1 << 62):
                x = x + 1
                x.sum().item()
                if step == 100:
                    begun.set()
        events = [threading.Event() for _ in range(2)]
        for each in events:
            threading.Thread(target=work, args=(each,), daemon=True).start()
        for each in events:
            assert each.wait(60)
        """)


def test_an_interrupt_ends_a_read(run_program):
    result = run_program("""
        @remora.remote(run_async=True)
        def hold(file):
            while not os.path.exists(file):
                time.sleep(0.01)

        gate = __file__ + ".gate"
        x = torch.ones(3, device=device)
        held = hold(gate)
        y = x + 1
        interrupt_at("# waits for the function")
        try:
            y.sum().item()  # waits for the function
            print("read")
        except KeyboardInterrupt:
            print("interrupted")
        open(gate, "w").close()
        print(y.sum().item())
        held.result()
        """)
    assert result.stdout.splitlines() == ["interrupted", "6.0"]


def test_the_machine_is_usable_in_spawned_processes(run_program):
    run_program("""
        import multiprocessing
        def work(queue):
            queue.put(torch.ones(3).sum().item())
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=work, args=(queue,))
        child.start()
        assert queue.get(timeout=60) == 3
        child.join(60)
        assert (torch.ones(2, device=device) + 1).sum().item() == 4
        """)


@pytest.mark.gateway
def test_the_gateway_ends_with_a_killed_program(tmp_path, pytestconfig):
    if pytestconfig.getoption("--machine") == "local":
        pytest.skip("machines are in this process")
    program = write_program(
        tmp_path,
        """
        from remora import _gateway
        print(_gateway._own[0]._process.pid, flush=True)
        time.sleep(60)
        """,
        pytestconfig,
    )
    with subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, text=True
    ) as process:
        gateway = int(process.stdout.readline())
        assert Path(f"/proc/{gateway}").exists()
        process.send_signal(signal.SIGKILL)
    await_that(lambda: not _runs(gateway))


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_importing_prints_nothing_and_opens_nothing():
    result = subprocess.run(
        [sys.executable, "-c", "import remora; assert not remora.get_all_machines()"],
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    assert result.stdout == result.stderr == ""
    assert remora.__version__


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_opens_a_machine_of_its_own(run_program):
    result = run_program("""
        child = os.fork()
        if child == 0:
            code = 1
            try:
                remora.disable_remote_execution()
                assert not torch.remora.is_available()
                with remora.RemoteMachine("mock") as mine:
                    assert torch.remora.is_available()
                    x = torch.ones(3, device=mine.device())
                    code = 0 if (x + 1).sum().item() == 6 else 2
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print((torch.ones(2, device=device) + 1).sum().item())
        """)
    assert result.stdout.splitlines() == ["0", "4.0"]
