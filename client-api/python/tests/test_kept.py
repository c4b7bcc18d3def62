# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tensors that stay on a machine when their program ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import remora

pytestmark = pytest.mark.gateway

STEPS = 30

# Trains with dropout, AdamW and a schedule, and keeps its state every fourth step. It continues with what an
# earlier run has kept, and kills itself at a given step. The last lines are the losses of its steps.
TRAINING = """\
import os, signal, sys
import torch, remora
from torch import nn

name, stop = sys.argv[1], int(sys.argv[2])
machine = remora.RemoteMachine("mock", name=name)
device = machine.device()
torch.manual_seed(5)
model = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 4))
inputs, labels = torch.randn(128, 16), torch.arange(128) % 4
model = model.to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)
torch.remora.manual_seed(7)
first = 0
state = machine.kept("run")
if state is not None:
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.remora.set_rng_state(state["random"])
    first = state["step"]
for step in range(first, STEPS):
    if step == stop:
        machine.synchronize()
        os.kill(os.getpid(), signal.SIGKILL)
    part = slice(32 * (step % 4), 32 * (step % 4) + 32)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs[part].to(device)), labels[part].to(device))
    loss.backward()
    optimizer.step()
    schedule.step()
    print(step, loss.item().hex(), flush=True)
    if step % 4 == 3:
        machine.keep("run", {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "random": torch.remora.get_rng_state(),
            "step": step + 1,
        })
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state store of this test's gateways and nodes."""
    folder = tmp_path / "state"
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", f"-Dremora.state.directory={folder}")
    return folder


@pytest.fixture
def train(tmp_path: Path) -> Callable[[str, int], list[str]]:
    program = tmp_path / "training.py"
    program.write_text(TRAINING.replace("STEPS", str(STEPS)))

    def run(name: str, stop: int = -1) -> list[str]:
        done = subprocess.run(
            [sys.executable, program, name, str(stop)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        expected = -signal.SIGKILL if stop >= 0 else 0
        assert done.returncode == expected, done.stderr
        return done.stdout.splitlines()

    return run


def test_a_killed_training_continues_from_what_it_kept(
    train: Callable[..., list[str]], state: Path
) -> None:
    undisturbed = train("undisturbed")
    before = train("killed", 14)
    after = train("killed")

    assert before == undisturbed[:14]
    assert after == undisturbed[12:], "it continues with step 12"
    kept = [each.name for each in state.iterdir()]
    assert len([each for each in kept if each.startswith("kept.killed.run.")]) == 1, kept


@pytest.fixture
def machine() -> Iterator[remora.RemoteMachine]:
    with remora.RemoteMachine("mock", name=f"keeper-{uuid.uuid4()}", gpu_count=2) as opened:
        yield opened


def test_what_is_kept_has_its_structure(machine: remora.RemoteMachine) -> None:
    device = machine.device()
    weight = torch.randn(5, 7).to(device)
    state = {
        "tied": [weight, weight],
        "view": weight.t()[1:],
        0: (torch.arange(4), None, True, 2.5, "text"),
        "half": torch.randn(3, dtype=torch.bfloat16).to(device),
        "empty": torch.empty(0, 3, device=device),
        "nested": {"steps": 3, "of": {}},
    }
    local = {"tied": weight.cpu(), "view": weight.t()[1:].cpu(), "half": state["half"].cpu()}

    kept = machine.keep("all", state, lease=60)
    weight.zero_()  # what is kept does not change with it
    found = machine.kept("all")

    assert (kept.name, kept.lease) == ("all", 60)
    assert machine.list_kept() == [kept]
    assert [*found] == [*state]
    assert found["tied"][0].device == device
    torch.testing.assert_close(found["tied"][0].cpu(), local["tied"], rtol=0, atol=0)
    assert remora.storage_id(found["tied"][0]) == remora.storage_id(found["tied"][1])
    torch.testing.assert_close(found["view"].cpu(), local["view"], rtol=0, atol=0)
    torch.testing.assert_close(found["half"].cpu(), local["half"], rtol=0, atol=0)
    assert found["empty"].shape == (0, 3)
    assert found[0][0].device.type == "cpu"
    assert found[0][0].tolist() == [0, 1, 2, 3]
    assert found[0][1:] == (None, True, 2.5, "text")
    assert found["nested"] == {"steps": 3, "of": {}}
    assert machine.kept("all", 1)["half"].device == machine.device(1)

    assert machine.drop_kept("all")
    assert not machine.drop_kept("all")
    assert machine.kept("all") is None


def test_a_state_that_cannot_be_kept_names_what_is_wrong(machine: remora.RemoteMachine) -> None:
    weight = torch.ones(2).to(machine.device())
    with pytest.raises(ValueError, match="model.weight is a set"):
        machine.keep("x", {"model": {"weight": {1}}})
    with pytest.raises(ValueError, match="two tensors have the name 'a.b'"):
        machine.keep("x", {"a": {"b": weight}, "a.b": weight + 1})
    with pytest.raises(remora.ModelException, match="'-' and '_'"):
        machine.keep("a name", weight)
    with pytest.raises(ValueError, match="lease"):
        machine.keep("x", weight, lease=0)
    assert machine.list_kept() == []


JAVA = """\
import io.remora.client.*;
import java.util.*;
import org.bytedeco.pytorch.global.torch;

public class Keeps {
  public static void main(String[] args) {
    try (RemoteMachine machine = RemoteMachine.builder().provider("mock").name("keeper").open()) {
      KeptTensors found = machine.kept("python").orElseThrow();
      System.out.println(found.tensors().keySet());
      System.out.println(found.tensors().get("model.weight").sum().item_float());
      machine.keep("java", Map.of("ones", torch.ones(3).to(machine.device(), torch.ScalarType.Float)));
    }
  }
}
"""

KEEPS = """\
import torch, remora
with remora.RemoteMachine("mock", name="keeper") as machine:
    weight = torch.full((2, 2), 1.5).to(machine.device())
    machine.keep("python", {"model": {"weight": weight}, "step": 3})
"""

READS = """\
import remora
with remora.RemoteMachine("mock", name="keeper") as machine:
    print(machine.kept("java")["ones"].tolist(), [each.name for each in machine.list_kept()])
"""


def test_programs_of_both_languages_have_the_same_names(tmp_path: Path) -> None:
    def run(*command: str | Path) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    source = tmp_path / "Keeps.java"
    source.write_text(JAVA)

    run(sys.executable, "-c", KEEPS)
    assert run("java", "-cp", os.environ["REMORA_EXAMPLES_CLASSPATH"], source).split() == [
        "[model.weight]",
        "6.0",
    ]
    assert run(sys.executable, "-c", READS).strip() == "[1.0, 1.0, 1.0] ['java', 'python']"
