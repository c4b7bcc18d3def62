# SPDX-License-Identifier: AGPL-3.0-or-later
"""Verifies a machine on this computer's accelerator, and compares it with PyTorch on the same device.

    python benchmarks/gpu.py [--device cuda] [--library FILE] [--quick] [--only PART …] [--json FILE]

Needs Python with torch and what the package needs. With a Java, nodes are processes of their own behind a
gateway; without, this process computes, and the parts that need a node's process are skipped. Prints a table with a
line for each part: passed, FAILED or skipped, each with what was seen. The exit status is 1 if a part failed, and 2
if none could run. `--device mtia --library libsimulated.so` runs all of it on simulated accelerators, whose reference
is the local CPU and whose figures measure nothing. benchmarks/gpu/pack prepares a folder for another computer.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gzip
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ROOT = HERE.parents[3]
DIGITS = ROOT / "examples/src/main/resources/io/remora/examples/digits.csv.gz"
MIB = 1 << 20

Row = tuple[str, str, str]


class Skip(Exception):
    """The part cannot run here; the message says why."""


class Failure(Exception):
    """The part ran and found something wrong."""


def need(condition: bool, what: str) -> None:
    if not condition:
        raise Failure(what)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="type of the node's devices: cuda, mtia …")
    parser.add_argument("--library", type=Path, help="a library that gives libtorch these devices")
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds, not minutes")
    parser.add_argument("--operators", type=int, metavar="N", help="tries every Nth operator")
    parser.add_argument("--samples", type=int, metavar="N", help="samples of each operator")
    parser.add_argument("--only", nargs="+", metavar="PART", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes results and figures")
    return parser.parse_args(arguments)


class Bench:
    """What the parts share: the device that PyTorch uses itself, and the machine."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.quick: bool = options.quick
        self.kind: str = options.device
        self.figures: dict[str, dict[str, float | str]] = {}
        self._closing = contextlib.ExitStack()
        self.gateway: Any = None
        self.why_no_java = ""

    # PyTorch and the package are imported late: the device's library comes first.
    def open(self) -> None:
        import remora_command

        try:
            remora_command.find_java()
            class_path = remora_command.class_path()
        except remora_command.StartError as e:
            class_path, self.why_no_java = "", str(e).splitlines()[0]
        library = self.options.library and self.options.library.resolve()
        if library and not class_path:  # torch must find the devices when it first asks
            spec = importlib.util.find_spec("torch")
            home = Path(str(spec and spec.origin)).parent / "lib"
            for each in (home / "libc10.so", home / "libtorch_cpu.so", library):
                ctypes.CDLL(str(each), mode=ctypes.RTLD_GLOBAL)
        import torch

        if self.kind == "cuda" and not torch.cuda.is_available():
            raise Skip("torch.cuda.is_available() is False: no GPU, no driver, or no CUDA wheel")
        self.eager = torch.device("cuda:0" if self.kind == "cuda" else "cpu")
        try:
            import remora
        except ImportError as e:
            raise Skip(f"the package does not import: {e}") from None
        from remora import _gateway, _session
        from remora._settings import Settings

        if class_path:
            java = [os.environ.get("JAVA_TOOL_OPTIONS", "")]
            java += [f"-Dremora.provider.mock.device={self.kind}"]
            java += [f"-Dremora.node.operator-libraries.0={library}"] if library else []
            os.environ["JAVA_TOOL_OPTIONS"] = " ".join(java)
            self.gateway = _gateway.GatewayProcess(class_path, Settings.from_environment())
            self._closing.callback(self.gateway.stop)
            remora.enable_remote_execution()
        else:
            _session.LOCAL_DEVICE = self.kind
            remora.disable_remote_execution()
        self.machine = self._closing.enter_context(self.connect(self.device_count()))
        self.remote = self.machine.device()

    def device_count(self) -> int:
        import torch

        return min(8, torch.cuda.device_count()) if self.kind == "cuda" else 2

    def connect(self, devices: int = 1, **more: Any) -> Any:
        import remora

        if self.gateway is None:
            return remora.RemoteMachine("mock", gpu_count=devices)
        if "machine" not in more:
            more["provider"] = "mock"
        return remora.RemoteMachine.connect(
            self.gateway.address, token=self.gateway.token, gpu_count=devices, **more
        )

    def need_gateway(self) -> None:
        if self.gateway is None:
            raise Skip(f"needs a node's process: {self.why_no_java}")

    def need_cuda(self) -> None:
        if self.kind != "cuda":
            raise Skip(f"CUDA's alone; the devices here are of type {self.kind}")

    def wait(self, device: Any) -> None:
        import torch

        if device.type == "remora":
            torch.remora.synchronize()  # type: ignore[attr-defined]
        elif device.type == "cuda":
            torch.cuda.synchronize()

    def figure(self, name: str, unit: str, work: Callable[[Any], float]) -> str:
        """Measures work on the eager device and the machine in turn; returns a text."""
        rounds = 1 if self.quick else 5
        times: dict[str, list[float]] = {"eager": [], "remote": []}
        for _ in range(rounds):
            times["eager"].append(work(self.eager))
            times["remote"].append(work(self.remote))
        eager, remote = (statistics.median(times[side]) for side in ("eager", "remote"))
        self.figures[name] = {
            "unit": unit,
            "eager": eager,
            "remote": remote,
            "ratio": remote / eager,
        }
        return f"{remote:,.4g} {unit}, eager {eager:,.4g}, ratio {remote / eager:.2f}"

    def close(self) -> None:
        self._closing.close()


# ---------------------------------------------------------------- what must be right


def environment(bench: Bench) -> str:
    """Versions, and the devices as the node and PyTorch see them."""
    import torch

    devices = bench.machine.devices
    need({each.kind for each in devices} == {bench.kind}, f"the node's devices are {devices}")
    if bench.kind == "cuda":
        for number, each in enumerate(devices):
            mine = torch.cuda.get_device_properties(number)
            need(each.name == mine.name, f"the node calls {mine.name} {each.name}")
            # The driver's total holds what PyTorch's leaves out for itself.
            need(
                0.9 < each.memory / mine.total_memory < 1.1,
                f"{each.memory} bytes, PyTorch says {mine.total_memory}",
            )
    names = ", ".join(f"{each.name} ({each.memory / MIB:,.0f} MiB)" for each in devices)
    where = "behind a gateway" if bench.gateway else f"in this process ({bench.why_no_java})"
    return f"{names}; torch {torch.__version__}, Python {platform.python_version()}, {where}"


def training(bench: Bench) -> str:
    """Training with uploads, copies, views and growing storages has the bits of PyTorch on the same device."""
    import torch
    from torch import nn

    def work(device: Any) -> list[Any]:
        torch.manual_seed(5)
        net: Any = nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))
        data, labels = torch.randn(32, 12), torch.randint(4, (32,))
        net.to(device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
        seen = []
        for step in range(10):
            noise = torch.arange(32 * 12.0).view(32, 12).to(device) * (step / 100)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(data.to(device) + noise), labels.to(device))
            loss.backward()
            optimizer.step()
            seen.append(torch.tensor(loss.item()))
            weight = net[0].weight.detach()
            seen.append(weight[weight > 0].cpu())
            x = torch.zeros(7, device=device)
            x[::2] = step
            x.resize_(40).view(4, 10)[:, 3].copy_(torch.arange(4.0))
            x[7:].fill_(1)
            x.view(torch.int32)[1] = 3
            seen.append(x.cpu())
        return [*seen, *(each.detach().cpu() for each in net.state_dict().values())]

    expected, again, got = work(bench.eager), work(bench.eager), work(bench.remote)
    bits = [all(torch.equal(a, b) for a, b in zip(expected, other)) for other in (again, got)]  # noqa: B905
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b, a)
    need(bits[1] or not bits[0], "other bits than PyTorch's own, which are the same in two runs")
    same = "the same bits" if bits[1] else "equal up to rounding, as two runs of PyTorch are"
    return f"{len(got)} tensors, {same}"


def copies(bench: Bench) -> str:
    """Values pass through all devices, and large ones go up and down."""
    import torch

    count = len(bench.machine.devices)
    values = torch.randn(1000, 1000)
    x = values
    for number in range(count):
        x = x.to(bench.machine.device(number)) * 2
    need(torch.equal(x.cpu(), values * 2**count), "a value changed on its way through the devices")
    large = torch.arange((4 if bench.quick else 64) * MIB, dtype=torch.int32)
    there = large.to(bench.remote)
    down = (there + 1).to("cpu", non_blocking=True)
    there.zero_()
    bench.machine.synchronize()
    need(torch.equal(down, large + 1), "a large value was overwritten before it was read")
    return f"through {count} devices; {large.nbytes / MIB:.0f} MiB up and down"


def operators(bench: Bench) -> str:
    """PyTorch's database of operators: forward and backward as PyTorch computes them on the same device."""
    import torch

    sys.path.insert(0, str(HERE.parents[1] / "tests"))
    try:
        import databases  # type: ignore[import-not-found]
        from torch.testing._internal.common_methods_invocations import op_db
    except ImportError as e:
        raise Skip(f"PyTorch's database of operators does not import: {e}") from None
    step = bench.options.operators or (60 if bench.quick else 1)
    samples = bench.options.samples or (2 if bench.quick else 10)
    # On other devices than the CPU these draw other numbers in each run, or take sparse tensors only.
    left_out = {"sparse.mm", "sparse.sampled_addmm"}
    counts, wrong, calls = {"passed": 0, "without samples": 0}, [], 0
    for op in [op for op in op_db if op.name not in left_out][::step]:
        kinds = (torch.float32, torch.int64, torch.bool, torch.complex64)
        dtype = next((d for d in kinds if op.supports_dtype(d, bench.eager.type)), None)
        if dtype is None:
            continue
        for backward in (False, True):
            if backward and not (op.supports_autograd and dtype == torch.float32):
                continue
            try:
                calls += databases.run_operator(
                    op, bench.remote, dtype, backward, samples, reference=bench.eager
                )
                counts["passed"] += 1
            except databases.Skipped:
                counts["without samples"] += 1
            except Exception as e:
                way = "backward" if backward else "forward"
                wrong.append(f"{op.name} {way}: {type(e).__name__}: {str(e).splitlines()[0][:120]}")
                with contextlib.suppress(Exception):
                    bench.machine.synchronize()
    bench.figures["operators"] = {**counts, "failed": len(wrong), "samples": calls}
    need(
        not wrong,
        f"{len(wrong)} of {len(wrong) + counts['passed']} differ:\n    " + "\n    ".join(wrong),
    )
    return f"{counts['passed']} pass, {calls} samples; {counts['without samples']} have none to compare"


def pauses(bench: Bench) -> str:
    """A pause keeps tensors and generators."""
    import torch

    bench.need_gateway()
    with bench.connect(1) as machine:
        device = machine.device()
        values = torch.randn(3, 2 * MIB)
        kept, view = values.to(device), torch.ones(4, device=device)[1:]
        torch.manual_seed(3)
        torch.rand(5, device=device)
        machine.pause()
        machine.resume()
        drawn = torch.rand(5, device=device).cpu()
        torch.manual_seed(3)
        torch.rand(5, device=device)
        need(torch.equal(drawn, torch.rand(5, device=device).cpu()), "other random numbers")
        need(torch.equal(kept.cpu(), values) and view.tolist() == [1.0] * 3, "other values")
    return f"{values.nbytes / MIB:.0f} MiB and a generator"


def sessions(bench: Bench) -> str:
    """Several sessions compute at once on one node."""
    import torch

    bench.need_gateway()
    results: list[float] = []

    def use(machine: Any) -> None:
        with machine as mine:
            x = torch.ones(300, 300, device=mine.device())
            for _ in range(200):
                x = (x @ x).div_(300)
            results.append(x.sum().item())

    threads = [
        threading.Thread(target=use, args=(bench.connect(machine=bench.machine.name),))
        for _ in range(3)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(120)
    need(len(results) == 3 and len({*results}) == 1, f"the results are {results}")
    return "3 at once, equal results"


def memory(bench: Bench) -> str:
    """The device's figures, and memory that runs out."""
    import torch

    remora: Any = torch.remora  # type: ignore[attr-defined]
    before = remora.memory_allocated(bench.remote)
    x = torch.ones(4 * MIB, device=bench.remote)
    need(remora.memory_allocated(bench.remote) == before + x.nbytes, "the allocator's figure")
    total = remora.mem_get_info(bench.remote)[1]
    try:
        torch.empty(total, dtype=torch.float32, device=bench.remote).fill_(1)
        bench.machine.synchronize()
    except torch.OutOfMemoryError as e:
        said = str(e).splitlines()[0][:80]
    else:
        raise Failure(f"four times the device's {total / MIB:,.0f} MiB were allocated")
    need(x.sum().item() == 4 * MIB, "the session is broken after memory ran out")
    return f"{total / MIB:,.0f} MiB; the error: {said}"


def functions(bench: Bench) -> str:
    """A function's process and the node share the device's memory (CUDA IPC)."""
    import torch

    import remora

    bench.need_gateway()

    @remora.remote
    def double(x: Any) -> Any:
        x += 1
        return x * 2

    x = torch.arange(MIB * 1.0, device=bench.remote)
    try:
        result = double(x)
    except remora.exceptions.RemoraException as e:
        if bench.kind != "cuda" and "cannot be shared" in str(e):
            raise Skip(f"CUDA's alone; the node says: {str(e).splitlines()[0][:100]}") from None
        raise
    expected = torch.arange(MIB * 1.0) + 1
    need(torch.equal(result.cpu(), expected * 2), "other values")
    need(torch.equal(x.cpu(), expected), "what the function wrote into its argument is lost")
    return "argument, result, and a write into the argument, 4 MiB each"


def settings(bench: Bench) -> str:
    """TF32 and deterministic algorithms act on the node as they do in PyTorch."""
    import torch

    bench.need_cuda()
    torch.manual_seed(0)
    a, b = torch.randn(512, 512), torch.randn(512, 512)

    def product(device: Any) -> Any:
        return (a.to(device) @ b.to(device)).cpu()

    before, results = torch.backends.cuda.matmul.allow_tf32, {}
    try:
        for allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            results[allowed] = product(bench.eager), product(bench.remote)
            need(torch.equal(*results[allowed]), f"other bits with allow_tf32={allowed}")
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    effect = not torch.equal(results[False][0], results[True][0])

    index = torch.randint(10, (100_000,))
    values = torch.randn(100_000)

    def sums(device: Any) -> Any:
        return (
            torch.zeros(10, device=device).index_add_(0, index.to(device), values.to(device)).cpu()
        )

    torch.use_deterministic_algorithms(True)
    try:
        need(torch.equal(sums(bench.remote), sums(bench.remote)), "deterministic sums differ")
        need(torch.equal(sums(bench.eager), sums(bench.remote)), "sums differ from PyTorch's")
    finally:
        torch.use_deterministic_algorithms(False)
    tf32 = "TF32 changes the product" if effect else "TF32 changes nothing on this GPU"
    return f"{tf32}, with the same bits on both sides; deterministic sums are"


def late_errors(bench: Bench) -> str:
    """The program is told of an error that a kernel finds when it runs, and another machine works on."""
    import torch

    import remora

    bench.need_cuda()
    bench.need_gateway()
    with bench.connect(1) as machine:
        device = machine.device()
        try:
            torch.arange(10.0, device=device)[torch.tensor([99]).to(device)].cpu()
            machine.synchronize()
        except (RuntimeError, IndexError, remora.exceptions.RemoraException) as e:
            said = f"{type(e).__name__}: {str(e).splitlines()[0][:80]}"
        else:
            raise Failure("an index outside the tensor was taken")
        with contextlib.suppress(Exception):
            machine.stop()
    need(torch.ones(3, device=bench.remote).sum().item() == 3, "the other machine is broken, too")
    return said


def fuzz_decoders(bench: Bench, torch_home: Path, version: str) -> Path:
    """Returns the program, built here if it is not there."""
    named = os.environ.get("REMORA_FUZZ_DECODERS")
    if named:
        return Path(named)
    if bench.quick:
        raise Skip("takes minutes to build; --quick does not, and REMORA_FUZZ_DECODERS names none")
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    if missing:
        raise Skip(f"there is no {' and no '.join(missing)} to build fuzz_decoders")
    build = Path(tempfile.gettempdir()) / f"remora-fuzz-decoders-{version}"
    standard = 20 if tuple(map(int, version.split(".")[:2])) >= (2, 14) else 17
    home = ROOT / "runtime/src/test/cpp"
    commands: list[list[Any]] = [
        [
            *("cmake", "-S", home, "-B", build, f"-DTORCH={torch_home}", "-DSANITIZERS="),
            f"-DCMAKE_CXX_STANDARD={standard}",
        ],
        ["cmake", "--build", build, "--target", "fuzz_decoders", "-j", str(os.cpu_count())],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        need(done.returncode == 0, f"the build failed: {(done.stdout + done.stderr)[-400:]}")
    return build / "fuzz_decoders"


def decoders(bench: Bench) -> str:
    """The decoders and the executor take damaged batches while the device computes."""
    import torch

    program = fuzz_decoders(bench, Path(torch.__file__).parent, torch.__version__)
    lib = Path(torch.__file__).parent / "lib"
    library = bench.options.library or lib / "libtorch_cuda.so"
    inputs = 100 if bench.quick else 2000
    done = subprocess.run(
        [program, str(inputs), "1", f"{bench.kind}:0", str(library)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"LD_LIBRARY_PATH": str(lib)},
    )
    need(done.returncode == 0, f"exit status {done.returncode}: {done.stderr[-300:]}")
    return "; ".join(" ".join(line.split()) for line in done.stdout.splitlines()[1:4])


def walk(bench: Bench) -> str:
    """The walk through all overloads."""
    if bench.kind == "cuda":
        raise Skip("it compares with the CPU bit by bit, and a GPU's kernels round differently")
    raise Skip("it needs Maven: runtime/src/test/cpp/accelerator/run mvn … -Dtest=OperatorWalkTest")


def collectives(bench: Bench) -> str:
    """CUDA graphs and NCCL."""
    raise Skip("the node uses neither CUDA graphs nor NCCL")


# ---------------------------------------------------------------- figures


def rate(bench: Bench, step: Callable[[], Any], each: float, device: Any) -> float:
    """Returns units of work per second; `step` does `each` of them."""
    seconds = 0.2 if bench.quick else 1.5
    step()
    bench.wait(device)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        count += 1
    bench.wait(device)
    return count * each / (time.perf_counter() - begin)


def small_operations(bench: Bench) -> str:
    import torch

    def work(device: Any) -> float:
        x, y = torch.ones(8, 8, device=device), torch.full((8, 8), 1e-6, device=device)

        def step() -> None:
            z = x
            for _ in range(500):
                z = z + y

        return rate(bench, step, 500, device)

    return bench.figure("small operations", "ops/s", work)


def trained(bench: Bench, name: str, make: Callable[[Any], Callable[[], Any]]) -> str:
    """Measures training steps, and compares the losses of the first ones."""
    steps: dict[Any, Callable[[], Any]] = {}
    losses = {}
    for device in (bench.eager, bench.remote):
        steps[device] = make(device)
        losses[device] = [steps[device]().item() for _ in range(3)]
    worst = max(
        abs(a - b) / max(1e-6, abs(a))
        for a, b in zip(losses[bench.eager], losses[bench.remote], strict=True)
    )
    need(worst < 1e-3, f"the losses differ: {losses}")
    text = bench.figure(name, "steps/s", lambda device: rate(bench, steps[device], 1, device))
    return f"{text}; losses {'equal' if worst == 0 else f'within {worst:.1e}'}"


def mlp(bench: Bench) -> str:
    import torch
    from torch import nn

    def make(device: Any) -> Callable[[], Any]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)).to(device)
        x, y = torch.randn(128, 784).to(device), torch.randint(10, (128,)).to(device)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

        def step() -> Any:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    return trained(bench, "MLP step", make)


def gpt2(bench: Bench) -> str:
    import torch
    from networks import Block
    from torch import nn

    layers, width, words, length, batch = (
        (2, 64, 512, 64, 2) if bench.quick else (12, 768, 50257, 1024, 4)
    )

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
            self.blocks = nn.Sequential(*(Block(width, width // 64 or 1) for _ in range(layers)))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

        def forward(self, ids: Any) -> Any:
            x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
            return self.head(self.norm(self.blocks(x)))

    def make(device: Any) -> Callable[[], Any]:
        torch.manual_seed(0)
        net = Net().to(device)
        ids = torch.randint(words, (batch, length + 1)).to(device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

        def step() -> Any:
            optimizer.zero_grad()
            logits = net(ids[:, :-1])
            loss = nn.functional.cross_entropy(logits.reshape(-1, words), ids[:, 1:].reshape(-1))
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    return trained(bench, f"GPT-2 step ({layers} layers, {width} wide)", make)


def generation(bench: Bench) -> str:
    import torch
    from networks import Language

    tokens: dict[str, list[int]] = {}

    def work(device: Any) -> float:
        torch.manual_seed(0)
        length = 32
        net = Language().to(device).eval()
        seen: list[int] = []
        begin = time.perf_counter()
        with torch.no_grad():
            for _ in range(2 if bench.quick else 10):
                caches: list[list[Any]] = [[] for _ in net.blocks]
                ids = torch.zeros(1, 1, dtype=torch.long).to(device)
                for _ in range(length):
                    ids = net(ids, caches)[:, -1].argmax(-1, keepdim=True)
                    seen.append(int(ids.item()))
        tokens[device.type] = seen
        return (time.perf_counter() - begin) / len(seen) * 1e6

    text = bench.figure("greedy generation", "us/token", work)
    need(len({tuple(each) for each in tokens.values()}) == 1, "other tokens than PyTorch's")
    return text + "; equal tokens"


def transfers(bench: Bench) -> str:
    import torch

    size = (16 if bench.quick else 1024) * MIB
    values = torch.arange(size // 4, dtype=torch.float32)
    if bench.kind == "cuda":
        with contextlib.suppress(RuntimeError, TypeError):  # the process's accelerator is Remora
            values = values.pin_memory("cuda")
    texts = []
    for name, up in (("upload", True), ("download", False)):

        def work(device: Any, name: str = name, up: bool = up) -> float:
            source = values if up else values.to(device)
            target = torch.empty_like(values, device=device if up else "cpu")
            bench.wait(device)
            begin = time.perf_counter()
            target.copy_(source)
            bench.wait(device)
            took = time.perf_counter() - begin
            need(target[-1].item() == values[-1].item(), f"other values after the {name}")
            return size / took / 1e9

        texts.append(f"{name} " + bench.figure(f"{name} of {size // MIB} MiB", "GB/s", work))
    return "; ".join(texts)


def digits(bench: Bench) -> str:
    import torch
    from torch import nn

    if not DIGITS.is_file():
        raise Skip(f"there is no {DIGITS}")
    with gzip.open(DIGITS, "rt") as file:
        table = torch.tensor(
            [[float(cell) for cell in line.split(",")] for line in file if line[0].isdigit()]
        )
    right: dict[str, float] = {}

    def work(device: Any) -> float:
        torch.manual_seed(0)
        rows = table[torch.randperm(len(table))].to(device)
        images, labels = rows[:, :64] / 16, rows[:, 64].long()
        net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        kept = len(rows) * 4 // 5
        begin = time.perf_counter()
        for _ in range(3 if bench.quick else 10):
            for at in range(0, kept, 64):
                part = slice(at, min(at + 64, kept))
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(images[part]), labels[part]).backward()
                optimizer.step()
        with torch.no_grad():
            hits = (net(images[kept:]).argmax(1) == labels[kept:]).float().mean().item()
        right[device.type] = hits
        return time.perf_counter() - begin

    text = bench.figure("digits", "s", work)
    a, b = right.values()
    need(min(a, b) > 0.8 and abs(a - b) < 0.02, f"right: {right}")
    return f"{text}; {b:.1%} right, eager {a:.1%}"


PARTS: dict[str, Callable[[Bench], str]] = {
    "environment": environment,
    "training": training,
    "copies": copies,
    "operators": operators,
    "pauses": pauses,
    "sessions": sessions,
    "memory": memory,
    "functions": functions,
    "settings": settings,
    "late-errors": late_errors,
    "decoders": decoders,
    "walk": walk,
    "collectives": collectives,
    "small-operations": small_operations,
    "mlp": mlp,
    "gpt2": gpt2,
    "generation": generation,
    "transfers": transfers,
    "digits": digits,
}


def results(bench: Bench, parts: list[str]) -> Iterator[Row]:
    for name in parts:
        begin = time.perf_counter()
        try:
            outcome, text = "passed", PARTS[name](bench)
        except Skip as e:
            outcome, text = "skipped", str(e)
        except Exception as e:
            outcome = "FAILED"
            text = str(e) if isinstance(e, Failure) else f"{type(e).__name__}: {e}"
            with contextlib.suppress(Exception):  # what the part has left behind
                bench.machine.synchronize()
        print(f"| {name} | {outcome} | {text} | {time.perf_counter() - begin:.1f} s |", flush=True)
        yield name, outcome, text


def main() -> int:
    options = options_of()
    bench = Bench(options)
    print("| part | | what was seen | |\n|---|---|---|---|", flush=True)
    rows: list[Row] = []
    try:
        try:
            bench.open()
        except Skip as e:
            print(f"| all | skipped | {e} | |")
            rows = [("all", "skipped", str(e))]
        except Exception as e:
            print(f"| all | FAILED | the machine does not open: {type(e).__name__}: {e} | |")
            rows = [("all", "FAILED", str(e))]
        else:
            rows = list(results(bench, options.only))
    finally:
        bench.close()
    left_out = [name for name in PARTS if name not in options.only]
    count = {kind: sum(row[1] == kind for row in rows) for kind in ("passed", "FAILED", "skipped")}
    print(
        f"\n{count['passed']} passed, {count['FAILED']} failed, {count['skipped']} skipped"
        + (f", {len(left_out)} not asked for: {', '.join(left_out)}" if left_out else "")
    )
    if options.json:
        text = json.dumps({"results": rows, "figures": bench.figures}, indent=2)
        options.json.write_text(text + "\n")
    return 1 if count["FAILED"] else 0 if count["passed"] else 2


if __name__ == "__main__":
    sys.exit(main())
