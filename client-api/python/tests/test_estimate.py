# SPDX-License-Identifier: AGPL-3.0-or-later
"""Dry runs: what a machine of provider "estimate" counts, and what it answers."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import remora

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from networks import Language, Residual

pytestmark = [pytest.mark.gateway, pytest.mark.filterwarnings("ignore:.*this is a dry run")]

STEPS = 3


def train(device: torch.device) -> list[float]:
    torch.manual_seed(5)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(8 * 8 * 8, 32),
        nn.GELU(),
        nn.Linear(32, 10),
    ).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    images = torch.randn(16, 3, 16, 16).to(device)
    labels = (torch.arange(16) % 10).to(device)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def estimated(
    provider: str,
    program: Callable[[torch.device], list[float]] = train,
) -> tuple[list[float], remora.Estimate]:
    with remora.RemoteMachine(provider) as machine:
        losses = program(machine.device())
        machine.synchronize()
        return losses, machine.estimate()


def language(device: torch.device) -> list[float]:
    net = Language().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    ids = torch.arange(64).view(2, 32).to(device)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    caches: list[list[torch.Tensor]] = [[] for _ in net.blocks]
    with torch.no_grad():
        for _ in range(8):
            net(ids[:, :1], caches)
    return losses


def odds_and_ends(device: torch.device) -> list[float]:
    x = torch.arange(4096.0).view(4, 4, 16, 16).to(device)
    out = torch.empty(0, device=device)
    for n in (10, 1000, 100):
        torch.add(x.flatten()[:n], 1, out=out)
        out = out.new_empty(0)
    images = nn.Sequential(Residual(4, 4), nn.Hardswish(), nn.GroupNorm(2, 4)).to(device)
    images(x.to(memory_format=torch.channels_last)).sum().backward()
    hidden = nn.LSTM(16, 8, num_layers=2, bidirectional=True).to(device)
    hidden(x[0])[0].sum().backward()
    spectrum = torch.fft.rfft2(x)
    x[:, 1] += spectrum.abs()[:, 1, :, :1]
    x.index_put_((torch.tensor([0, 2], device=device),), x[1].clone())
    values, places = x.flatten(1).topk(5)
    parts = torch.split(values.double(), [2, 3], 1)
    pairs = [p.conj() for p in torch.complex(parts[0], parts[0]).unbind()]
    return [float((places.sum() + parts[1].sum()).item()), pairs[0].real.sum().item()]


@pytest.mark.full
@pytest.mark.parametrize("program", [language, odds_and_ends])
def test_other_programs_count_alike(program: Callable[[torch.device], list[float]]) -> None:
    _, real = estimated("mock", program)
    zeros, dry = estimated("estimate", program)

    assert set(zeros) == {0}
    # A mock machine counts a tensor that an operator resizes, such as that of arange, only later.
    (counted,), (peak,) = dry.peak_bytes, real.peak_bytes
    assert peak <= counted <= 1.01 * peak
    assert_alike(dataclasses.replace(dry, peak_bytes=real.peak_bytes, fits=real.fits), real)


def assert_alike(dry: remora.Estimate, real: remora.Estimate) -> None:
    depends_on_timing = {"batches", "sent_bytes", "room_waits"}
    for field in dataclasses.fields(remora.Estimate):
        if field.name not in depends_on_timing:
            assert getattr(dry, field.name) == getattr(real, field.name), field.name


def test_a_dry_run_of_a_training_counts_what_a_real_run_does() -> None:
    losses, real = estimated("mock")
    zeros, dry = estimated("estimate")

    assert 0 not in losses and zeros == [0] * STEPS
    assert_alike(dry, real)
    assert dry.value_waits == STEPS and dry.operations > 100 and dry.peak_bytes[0] > 1e5
    records = real.sent_bytes - real.uploaded_bytes
    assert 0.8 * records < dry.sent_bytes - dry.uploaded_bytes < 1.2 * records


def test_a_model_larger_than_this_computer_runs_in_no_memory(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with remora.RemoteMachine("estimate", name="large") as machine, torch.device(machine.device()):
        layers = [nn.Linear(32768, 32768, bias=False) for _ in range(12)]  # 4 GiB each
        with torch.no_grad():
            x = torch.zeros(1, 32768)
            for layer in layers:
                x = layer(x)
        parameters = sum(p.numel() for layer in layers for p in layer.parameters())
        assert parameters == 12 << 30
        assert torch.remora.memory_allocated() - 4 * parameters < 1e6
    estimate = machine.estimate()
    assert 4 * parameters <= estimate.peak_bytes[0] < 4 * parameters + 1e9
    fits = {fit.gpu: fit.fits for fit in estimate.fits}
    assert fits["T4"] == fits["A100-40GB"] == "no"
    assert fits["A100-80GB"] == fits["H200"] == "yes"
    shown = capfd.readouterr().err
    assert "Dry run of machine large" in shown and str(estimate) in shown
    assert "A100-80GB     80 GB     2.50   yes" in shown and "2026-" in shown


def test_reads_are_zero_with_one_warning_and_shapes_have_an_upper_bound() -> None:
    with remora.RemoteMachine("estimate") as machine:
        ones = torch.ones(40, 50).to(machine.device())
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            assert ones.sum().item() == 0
            assert ones.cpu().abs().sum() == 0
            assert ones.nonzero().shape == (2000, 2)
            assert ones[ones > 5].shape == (2000,)
            assert ones[ones[:, 0] > 5].shape == (40, 50)
            assert ones.flatten().unique().shape == (2000,)
            machine.synchronize()
        texts = [str(each.message) for each in seen]
        assert sum("every value that is read is zero" in text for text in texts) == 1, texts
        assert any("aten::nonzero" in text and "largest possible" in text for text in texts), texts
        assert torch.fft.rfft(ones).shape == (40, 26)

        repeats = torch.ones(4, dtype=torch.long, device=machine.device())
        with pytest.raises(remora.RemoteOperationException, match="pass output_size"):
            torch.repeat_interleave(repeats)
        large = torch.empty(1 << 29, device=machine.device())
        with pytest.raises(remora.RemoteOperationException, match="its limit is") as refused:
            large.nonzero()
        assert "aten::nonzero" in str(refused.value)


def test_random_states_and_functions() -> None:
    with remora.RemoteMachine("estimate", packages=None) as machine:
        machine.device()
        torch.remora.manual_seed(4)
        state = torch.remora.get_rng_state()
        assert state.numel() > 1000
        torch.remora.set_rng_state(state)
        torch.remora.manual_seed(5)
        assert not torch.equal(torch.remora.get_rng_state(), state)

        @remora.remote
        def double(x: torch.Tensor) -> torch.Tensor:
            return 2 * x

        with pytest.raises(remora.RemoraException, match="does not run Python functions"):
            double(torch.ones(3, device=machine.device()))
