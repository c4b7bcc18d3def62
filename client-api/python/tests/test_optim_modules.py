# SPDX-License-Identifier: AGPL-3.0-or-later
"""PyTorch's databases of optimizers and modules on a remote device, compared with the CPU."""

from __future__ import annotations

import copy
import warnings

import databases
import pytest
import torch

warnings.filterwarnings("ignore")
pytest.importorskip("expecttest")
from torch.testing._internal.common_modules import module_db  # noqa: E402
from torch.testing._internal.common_optimizers import optim_db  # noqa: E402

CPU = torch.device("cpu")
STEPS = 4
FAST_MODULES = 6
# Only for sparse gradients.
NOT_STRIDED = {"SparseAdam"}


def name_of(info) -> str:
    return info.name


def train(where: torch.device, info, kwargs: dict) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    x, y = torch.randn(6, 4), torch.randn(6, 2)
    model, x, y = model.to(where), x.to(where), y.to(where)
    parameters = [
        each for each in model.parameters() if each.dim() == 2 or info.optim_cls.__name__ != "Muon"
    ]
    optimizer = info.optim_cls(parameters, **databases.on(where, kwargs))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    losses = []
    for _ in range(STEPS):
        if info.step_requires_closure:
            losses.append(optimizer.step(closure).detach())
        else:
            losses.append(closure().detach())
            optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(state)
    return [*losses, *(each.detach() for each in model.parameters())]


@pytest.mark.fast
@pytest.mark.parametrize("info", optim_db, ids=lambda i: i.optim_cls.__name__)
def test_every_optimizer(device, info):
    name = info.optim_cls.__name__
    if name in NOT_STRIDED:
        pytest.skip("for sparse gradients only")

    def run() -> int:
        inputs = info.optim_inputs_func(device="cpu")
        for entry in inputs:
            databases.compare(train(CPU, info, entry.kwargs), train(device, info, entry.kwargs))
        return len(inputs)

    databases.note("optimizers", name, run)


def run_module(info, device: torch.device, most: int) -> int:
    count = 0
    for training in (True, False):
        try:
            inputs = info.module_inputs_func(
                info, device="cpu", dtype=torch.float32, requires_grad=True, training=training
            )
        except Exception as e:
            raise databases.Skipped(f"no inputs: {e}") from None
        for entry in list(inputs)[:most]:
            built = entry.constructor_input
            torch.manual_seed(0)
            local = info.module_cls(*built.args, **built.kwargs).train(training)
            remote = copy.deepcopy(local).to(device)
            arguments = (entry.forward_input.args, entry.forward_input.kwargs)
            here, there = databases.on(CPU, arguments), databases.on(device, arguments)
            torch.manual_seed(1)
            try:
                expected = local(*here[0], **here[1])
            except Exception:  # inputs for an error, or for another dtype
                continue
            torch.manual_seed(1)
            got = remote(*there[0], **there[1])
            databases.compare(expected, got)
            databases.compare(databases.gradients(expected, here), databases.gradients(got, there))
            databases.compare(
                [each.grad for each in local.parameters()],
                [each.grad for each in remote.parameters()],
            )
            count += 1
    if count == 0:
        raise databases.Skipped("no inputs")
    return count


@pytest.mark.fast
@pytest.mark.parametrize("info", module_db, ids=name_of)
def test_every_module(device, info):
    databases.note("modules", info.name, lambda: run_module(info, device, FAST_MODULES))


@pytest.mark.full
@pytest.mark.parametrize("info", module_db, ids=name_of)
def test_every_module_with_every_input(device, info):
    databases.note("modules, all inputs", info.name, lambda: run_module(info, device, 10_000))
