# SPDX-License-Identifier: AGPL-3.0-or-later
"""Random numbers equal the local CPU's for the same seed, independent of when batches are sent."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.fast


@pytest.mark.critical
def test_the_same_seed_gives_the_cpus_numbers(device):
    def draw(where: torch.device) -> list[torch.Tensor]:
        torch.manual_seed(7)
        a = torch.randn(5, 5, device=where)
        b = torch.nn.functional.dropout(torch.ones(50, device=where))
        c = torch.randint(0, 100, (10,), device=where)
        d = torch.empty(4, device=where).uniform_()
        return [each.cpu() for each in (a, b, c, d, torch.randperm(20, device=where))]

    for remote, local in zip(draw(device), draw(torch.device("cpu")), strict=True):
        assert torch.equal(remote, local)


def test_generators_of_a_device(device):
    generator = torch.Generator(device=device).manual_seed(3)
    local = torch.Generator().manual_seed(3)
    assert generator.device == device
    first = torch.randn(4, generator=generator, device=device)
    assert torch.equal(first.cpu(), torch.randn(4, generator=local))
    state = generator.get_state()
    second = torch.randn(4, generator=generator, device=device)
    generator.set_state(state)
    assert torch.equal(torch.randn(4, generator=generator, device=device), second)
    assert generator.initial_seed() == 3
    clone = generator.clone_state()
    assert torch.equal(
        torch.randn(3, generator=clone, device=device),
        torch.randn(3, generator=generator, device=device),
    )


def test_a_generator_is_independent_of_the_default_one(device):
    torch.manual_seed(1)
    expected = torch.randn(3, device=device)
    torch.manual_seed(1)
    torch.randn(5, generator=torch.Generator(device=device).manual_seed(9), device=device)
    assert torch.equal(torch.randn(3, device=device), expected)


def test_states_are_saved_and_restored(device):
    torch.manual_seed(11)
    state = torch.remora.get_rng_state(device)
    assert state.dtype == torch.uint8
    assert state.device.type == "cpu"
    drawn = torch.rand(3, device=device)
    torch.remora.set_rng_state(state, device)
    assert torch.equal(torch.rand(3, device=device), drawn)
    states = torch.remora.get_rng_state_all()
    assert len(states) == torch.remora.device_count()
    torch.remora.set_rng_state_all(states)
    default = torch.remora.default_generators[device.index]
    assert default.device == device
    assert torch.rand(2, generator=default, device=device).device == device
    torch.remora.manual_seed(5)
    assert torch.remora.initial_seed() == 5
    torch.remora.manual_seed_all(-1)
    assert torch.remora.initial_seed() == 2**64 - 1


def test_fork_rng_leaves_the_devices_numbers_alone(device):
    torch.manual_seed(2)
    expected = torch.rand(2, device=device)
    torch.manual_seed(2)
    with torch.random.fork_rng(devices=[device.index], device_type="remora"):
        torch.rand(100, device=device)
    assert torch.equal(torch.rand(2, device=device), expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_repeats_dropout(device, reentrant):
    def run(where: torch.device) -> torch.Tensor:
        torch.manual_seed(4)
        x = torch.ones(100, device=where, requires_grad=True)

        def block(z: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(z.sin())

        checkpoint(block, x, use_reentrant=reentrant).sum().backward()
        assert x.grad is not None
        return x.grad.cpu()

    assert torch.equal(run(device), run(torch.device("cpu")))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_a_generator_is_copied_with_its_state(device, copied):
    generator = torch.Generator(device).manual_seed(7)
    torch.rand(3, device=device, generator=generator)
    twin = copied(generator)
    assert twin.device == generator.device
    assert twin.initial_seed() == 7
    expected = torch.rand(3, device=device, generator=generator)
    assert torch.equal(torch.rand(3, device=device, generator=twin), expected)
