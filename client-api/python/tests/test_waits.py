# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a program waits for: values that it reads, and nothing else in training and generation."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import await_that
from torch import Tensor, nn

import remora

PACKAGE = Path(__file__).resolve().parent.parent
EXAMPLES = PACKAGE / "examples"
sys.path.insert(0, str(PACKAGE / "benchmarks"))
from networks import Language, Residual  # noqa: E402


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=2, padding=3),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        Residual(8, 8),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.GroupNorm(2, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(8, 10),
    )


def train(net: nn.Module, x: Tensor, y: Tensor, how: type[torch.optim.Optimizer]) -> Tensor:
    optimizer = how(net.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        out = net(x)
        loss = F.cross_entropy(out.flatten(0, -2), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return loss.detach()


@pytest.fixture
def waits(machine) -> Iterator[Callable[[], dict[str, float]]]:
    """Returns a function that returns the waits since its last call, by cause and operator."""
    seen: dict[str, float] = {}

    def since() -> dict[str, float]:
        now = {n: v for n, v in machine.stats().items() if n.endswith("_waits")}
        now |= machine.metadata_waits()
        changed = {n: v - seen.get(n, 0) for n, v in now.items() if v != seen.get(n, 0)}
        seen.update(now)
        changed.pop("room_waits", None)
        return changed

    machine.synchronize()
    since()
    yield since


@pytest.mark.parametrize("how", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_waits_for_nothing(device, waits, how):
    ids = torch.randint(0, 65, (3, 18)).to(device)
    language = Language().to(device)
    loss = train(language, ids[:, :-1], ids[:, 1:], how)
    pictures, labels = torch.randn(4, 3, 32, 32).to(device), torch.randint(0, 10, (4,)).to(device)
    also = train(images().to(device), pictures, labels, how)
    assert waits() == {}
    assert loss.isfinite().item() and also.isfinite().item()
    assert waits() == {"value_waits": 2}


def test_channels_last_waits_for_nothing(device, waits):
    net = images().to(device, memory_format=torch.channels_last)
    pictures = torch.randn(4, 3, 32, 32).to(device, memory_format=torch.channels_last)
    train(net, pictures, torch.randint(0, 10, (4,)).to(device), torch.optim.SGD)
    assert waits() == {}


def test_each_token_of_a_new_length_waits_for_its_value(device, waits):
    net, ids = Language().to(device).eval(), torch.zeros(1, 1, dtype=torch.long).to(device)
    with torch.no_grad():
        for _ in range(5):
            token = net(ids)[:, -1].argmax(-1, keepdim=True)
            token.item()
            ids = torch.cat([ids, token], 1)
    assert waits() == {"value_waits": 5}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_generate_waits_for_no_metadata(device, waits, kind):
    pytest.importorskip("transformers")
    sys.path.insert(0, str(EXAMPLES))
    import generate_text

    generate_text.generate(generate_text.make_model(kind).to(device), device, 6, True)
    found = waits()
    assert {name for name in found if name.startswith("aten::")} == set(), found


def transposed(*sizes: int, dtype: torch.dtype = torch.float32) -> Iterator[Tensor]:
    """Yields a tensor in each order of its dimensions in memory."""
    x = torch.randn(*sizes, dtype=dtype)
    for order in permutations(range(len(sizes))):
        back = [order.index(i) for i in range(len(sizes))]
        yield x.permute(order).contiguous().permute(back)


def positive(x: Tensor) -> Tensor:
    return x @ x.mT + 9 * torch.eye(x.shape[-1], device=x.device)


def at(x: Tensor, *places: int) -> Tensor:
    return torch.tensor(places).to(x.device)


def bags(weights: Tensor, **how: Any) -> Any:
    places, starts = at(weights, 1, 2, 4, 4, 0, 1), at(weights, 0, 2, 6)
    return torch.embedding_bag(weights, places, starts, **how)


def solved(x: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(x, x[..., 1:], upper=True)


def padded(mode: str) -> Callable[[Tensor], Tensor]:
    return lambda x: F.pad(x, (1, 1, 2, 1, 1, 0), mode)


TABLES = [*transposed(5, 3)]
BLOCKS = [*transposed(3, 4, 5)]
COMPLEX = [*transposed(2, 3, 4, dtype=torch.complex64)]
MATRICES = [x for sizes in ((4, 4), (2, 3, 3)) for x in transposed(*sizes)]
IMAGES = [*transposed(2, 4, 3, 4)]
COMPLEX_MATRICES = [*transposed(3, 3, dtype=torch.complex64)]
VOLUMES = [*transposed(2, 2, 3, 4, 3), *IMAGES]
# Operators whose results have strides of their own, or more results than one.
LAYOUTS: dict[str, tuple[Callable[[Tensor], Any], list[Tensor]]] = {
    "fftn": (lambda x: torch.fft.fftn(x, dim=(0, 2)), COMPLEX),
    "fft": (lambda x: torch.fft.fft(x, dim=1), BLOCKS),
    "rfftn": (lambda x: torch.fft.rfftn(x, dim=(2, 0)), BLOCKS),
    "irfftn": (lambda x: torch.fft.irfftn(x, dim=(1, 2, 0)), COMPLEX),
    "cholesky": (lambda x: torch.cholesky(positive(x)), MATRICES),
    "cholesky_inverse": (torch.cholesky_inverse, MATRICES),
    "eig": (torch.linalg.eig, MATRICES),
    "eigvals": (torch.linalg.eigvals, MATRICES),
    "geqrf": (torch.geqrf, MATRICES),
    "householder_product": (
        lambda x: torch.linalg.householder_product(*torch.geqrf(x)),
        MATRICES,
    ),
    "ormqr": (lambda x: torch.ormqr(*torch.geqrf(x), x), MATRICES),
    "matrix_exp": (torch.linalg.matrix_exp, MATRICES),
    "solve_triangular": (solved, MATRICES),
    "solve_triangular of a conjugate": (lambda x: solved(x.conj()), COMPLEX_MATRICES),
    "pdist": (F.pdist, TABLES),
    "bags, sum": (lambda x: bags(x, mode=0), TABLES),
    "bags, mean": (lambda x: bags(x, mode=1, include_last_offset=True), TABLES),
    "bags, max": (lambda x: bags(x, mode=2), TABLES),
    "ctc_loss": (
        lambda x: torch._ctc_loss(x.abs(), at(x, 1, 2, 3, 1, 2), (3, 2, 3, 3), (2, 0, 1, 2)),
        BLOCKS,
    ),
    "multi_margin_loss": (lambda x: F.multi_margin_loss(x, at(x, 0, 1, 2, 1, 0)), TABLES),
    "index_add": (lambda x: x.index_add(0, at(x, 1, 2), x[:2]), BLOCKS),
    "index_reduce": (lambda x: x.index_reduce(0, at(x, 1, 2), x[:2], "amax"), BLOCKS),
    "isin": (lambda x: torch.isin(x, x[0]), BLOCKS),
    "index_put of a mask": (lambda x: x.index_put((x[:, 0] > 0,), x[0]), TABLES),
    "reflection_pad": (padded("reflect"), VOLUMES),
    "replication_pad": (padded("replicate"), VOLUMES),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, 2), VOLUMES),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), IMAGES),
    "angle": (torch.angle, COMPLEX),
    "arange": (
        lambda x: torch.arange(0.7, 2.9, dtype=torch.int64, device=x.device),
        MATRICES[:1],
    ),
}


NO_GRADIENT = {"geqrf", "householder_product", "ormqr", "isin", "arange", "index_reduce"}
NO_GRADIENT |= {"eig", "eigvals", "index_put of a mask"}  # these read values


def results(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("name", LAYOUTS)
def test_rules_give_the_layout_of_the_cpu(device, waits, name):
    call, inputs = LAYOUTS[name]
    for given in inputs:
        there = torch.empty_strided(
            given.shape, given.stride(), dtype=given.dtype, device=device
        ).copy_(given)
        for a, b in zip(results(call(given)), results(call(there)), strict=True):
            assert (b.shape, b.stride(), b.dtype) == (a.shape, a.stride(), a.dtype)
    assert waits() == {}


@pytest.mark.parametrize("name", [n for n in LAYOUTS if n not in NO_GRADIENT])
def test_gradients_have_the_layout_of_the_cpu(device, waits, name):
    call, inputs = LAYOUTS[name]
    for given in inputs:
        gradients = []
        for where in ("cpu", device):
            x = torch.empty_strided(given.shape, given.stride(), dtype=given.dtype, device=where)
            x = x.copy_(given).requires_grad_()
            first = next(r for r in results(call(x)) if r.requires_grad)
            gradients += torch.autograd.grad(first, x, torch.ones_like(first))
        assert gradients[1].stride() == gradients[0].stride()
    assert waits() == {}


def test_waits_are_counted_by_cause(machine, device, waits):
    x = torch.eye(4, device=device)
    x.nonzero()
    assert waits() == {"shape_waits": 1}
    for _ in range(3):
        torch.ops.aten._stack([x, x])  # has no rule for its result's shape
    assert waits() == {"metadata_waits": 1, "aten::_stack": 1}
    x.sum().item()
    assert waits() == {"value_waits": 1}
    assert machine.stats()["blocking_reads"] >= 3


def test_later_gives_the_value_of_its_moment(device, waits):
    x = torch.arange(6.0, device=device).view(2, 3)
    taken = remora.later(x.t())
    x.zero_()
    again = remora.later(x)
    assert waits() == {}
    assert taken.result().tolist() == [[0, 3], [1, 4], [2, 5]]
    assert taken.result() is taken.result()
    assert again.result().count_nonzero() == 0
    assert remora.later(x.sum()).item() == 0
    assert waits() == {"value_waits": 3}


def test_later_of_any_tensor(device):
    kinds = [
        torch.ones((), dtype=torch.bfloat16),
        torch.ones(0, 3),
        torch.tensor([1 + 2j]).conj(),
        torch.ones(2, requires_grad=True),
    ]
    for kind in kinds:
        for where in (kind, kind.to(device)):
            found = remora.later(where).result()
            assert found.device.type == "cpu" and not found.requires_grad
            assert torch.equal(found, kind.detach())


def test_later_raises_the_operations_error_each_time(device):
    failed = remora.later(torch.ones(3, device=device)[torch.tensor([7], device=device)])
    for _ in range(2):
        with pytest.raises(remora.RemoteIndexError):
            failed.result()


def test_later_is_awaited(device):
    async def read() -> list[float]:
        parts = [remora.later(torch.full((2,), float(i), device=device)) for i in range(20)]
        values = [await part for part in parts]
        return [value[1].item() for value in values]

    assert asyncio.run(read()) == list(range(20))


def test_a_value_that_nobody_takes_is_dropped(device, machine):
    for _ in range(50):
        remora.later(torch.ones(1000, device=device))
    machine.synchronize()
    assert remora.later(torch.ones((), device=device)).item() == 1


def test_later_in_pieces(device, request):
    from remora._native import core

    set_piece = core.library.remora_set_read_piece
    assert set_piece(ctypes.c_int64(1 << 12)) == 0
    request.addfinalizer(lambda: set_piece(ctypes.c_int64(64 << 20)))
    x = torch.arange(10_000, device=device)
    first, second = remora.later(x), remora.later(-x)
    assert torch.equal(second.result(), -torch.arange(10_000))
    assert torch.equal(first.result(), torch.arange(10_000))


def test_later_of_a_stopped_machine(device):
    other = remora.RemoteMachine("mock").start()
    x = torch.ones(2, device=other.device())
    pending = remora.later(x)
    other.stop()  # waits for what was recorded
    assert pending.result().tolist() == [1, 1]
    with pytest.raises(remora.MachineStateException, match="no machine is open"):
        remora.later(x)


def test_what_is_recorded_after_many_reads_is_sent_without_a_read(machine, device):
    """The thread that sends unread work rests while the program's own reads send everything."""
    x = torch.ones(4, device=device)
    for _ in range(200):
        x.sum().item()
    for _ in range(3):  # the thread rests, has work to send, then waits for more
        sent = machine._session.statistics()["batches"]
        x.add_(1)
        await_that(lambda sent=sent: machine._session.statistics()["batches"] > sent)
    assert x.tolist() == [4.0] * 4


def test_waits_are_counted_at_the_lines_of_the_program(device, machine):
    before = {(w.cause, w.line): w for w in machine.waits()}
    x = torch.ones(3).to(device).sum()
    for _ in range(500):
        x.item()
        x.item(), x.item()
    x.nonzero()
    line = sys._getframe().f_lineno - 2
    lines = {}
    for wait in machine.waits():
        count = wait.count - (
            before[key].count if (key := (wait.cause, wait.line)) in before else 0
        )
        here = f" in {sys._getframe().f_code.co_name}"
        if wait.line.startswith(f"{__file__}:") and wait.line.endswith(here) and count > 0:
            lines[wait.cause, wait.subject, int(wait.line[len(__file__) + 1 :].split()[0])] = count
    assert set(lines) == {
        ("value", "item()", line - 1),
        ("value", "item()", line),
        ("shape", "aten::nonzero", line + 1),
    }
    # The first of them may still count for the line of the test before.
    assert 1400 < lines["value", "item()", line - 1] + lines["value", "item()", line] <= 1500
    assert 200 < lines["value", "item()", line - 1] < 900
    assert lines["shape", "aten::nonzero", line + 1] == 1


def test_waits_of_functions_and_threads_are_counted(device, machine):
    def count(cause: str) -> tuple[int, float]:
        waits = [wait for wait in machine.waits() if wait.cause == cause]
        return sum(wait.count for wait in waits), sum(wait.seconds for wait in waits)

    before, x = count("value"), torch.ones(3).to(device)
    threads = [
        threading.Thread(target=lambda: [x.sum().item() for _ in range(50)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = count("value")
    assert after[0] - before[0] == 200
    assert after[1] == pytest.approx(machine.stats()["value_wait_seconds"])
    asked = count("question")[0]
    machine.synchronize()
    assert count("question")[0] > asked
    assert machine.waits()[0].seconds >= machine.waits()[-1].seconds


def test_the_log_has_the_longest_waits_at_the_end(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "remora")
    monkeypatch.setattr("remora.machine._NOTABLE_WAITS", 0.0)
    with remora.RemoteMachine("mock") as machine:
        torch.ones(3).to(machine.device()).sum().item()
    (line,) = [r.getMessage() for r in caplog.records if "has waited" in r.getMessage()]
    assert f"{__file__}:" in line and "item() " in line
    waits = machine.waits()
    assert "item()" in {wait.subject for wait in waits}
    assert waits == sorted(waits, key=lambda wait: -wait.seconds)
