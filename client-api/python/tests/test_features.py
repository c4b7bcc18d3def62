# SPDX-License-Identifier: AGPL-3.0-or-later
"""Autocast, compile, function transforms, layers, streams, memory: the rest of PyTorch's device interface."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from databases import TORCH
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

import remora

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")


def close(remote: torch.Tensor, local: torch.Tensor) -> None:
    torch.testing.assert_close(remote.detach().cpu(), local.detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(device, dtype):
    def run(where: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        x, weight = torch.randn(8, 8).to(where), torch.randn(8, 8).to(where).requires_grad_()
        with torch.autocast(where.type, dtype=dtype):
            y = x @ weight
            assert y.dtype == dtype
            assert torch.is_autocast_enabled(where.type)
            with torch.autocast(where.type, enabled=False):
                assert (x @ weight).dtype == torch.float32
            loss = nn.functional.mse_loss(y, x)
        loss.backward()
        assert weight.grad is not None
        return loss, weight.grad

    for remote, local in zip(run(device), run(CPU), strict=True):
        torch.testing.assert_close(remote.detach().cpu(), local.detach(), rtol=2e-2, atol=2e-2)


def test_grad_scaler(device):
    model = nn.Linear(4, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("remora", init_scale=1024.0)
    assert scaler.is_enabled()
    before = model.weight.detach().cpu()
    with torch.autocast("remora", dtype=torch.bfloat16):
        loss = model(torch.ones(2, 4, device=device)).sum()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(model.weight.cpu(), before)
    optimizer.zero_grad()
    scaler.scale(model(torch.full((1, 4), torch.inf, device=device)).sum()).backward()
    at = model.weight.detach().cpu()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.weight.cpu(), at)
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(device, backend):
    torch._dynamo.reset()

    @torch.compile(backend=backend)
    def run(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (x @ weight).relu().sum()

    x, weight = torch.randn(4, 4), torch.randn(4, 4)
    remote = weight.to(device).requires_grad_()
    y = run(x.to(device), remote)
    y.backward()
    local = weight.clone().requires_grad_()
    (x @ local).relu().sum().backward()
    assert remote.grad is not None
    assert local.grad is not None
    close(remote.grad, local.grad)


class Recurrent(nn.Module):
    """A cell's or a layer's output alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.inner(x)
        return result if isinstance(result, torch.Tensor) else result[0]


DYNAMIC = {
    "dropout": lambda: nn.Dropout(0.5),
    "lstm": lambda: Recurrent(nn.LSTM(4, 3)),
    "gru": lambda: Recurrent(nn.GRU(4, 3)),
    "lstm_cell": lambda: Recurrent(nn.LSTMCell(4, 3)),
    "gru_cell": lambda: Recurrent(nn.GRUCell(4, 3)),
    "max_pool1d": lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.MaxPool1d(2)),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True),
}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", DYNAMIC)
def test_compile_with_changing_shapes(device, backend, name):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = DYNAMIC[name]().to(device)
    compiled = torch.compile(model, backend=backend, dynamic=True)
    for rows in (4, 6, 7):
        x = torch.randn(rows, 4).to(device).requires_grad_()
        if name == "attention":
            x = x.unsqueeze(0)
        torch.manual_seed(1)
        expected = model(x)
        torch.manual_seed(1)
        got = compiled(x)
        assert torch.equal(got.cpu(), expected.cpu())
        got.sum().backward()


@pytest.mark.skipif(TORCH < (2, 9), reason="torch.accelerator has no memory figures yet")
def test_the_accelerator_tells_of_memory(device):
    gc.collect()  # nothing of earlier tests is freed from now on
    before = torch.accelerator.memory_allocated(device)
    kept = torch.ones(1024, device=device)
    kept.sum().item()
    assert torch.accelerator.memory_allocated(device) >= before + 4096
    assert torch.accelerator.memory_stats(device)["allocated_bytes.all.current"] >= 4096
    assert torch.accelerator.max_memory_allocated(device) >= 4096
    torch.accelerator.reset_peak_memory_stats(device)
    torch.accelerator.reset_accumulated_memory_stats(device)
    torch.accelerator.empty_cache()
    if hasattr(torch.accelerator, "get_memory_info"):
        assert torch.accelerator.get_memory_info(device) == torch.remora.mem_get_info(device)


@pytest.mark.skipif(TORCH < (2, 10), reason="torch.accelerator has no capabilities yet")
def test_the_accelerator_tells_which_types_it_has(device):
    types = torch.accelerator.get_device_capability(device)["supported_dtypes"]
    assert {torch.float32, torch.bfloat16, torch.complex64, torch.bool} <= types
    assert torch.qint8 not in types


def test_compile_with_inductor_says_what_to_use(device):
    torch._dynamo.reset()
    with pytest.raises(RuntimeError, match="backend='aot_eager'"):
        torch.compile(lambda x: x + 1)(torch.ones(3, device=device))
    torch._dynamo.reset()


def test_function_transforms(device):
    x = torch.randn(5, 3)
    remote = x.to(device)

    def function(v: torch.Tensor) -> torch.Tensor:
        return (v.sin() * v).sum()

    close(vmap(function)(remote), vmap(function)(x))
    close(vmap(grad(function))(remote), vmap(grad(function))(x))
    close(jacrev(torch.tanh)(remote[0]), jacrev(torch.tanh)(x[0]))
    close(hessian(function)(remote[0]), hessian(function)(x[0]))
    close(jvp(function, (remote[0],), (remote[1],))[1], jvp(function, (x[0],), (x[1],))[1])


def test_ensembles(device):
    models = [nn.Linear(3, 2) for _ in range(4)]
    parameters = {
        name: torch.stack([dict(m.named_parameters())[name].detach() for m in models])
        for name in ("weight", "bias")
    }
    x = torch.randn(6, 3)

    def call(where: torch.device) -> torch.Tensor:
        model = nn.Linear(3, 2).to(where)
        moved = {name: each.to(where) for name, each in parameters.items()}
        return vmap(lambda p: functional_call(model, p, (x.to(where),)))(moved)

    close(call(device), call(CPU))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(4, 6, num_layers=2, batch_first=True, bidirectional=True),
        lambda: nn.GRU(4, 6, num_layers=2, batch_first=True),
        lambda: nn.RNN(4, 6, batch_first=True),
        lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU(), nn.Softmax(-1)),
    ],
    ids=["lstm", "gru", "rnn", "transformer", "norm"],
)
def test_layers_forward_and_backward(device, make):
    torch.manual_seed(0)
    model = make()
    x = torch.randn(3, 5, 4)

    def run(where: torch.device) -> list[torch.Tensor]:
        moved = make().to(where)
        moved.load_state_dict(model.state_dict())
        y = moved(x.to(where))
        y = y[0] if isinstance(y, tuple) else y
        y.square().sum().backward()
        return [y, *(each.grad for each in moved.parameters())]

    for remote, local in zip(run(device), run(CPU), strict=True):
        torch.testing.assert_close(remote.detach().cpu(), local.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask", [False, True])
def test_attention(device, mask):
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8)
    blocked = torch.ones(5, 5, dtype=torch.bool).triu(1) if mask else None
    local, weights = model(x, x, x, attn_mask=blocked)
    model.to(device)
    there = x.to(device)
    remote, remote_weights = model(
        there, there, there, attn_mask=None if blocked is None else blocked.to(device)
    )
    close(remote, local)
    close(remote_weights, weights)


def test_lstm_with_packed_sequences(device):
    model = nn.LSTM(3, 4)
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    local = model(packed)[0]
    remote = model.to(device)(packed.to(device))[0]
    close(remote.data, local.data)
    unpacked, lengths = nn.utils.rnn.pad_packed_sequence(remote)
    assert lengths.tolist() == [4, 2]
    assert unpacked.device == device


def test_streams_and_events(machine, device):
    stream = torch.remora.Stream(device)
    with torch.remora.stream(stream):
        x = torch.ones(3, device=device)
    assert x.sum().item() == 3
    stream.synchronize()
    assert stream.query()
    first, second = (torch.remora.Event(enable_timing=True) for _ in range(2))
    first.record()
    torch.randn(200, 200, device=device) @ torch.randn(200, 200, device=device)
    second.record()
    second.synchronize()
    assert first.query()
    assert second.query()
    assert first.elapsed_time(second) >= 0
    assert isinstance(first, torch.remora.Event)
    assert not isinstance(x, torch.remora.Event)
    stream.record_event(second)
    torch.remora.current_stream().wait_event(second)
    assert torch.remora.default_stream(device).device == device
    x.record_stream(stream)


def test_accelerator(machine, device):
    assert torch.accelerator.is_available()
    assert torch.accelerator.current_accelerator() == torch.device("remora")
    assert torch.accelerator.device_count() == torch.remora.device_count() >= 2
    torch.accelerator.set_device_index(device.index + 1)
    try:
        assert torch.accelerator.current_device_index() == device.index + 1
        assert torch.ones(1, device="remora").device.index == device.index + 1
    finally:
        torch.accelerator.set_device_index(device.index)
    torch.accelerator.synchronize()
    assert torch.accelerator.current_stream().device == device


def test_current_device(machine, device):
    second = machine.device("cuda:1")
    with torch.remora.device(second):
        assert torch.remora.current_device() == second.index
        assert torch.zeros(1, device="remora").device == second
    assert torch.remora.current_device() == device.index
    with torch.remora.device_of(torch.ones(1, device=second)):
        assert torch.remora.current_device() == second.index
    with pytest.raises(remora.MachineStateException, match="no machine is open"):
        torch.remora.set_device(14)


def test_memory_figures(device):
    gc.collect()  # nothing of earlier tests is freed from now on
    torch.remora.synchronize(device)
    torch.remora.reset_peak_memory_stats(device)
    before = torch.remora.memory_allocated(device)
    x = torch.ones(1_000_000, device=device)
    assert torch.remora.memory_allocated(device) - before == 4_000_000
    del x
    torch.remora.synchronize(device)
    assert torch.remora.memory_allocated(device) == before
    assert torch.remora.max_memory_allocated(device) >= before + 4_000_000
    assert torch.remora.memory_stats(device)["allocated_bytes.all.current"] == before
    torch.remora.empty_cache()
    free, total = torch.remora.mem_get_info(device)
    assert 0 <= free <= total
    assert "machine" in torch.remora.get_device_name(device)


def test_many_threads_record_and_read(device):
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(20, 20, generator=generator)
            y = x.to(device)
            for _ in range(30):
                y = (y @ x.to(device)).tanh()
                x2 = y.sum().item()
            z = x
            for _ in range(30):
                z = (z @ x).tanh()
            torch.testing.assert_close(y.cpu(), z, rtol=1e-3, atol=1e-3)
            assert abs(x2 - z.sum().item()) < 0.1
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures, failures[0]
    assert not any(thread.is_alive() for thread in threads)


def test_backward_in_several_threads(device):
    def work(results: list[torch.Tensor]) -> None:
        x = torch.ones(10, device=device, requires_grad=True)
        (x * 3).sum().backward()
        assert x.grad is not None
        results.append(x.grad.cpu())

    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=work, args=(results,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 4
    assert all(torch.equal(each, torch.full((10,), 3.0)) for each in results)


def test_hooks_and_custom_functions_run(device):
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient * 2 + x * 0

    x = torch.ones(3, device=device, requires_grad=True)
    seen = []
    x.register_hook(lambda g: seen.append(g.sum().item()))
    Twice.apply(x).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
    assert seen == [6.0]
    with torch.autograd.set_detect_anomaly(True):
        y = torch.ones(2, device=device, requires_grad=True)
        y.exp().sum().backward()
    assert torch.autograd.gradcheck(
        torch.sin, torch.randn(3, dtype=torch.float64, device=device, requires_grad=True)
    )
