# SPDX-License-Identifier: AGPL-3.0-or-later
"""Language models of the transformers library, and the examples, on a remote device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("transformers")
    sys.path.insert(0, str(EXAMPLES))
    import generate_text

    return generate_text


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_generate_gives_the_cpus_tokens(device, example, kind):
    for sample in (False, True):
        remote = example.generate(example.make_model(kind).to(device), device, 16, sample)
        local = example.generate(example.make_model(kind), CPU, 16, sample)
        assert remote == local


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_fine_tuning_gives_the_cpus_losses(device, example, kind):
    remote = example.fine_tune(example.make_model(kind).to(device), device, 4)
    local = example.fine_tune(example.make_model(kind), CPU, 4)
    assert remote == pytest.approx(local, rel=1e-4)


@pytest.mark.fast
@pytest.mark.gateway
@pytest.mark.parametrize("model", ["mlp", "conv"])
def test_the_digits_example_trains_as_on_the_cpu(model):
    result = subprocess.run(
        [
            sys.executable,
            str(EXAMPLES / "train_digits.py"),
            "--model",
            model,
            "--epochs",
            "2",
            "--local",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "losses are equal" in result.stdout
