# SPDX-License-Identifier: AGPL-3.0-or-later
"""Functions that run whole on the node: remora.remote, pip_install."""

from __future__ import annotations

import concurrent.futures
import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import await_that
from torch import nn

import remora
from remora import functions

pytestmark = pytest.mark.fast

GREETING = Path(__file__).parent / "greeting"
OFFSET = 10


def own_helper(x):
    return x + OFFSET


@remora.remote
def double(x):
    return x * 2


@remora.remote
def scale_in_place(x, factor):
    x.mul_(factor)


@remora.remote
def process_id():
    return os.getpid()


@remora.remote
def fail(text):
    def deep():
        raise KeyError(text)

    deep()


@pytest.fixture
def worker_process(request, device):
    if request.config.getoption("--machine") == "local":
        pytest.skip("functions run in this process")


@pytest.mark.critical
def test_a_result_stays_on_the_machine(machine, device):
    x = torch.arange(6.0, device=device).reshape(2, 3)
    double(x)
    before = machine.stats()
    y = double(x)
    after = machine.stats()
    assert y.device == device
    assert after["downloaded_bytes"] == before["downloaded_bytes"]
    assert after["uploaded_bytes"] == before["uploaded_bytes"]
    assert torch.equal((y + 1).cpu(), torch.arange(6.0).reshape(2, 3) * 2 + 1)


@pytest.mark.critical
def test_writes_in_place_are_seen_both_ways(device):
    x = torch.ones(3, 4, device=device)
    view = x[1]
    for _ in range(3):
        scale_in_place(view, 2)
        x += 1
    expected = torch.ones(3, 4)
    for _ in range(3):
        expected[1].mul_(2)
        expected += 1
    assert torch.equal(x.cpu(), expected)


def test_the_function_runs_in_another_process(device, worker_process):
    assert process_id() == process_id() != os.getpid()


def test_results_of_every_kind(device):
    @remora.remote
    def several(x, name, *, scale=1):
        return {
            "sum": x.sum(),
            "name": name.upper(),
            "parts": [x[0], (x * scale).t()],
            "none": None,
        }

    x = torch.arange(6, device=device).reshape(2, 3)
    result = several(x, "abc", scale=3)
    assert result["name"] == "ABC" and result["none"] is None
    assert result["sum"].item() == 15
    assert result["parts"][1].stride() == (1, 3)
    assert torch.equal(result["parts"][1].cpu(), (torch.arange(6).reshape(2, 3) * 3).t())
    # A view of an argument is a view in the program too.
    assert remora.storage_id(result["parts"][0]) == remora.storage_id(x)
    x.zero_()
    assert result["parts"][0].sum().item() == 0


def test_an_argument_that_is_returned_is_the_same_object(device):
    @remora.remote
    def both(x, y):
        return y, [x]

    x, y = torch.ones(2, device=device), torch.ones(3, device=device)
    first, (second,) = both(x, y)
    assert first is y and second is x


def test_results_that_share_memory_share_it_here(device):
    @remora.remote
    def pair():
        x = torch.zeros(4)
        return x, x[1:3]

    whole, part = pair()
    part.fill_(5)
    assert whole.tolist() == [0, 5, 5, 0]


def test_a_small_part_of_a_large_tensor_is_all_that_stays(device):
    @remora.remote
    def first():
        return torch.arange(1_000_000)[7:9]

    part = first()
    assert part.tolist() == [7, 8]
    assert part.untyped_storage().nbytes() == 16


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(0, 3),
        torch.tensor(2.5, dtype=torch.float64),
        torch.randn(3, dtype=torch.complex64),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.randn(3, dtype=torch.complex64).conj().imag,
        torch.ones(5, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.arange(12).reshape(3, 4)[1:, ::2],
        torch.ones(1, 3).expand(4, 3),
    ],
    ids=lambda t: f"{t.dtype}-{tuple(t.shape)}",
)
def test_tensors_of_many_kinds_go_there_and_back(device, tensor):
    @remora.remote
    def there_and_back(x):
        return x.clone(), x

    x = tensor.to(device)
    copy, same = there_and_back(x)
    assert same is x
    assert torch.equal(copy.cpu(), tensor)


def test_closures_and_globals_go_along(device):
    weights = torch.tensor([1.0, 2.0], device=device)
    bias = torch.tensor([0.5, 0.5])
    power = 2

    @remora.remote
    def function(x):
        return own_helper(x * weights**power + bias)

    assert function(torch.ones(2, device=device)).tolist() == [11.5, 14.5]
    assert weights.tolist() == [1, 2]


def test_cpu_tensors_travel_by_value(device):
    @remora.remote
    def change(x, large):
        x.add_(1)
        return float(x.sum() + large.sum())

    x = torch.zeros(3)
    assert change(x, torch.ones(200_000)) == 200_003
    assert x.tolist() == [0, 0, 0]


def test_large_values_travel_both_ways(device):
    @remora.remote
    def turn(data):
        return data[::-1]

    data = os.urandom(3_000_000)
    assert turn(data) == data[::-1]


def test_a_module_goes_without_its_weights(machine, device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    expected = model(torch.ones(2, 64))
    model.to(device)

    @remora.remote
    def forward(model, x):
        return model(x).detach()

    x = torch.ones(2, 64, device=device)
    forward(model, x)
    before = machine.stats()
    result = forward(model, x)
    after = machine.stats()
    assert after["uploaded_bytes"] == before["uploaded_bytes"]
    assert after["batch_bytes"] - before["batch_bytes"] < 8_000 < 64 * 64 * 4
    assert torch.allclose(result.cpu(), expected, atol=1e-6)


def test_training_inside_the_function(device):
    def train(model, x, y):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, [p.grad for p in model.parameters()]

    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    there = nn.Linear(4, 1)
    there.load_state_dict(model.state_dict())
    there.to(device)
    losses, gradients = remora.remote(train)(there, x.to(device), y.to(device))
    expected_losses, expected_gradients = train(model, x, y)
    assert losses == pytest.approx(expected_losses)
    for mine, other in zip(gradients, expected_gradients, strict=True):
        assert mine.device == device and torch.allclose(mine.cpu(), other, atol=1e-6)
    for mine, other in zip(there.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine.detach().cpu(), other.detach(), atol=1e-6)


def test_a_module_that_is_returned_has_its_weights_there(device):
    @remora.remote
    def make():
        torch.manual_seed(3)
        return nn.Linear(3, 2)

    model = make()
    assert {p.device for p in model.parameters()} == {device}
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())
    torch.manual_seed(3)
    expected = nn.Linear(3, 2)
    x = torch.ones(1, 3)
    assert torch.allclose(model(x.to(device)).cpu(), expected(x), atol=1e-6)
    model(x.to(device)).sum().backward()
    assert model.weight.grad is not None


def test_random_numbers_are_those_of_the_device(device):
    @remora.remote
    def draw():
        return torch.randn(3)

    torch.manual_seed(5)
    numbers = [torch.randn(3, device=device), draw(), torch.randn(3, device=device)]
    torch.manual_seed(5)
    for number in numbers:
        assert torch.equal(number.cpu(), torch.randn(3))


def test_devices_in_arguments_are_the_nodes(device):
    @remora.remote
    def where(device):
        return torch.ones(2, device=device), str(device)

    ones, text = where(device)
    assert ones.device == device
    assert text in ("cpu", "cuda:0")


def test_a_second_device(machine):
    second = machine.device("cuda:1")
    x = torch.ones(2, device=second)
    assert double(x).device == second


def test_futures_come_in_order(device, tmp_path):
    @remora.remote(run_async=True, timeout=60)
    def once_there(x, file):
        while not Path(file).exists():
            time.sleep(0.01)
        return x + 1

    x = torch.zeros(2, device=device)
    gate = tmp_path / "gate"
    first = once_there(x, str(gate))
    second = once_there(x, "/")
    assert isinstance(first, concurrent.futures.Future)
    assert not first.done() and not second.done()
    gate.touch()
    assert second.result().tolist() == [1, 1]
    assert first.done() and first.result().tolist() == [1, 1]


def test_operations_stay_in_order_with_functions(device):
    x = torch.zeros(2, device=device)
    futures = []
    for _ in range(5):
        x += 1
        futures.append(scale_in_place.submit(x, 3))
    assert x.tolist() == [363, 363]
    concurrent.futures.wait(futures)


def test_what_it_prints_comes_here(device, capfd, worker_process):
    @remora.remote
    def talk():
        print("hello from the node")
        print("and its errors", file=sys.stderr)
        return 3

    assert talk() == 3
    out, err = capfd.readouterr()
    assert "hello from the node\n" in out
    assert "and its errors\n" in err


@pytest.mark.critical
def test_what_it_raises_comes_here_with_the_traceback_there(device):
    with pytest.raises(KeyError, match="wrong key") as caught:
        fail("wrong key")
    cause = caught.value.__cause__
    assert isinstance(cause, remora.RemoteFunctionError)
    assert "in deep" in str(cause) and "raise KeyError(text)" in str(cause)


def test_an_exception_that_cannot_be_pickled_comes_in_words(device):
    @remora.remote
    def odd():
        class LockError(Exception):
            def __init__(self):
                super().__init__("locked")
                self.lock = threading.Lock()

        raise LockError

    with pytest.raises(remora.RemoteFunctionError, match=r"odd.* raised .*LockError: locked"):
        odd()


def test_sys_exit_ends_the_function_only(device):
    @remora.remote
    def leave():
        sys.exit(3)

    with pytest.raises(remora.RemoteFunctionError, match="SystemExit: 3"):
        leave()
    assert double(torch.ones(1, device=device)).item() == 2


def test_a_result_that_cannot_be_pickled(device):
    @remora.remote
    def lock():
        return [torch.ones(2), threading.Lock()]

    with pytest.raises(
        remora.RemoteFunctionError, match="result of .*lock cannot be pickled.*lock"
    ):
        lock()


def test_an_argument_that_cannot_be_pickled(device):
    with pytest.raises(TypeError, match="pickle"):
        double(threading.Lock())


def test_remote_functions_call_each_other_there(device):
    @remora.remote
    def factorial(n):
        return 1 if n < 2 else n * factorial(n - 1)

    @remora.remote
    def quadruple(x):
        return double(double(x))

    assert factorial(5) == 120
    assert quadruple(torch.ones(1, device=device)).item() == 4


def test_methods(device):
    class Scaler:
        factor = 3

        @remora.remote
        def scale(self, x):
            return x * self.factor

    assert Scaler().scale(torch.ones(2, device=device)).tolist() == [3, 3]


def test_nobody_gets_what_is_poisoned(machine, device):
    x = torch.ones(3, device=device)[torch.tensor([7], device=device)]
    with pytest.raises(remora.RemoteOperationException, match="out of bounds"):
        double(x)


def test_tensors_of_two_machines(device):
    with remora.RemoteMachine("mock") as other:
        x, y = torch.ones(1, device=device), torch.ones(1, device=other.device())

        @remora.remote
        def add(x, y):
            return x + y

        with pytest.raises(remora.CrossMachineException, match="one machine"):
            add(x, y)

        @remora.remote(machine=other)
        def make():
            return torch.ones(2)

        assert make().device == other.device()
        with pytest.raises(remora.CrossMachineException):
            remora.remote(machine=other)(double.local)(x)


def test_results_nobody_keeps_are_freed(machine, device):
    @remora.remote
    def several():
        return [torch.ones(1000) for _ in range(5)]

    double(torch.ones(1, device=device))
    gc.collect()
    before = machine.stats()["storages"]
    for _ in range(4):
        several()
    gc.collect()
    assert machine.stats()["storages"] <= before + 5


def test_the_read_timeout_does_not_strike_while_a_function_runs(monkeypatch):
    monkeypatch.setenv("REMORA_READ_TIMEOUT", "4")
    with remora.RemoteMachine("mock") as machine:
        x = torch.ones(2, device=machine.device())

        @remora.remote(run_async=True)
        def slow(x):
            time.sleep(8)
            return x * 2

        future = slow(x)
        x += 1
        assert x.sum().item() == 4
        assert future.result().tolist() == [2, 2]


def test_a_worker_that_is_killed_fails_its_function_only(device, worker_process):
    @remora.remote
    def die():
        print("last words")
        os.kill(os.getpid(), signal.SIGKILL)

    old = process_id()
    x = torch.ones(3, device=device)
    scale_in_place(x, 2)
    with pytest.raises(remora.RemoteFunctionError, match=r"(?s)die failed .*SIGKILL.*last words"):
        die()
    assert x.tolist() == [2, 2, 2]
    scale_in_place(x, 2)
    assert x.tolist() == [4, 4, 4]
    assert process_id() != old


def test_a_time_limit(device, worker_process):
    @remora.remote(timeout=1)
    def sleep(seconds):
        time.sleep(seconds)

    process_id()
    begin = time.monotonic()
    with pytest.raises(remora.RemoteFunctionError, match="did not end within 1 s"):
        sleep(300)
    assert time.monotonic() - begin < 300, "it has slept to its end"
    assert double(torch.ones(1, device=device)).item() == 2


def test_a_failure_that_nobody_reads_is_logged(device, caplog):
    future = fail.submit("forgotten")
    concurrent.futures.wait([future])
    del future

    def is_logged() -> bool:
        gc.collect()
        return "has not asked for its result" in caplog.text

    await_that(is_logged)
    assert "forgotten" in caplog.text


def test_pip_install(machine, device):
    @remora.remote
    def greet(name):
        import remora_greeting

        return remora_greeting.greet(name), remora_greeting.__file__

    with pytest.raises(ModuleNotFoundError, match="remora_greeting"):
        greet("you")
    machine.pip_install(str(GREETING))
    text, file = greet("you")
    assert text == "hello you"
    assert "remora-packages-" in file
    assert remora.remote(packages=[str(GREETING)])(greet.local)("me")[0] == "hello me"


def test_packages_of_a_machine_are_installed_when_it_starts():
    @remora.remote
    def greet(name):
        import remora_greeting

        return remora_greeting.greet(name)

    with remora.RemoteMachine("mock", packages=[str(GREETING)]):
        assert greet("all") == "hello all"


@pytest.mark.gateway
def test_ctrl_c_ends_the_wait_and_the_program_goes_on(run_program):
    result = run_program("""
        @remora.remote
        def nap(file):
            while not os.path.exists(file):
                time.sleep(0.01)
            return "slept"

        gate = __file__ + ".gate"
        interrupt_at("# waits for the function")
        try:
            nap(gate)  # waits for the function
            print("ended")
        except KeyboardInterrupt:
            print("interrupted")
        open(gate, "w").close()
        print(nap(gate))
        """)
    assert result.stdout == "interrupted\nslept\n", result.stdout + result.stderr


def test_the_manuals_program_runs(request, tmp_path):
    manual = Path(__file__).parents[3] / "docs" / "remote-functions.md"
    text = manual.read_text().split("```python\n", 1)[1].split("```", 1)[0]
    if request.config.getoption("--machine") == "local":
        text = text.replace(
            "import torch, remora\n", "import torch, remora\nremora.disable_remote_execution()\n"
        )
    file = tmp_path / "manual.py"
    file.write_text(text.replace("x, y, 100", "x, y, 2"))
    result = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Parameter containing" in result.stdout
    assert len(result.stdout.splitlines()) > 3


def test_pip_errors_have_its_last_lines(machine, device, tmp_path):
    with pytest.raises(remora.RemoteFunctionError, match=r"(?s)pip cannot install .*nothing-here"):
        machine.pip_install(str(tmp_path / "nothing-here"))


@pytest.mark.parametrize(
    ("options", "what"), [({"timeout": 0}, "timeout"), ({"packages": "numpy"}, "packages")]
)
def test_arguments_out_of_range(options, what):
    with pytest.raises(ValueError, match=what):
        remora.remote(**options)


def test_a_module_may_have_several_names(device, tmp_path, monkeypatch):
    (tmp_path / "own_of_two_names.py").write_text("def plus(x):\n    return x + 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_of_two_names")
    monkeypatch.setitem(sys.modules, "its_old_name", own)
    x = torch.ones(2, device=device)
    for _ in range(2):
        assert remora.remote(own.plus)(x).tolist() == [6, 6]


def test_packages_that_pip_has_put_elsewhere_are_not_the_program_s_own(tmp_path, monkeypatch):
    for folder, installed in (("program", False), ("installed", True)):
        package = tmp_path / folder / f"{folder}_package" / "inner"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").touch()
        (package / "__init__.py").touch()
        (package / "leaf.py").touch()
        if installed:
            (tmp_path / folder / "some-1.0.dist-info").mkdir()
        monkeypatch.syspath_prepend(tmp_path / folder)
        for name in ("", ".inner", ".inner.leaf"):
            module = importlib.import_module(f"{folder}_package{name}")
            assert functions._is_own(module) is not installed


def test_no_packages_may_be_none(device):
    @remora.remote(packages=None)
    def plus(x):
        return x + 1

    assert plus(torch.ones(2, device=device)).tolist() == [2, 2]
    remora.RemoteMachine("mock", packages=None)


def test_gradients_go_there_and_come_back(device):
    @remora.remote
    def step(model, x):
        before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        model(x).sum().backward()
        mine = torch.ones(2, requires_grad=True)
        (mine * 3).sum().backward()
        return before, mine

    model = nn.Linear(3, 2).to(device)
    x = torch.ones(4, 3, device=device)
    before, mine = step(model, x)
    assert before == [None, None]
    assert mine.grad.device == device and mine.grad.tolist() == [3, 3]
    assert model.weight.grad.tolist() == [[4] * 3] * 2
    gradient = model.bias.grad
    before, _ = step(model, x)
    assert before[0].tolist() == [[4] * 3] * 2
    assert model.bias.grad is gradient and gradient.tolist() == [8, 8]
    model(x).sum().backward()  # here
    assert step(model, x)[0][1].tolist() == [12, 12]


def test_a_gradient_that_is_taken_away_there_is_gone_here(device):
    x = torch.ones(2, device=device, requires_grad=True)
    x.sum().backward()

    @remora.remote
    def forget(x):
        x.grad = None

    forget(x)
    assert x.grad is None


def test_gradients_come_back_from_a_function_that_fails(device):
    @remora.remote
    def fail_later(x):
        (x * 2).sum().backward()
        raise KeyError("later")

    x = torch.ones(2, device=device, requires_grad=True)
    with pytest.raises(KeyError, match="later"):
        fail_later(x)
    assert x.grad.tolist() == [2, 2]
