# SPDX-License-Identifier: AGPL-3.0-or-later
"""Libraries that check devices against fixed lists."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.nn import functional as F

pytestmark = pytest.mark.fast


def test_safetensors_loads_onto_the_device(device, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = {"a": torch.randn(3), "b": torch.arange(4)}
    save_file(tensors, tmp_path / "m.safetensors")
    for where in (device, str(device), "remora"):
        loaded = load_file(tmp_path / "m.safetensors", device=where)
        assert {*loaded} == {"a", "b"}
        for name, tensor in tensors.items():
            assert loaded[name].device.type == "remora"
            assert torch.equal(loaded[name].cpu(), tensor)
    assert load_file(tmp_path / "m.safetensors")["a"].device.type == "cpu"


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_in_its_unfused_form(device):
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = torch.randn(3, 1, 2, 16, 8)

    def distance(score, batch, head, row, column):
        return score + (row - column)

    expected = flex_attention(q, k, v, score_mod=distance)
    result = flex_attention(q.to(device), k.to(device), v.to(device), score_mod=distance)
    assert torch.allclose(result.cpu(), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_jagged_tensors(device, causal):
    sequences = [torch.randn(length, 2, 4) for length in (3, 5, 1)]
    there = [each.to(device).requires_grad_() for each in sequences]
    here = [each.requires_grad_() for each in sequences]
    x = torch.nested.as_nested_tensor(there, layout=torch.jagged).transpose(1, 2)
    result = F.scaled_dot_product_attention(x, x, x, is_causal=causal)
    assert result.device == device and result.shape[1:2] == (2,)
    (result.values() * 2).sum().backward()
    for mine, other, part in zip(here, there, result.transpose(1, 2).unbind(), strict=True):
        y = mine.transpose(0, 1)
        expected = F.scaled_dot_product_attention(y, y, y, is_causal=causal)
        assert torch.allclose(part.cpu(), expected.transpose(0, 1), atol=1e-6)
        (expected * 2).sum().backward()
        assert torch.allclose(other.grad.cpu(), mine.grad, atol=1e-5)


def test_checkpoint_within_compile_draws_the_same_numbers_again(device):
    from torch.utils.checkpoint import checkpoint

    weight = torch.ones(64, device=device, requires_grad=True)

    def loss(x):
        def inner(y):
            return F.dropout(y * weight, 0.5)

        return checkpoint(inner, x, use_reentrant=False).square().sum()

    x = torch.ones(64, device=device)
    torch.manual_seed(4)
    value = torch.compile(loss, backend="aot_eager")(x)
    value.backward()
    # With the same mask in the forward and the backward pass, each gradient is twice its term of the sum of squares.
    assert weight.grad.sum().item() == 2 * value.item() > 0


def test_a_model_that_accelerate_takes_to_the_cpu_is_said(device, caplog):
    accelerate = pytest.importorskip("accelerate")
    with caplog.at_level(logging.WARNING, "remora"):
        model = accelerate.Accelerator().prepare(torch.nn.Linear(2, 2).to(device))
    assert model.weight.device.type == "cpu"
    assert f"ACCELERATE_TORCH_DEVICE={device}" in caplog.text


@pytest.mark.full
def test_accelerate_and_trainer_use_the_device_that_the_environment_names(run_program):
    pytest.importorskip("accelerate")
    run_program("""
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    import accelerate
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    accelerator = accelerate.Accelerator()
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.backward(model(torch.ones(2, 4, device=accelerator.device)).sum())
    optimizer.step()
    assert model.weight.device == device

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=32, n_positions=16))
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(8)]
    arguments = TrainingArguments(
        "unused", max_steps=2, report_to=[], save_strategy="no", disable_tqdm=True
    )
    Trainer(model=model, args=arguments, train_dataset=data).train()
    assert next(model.parameters()).device == device
    """)


@pytest.mark.full
def test_lightning_trains_on_the_device_of_its_strategy(machine, device, tmp_path):
    lightning = pytest.importorskip("lightning")
    from remora.lightning import RemoraAccelerator, RemoraStrategy

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)
            self.seen = set()

        def training_step(self, batch, index):
            self.seen |= {batch[0].device, self.layer.weight.device}
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    data = torch.utils.data.TensorDataset(torch.randn(16, 4))
    options = {
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    second = machine.device("cuda:1")
    module = Module()
    before = module.layer.weight.detach().clone()
    trainer = lightning.Trainer(strategy=RemoraStrategy(second), **options)
    trainer.fit(module, torch.utils.data.DataLoader(data, 4))
    assert module.seen == {second}
    assert not torch.equal(module.layer.weight.cpu(), before)
    with pytest.raises(ValueError, match="strategy=RemoraStrategy"):
        lightning.Trainer(accelerator=RemoraAccelerator(), devices=1, **options).fit(
            module, torch.utils.data.DataLoader(data, 4)
        )
