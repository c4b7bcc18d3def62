# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tensors and modules in ordinary PyTorch programs."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import remora

pytestmark = pytest.mark.fast


def text_without_device(text: str) -> str:
    import re

    return re.sub(r",\s*device='remora:\d+'", "", text)


@pytest.mark.critical
def test_operations_give_what_the_cpu_gives(device):
    x, y = torch.randn(40, 30), torch.randn(30, 20)
    assert torch.equal((x.to(device) @ y.to(device)).relu().cpu(), (x @ y).relu())


def test_views_of_one_storage_are_told_apart(device):
    """The node keeps the tensor that a record named last; the next record may mean another one."""

    def program(where: torch.device) -> list[torch.Tensor]:
        x = torch.arange(12.0, device=where)
        results = [x + 1, x.view(3, 4) + 1, x.view(4, 3).t() + 1, x[2:8] + 1, x + 1, x.view(12) * x]
        x.add_(x.view(12))
        results.append(x.view(3, 4) + x.view(3, 4))
        x.resize_(6)
        results += [x + 1, x.view(2, 3) @ x.view(3, 2)]
        half = x.view(torch.int32)
        results += [
            half + 1,
            x + 1,
            torch.complex(x, x).conj() + 1,
            torch.complex(x, x).imag.neg() + x,
        ]
        x.set_(results[0])
        return [*results, x + 1, x * torch.tensor(2.0, device=where), x.numpy(force=True).sum() + x]

    for there, here in zip(program(device), program(torch.device("cpu")), strict=True):
        assert there.stride() == here.stride()
        assert torch.equal(there.cpu(), here)


@pytest.mark.critical
def test_training_steps_equal_those_of_the_cpu(device):
    def train(where: torch.device) -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4)).to(where)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        x, y = torch.randn(16, 20).to(where), torch.randint(0, 4, (16,)).to(where)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    assert train(device) == train(torch.device("cpu"))


@pytest.mark.critical
@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(5),
        torch.randn(50, 60),
        torch.randn(3, 50, 60),
        torch.randn(2, 3, dtype=torch.complex64),
        torch.randn(60, 60, dtype=torch.complex64),
        torch.arange(5000),
        torch.tensor(1.5),
        torch.empty(0, 3),
        torch.rand(7) > 0.5,
        torch.full((3,), torch.nan),
        torch.randn(4, dtype=torch.bfloat16),
    ],
    ids=lambda t: f"{t.dtype}{tuple(t.shape)}",
)
def test_printing_reads_once_and_shows_what_the_cpu_shows(device, reads, tensor):
    remote = tensor.to(device)
    repr(remote)  # learns the operators' metadata
    reads()
    text = repr(remote)
    assert reads() <= 1
    assert text_without_device(text).split() == repr(tensor).split()


def test_printing_conjugates_parameters_and_gradients_reads_once(device, reads):
    x = torch.randn(3, 3, dtype=torch.complex64).to(device)
    weight = nn.Parameter(torch.randn(4).to(device))
    for tensor in (x.conj(), x.imag, weight, weight * 2):
        repr(tensor)
        reads()
        assert "device='remora:" in repr(tensor)
        assert reads() <= 1


def test_format_reads_once(device, reads):
    x = torch.tensor(2.345, device=device)
    reads()
    assert f"{x:.2f}" in ("2.34", "2.35")
    assert reads() == 1


def test_tolist_and_comparison_read_once(device, reads):
    x = torch.arange(100.0, device=device)
    y = x.clone()
    reads()
    assert x.tolist() == list(range(100))
    assert reads() == 1
    assert torch.equal(x, y)
    assert reads() <= 2


@pytest.mark.critical
def test_tied_weights_stay_tied(device):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.out = nn.Linear(4, 10, bias=False)
            self.out.weight = self.embedding.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.embedding(x))

    model = Tied()
    tied = model.embedding.weight
    model.to(device)
    assert model.out.weight is model.embedding.weight is tied
    assert len(list(model.parameters())) == 1
    with torch.no_grad():
        model.embedding.weight.fill_(2)
    assert model.out.weight.sum().item() == 80
    back = model.cpu()
    assert back.out.weight is back.embedding.weight
    again = copy.deepcopy(model.to(device))
    assert again.out.weight is again.embedding.weight
    assert again.out.weight is not model.out.weight


def test_optimizers_made_before_to_go_on_with_the_moved_parameters(device):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.to(device)
    before = model.weight.detach().cpu()
    model(torch.ones(2, 3, device=device)).sum().backward()
    optimizer.step()
    assert torch.allclose(model.weight.detach().cpu(), before - 0.2)


def test_deepcopy_keeps_devices_sharing_and_requires_grad(device):
    base = torch.arange(6.0, device=device)
    a, b = copy.deepcopy([base, base[2:4]])
    b.zero_()
    assert a.tolist() == [0, 1, 0, 0, 4, 5]
    assert base.tolist() == [0, 1, 2, 3, 4, 5]
    assert a.device == device
    model = nn.Linear(2, 2).to(device)
    copied = copy.deepcopy(model)
    assert copied.weight.requires_grad
    assert copied.weight.device == device
    assert torch.equal(copied.weight, model.weight)


def test_pickle_keeps_values_views_and_devices(device):
    base = torch.arange(12.0).reshape(3, 4)
    for tensor in (base, base.t(), base[1:, ::2], base.to(torch.complex64), base.bool()):
        remote = tensor.to(device)
        if not tensor.is_contiguous():
            remote = base.to(device).as_strided(
                tensor.size(), tensor.stride(), tensor.storage_offset()
            )
        copied = pickle.loads(pickle.dumps(remote))
        assert copied.device == device
        assert copied.stride() == remote.stride()
        assert torch.equal(copied.cpu(), tensor)
    model = nn.Linear(2, 3).to(device)
    assert torch.equal(pickle.loads(pickle.dumps(model)).weight, model.weight)


@pytest.mark.critical
@pytest.mark.parametrize("zip_format", [True, False])
def test_save_and_load_both_ways(device, zip_format):
    state = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()

    def saved(where: torch.device) -> io.BytesIO:
        file = io.BytesIO()
        torch.save(
            {key: value.to(where) for key, value in state.items()},
            file,
            _use_new_zipfile_serialization=zip_format,
        )
        file.seek(0)
        return file

    cpu = torch.device("cpu")
    for source, location, expected in (
        (device, None, device),
        (device, "cpu", cpu),
        (device, cpu, cpu),
        (cpu, device, device),
        (cpu, str(device), device),
        (device, device, device),
        (device, {str(device): "cpu"}, cpu),
        (device, lambda storage, _: storage.cpu(), cpu),
    ):
        loaded = torch.load(saved(source), map_location=location)
        for key, value in state.items():
            assert loaded[key].device == expected
            assert torch.equal(loaded[key].cpu(), value), key


def test_saved_views_share_their_storage_when_loaded(device):
    base = torch.arange(6.0, device=device)
    file = io.BytesIO()
    torch.save([base, base[2:4]], file)
    file.seek(0)
    a, b = torch.load(file)
    assert remora.storage_id(a) == remora.storage_id(b)
    b.zero_()
    assert a.tolist() == [0, 1, 0, 0, 4, 5]


def test_loading_for_a_machine_that_is_not_there_says_so():
    file = io.BytesIO()
    torch.save(torch.ones(2), file)
    file.seek(0)
    with pytest.raises(RuntimeError, match="remora"):
        torch.load(file, map_location="remora:13")


def test_numpy_says_what_it_says_on_cuda(device):
    x = torch.ones(2, device=device)
    with pytest.raises(TypeError, match=r"can't convert remora:\d+ device type tensor to numpy"):
        x.numpy()
    with pytest.raises(TypeError):
        np.asarray(x)
    assert np.array_equal(x.cpu().numpy(), np.ones(2, dtype=np.float32))
    assert torch.from_numpy(np.arange(3)).to(device).tolist() == [0, 1, 2]


def test_sparse_and_quantized_tensors_are_refused_with_the_way_out(device):
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(NotImplementedError, match="to_dense"):
        sparse.to(device)
    with pytest.raises(NotImplementedError, match="to_dense|strided"):
        torch.eye(3).to_sparse_csr().to(device)
    with pytest.raises((NotImplementedError, RuntimeError), match=r"sparse|strided"):
        torch.eye(3, device=device).to_sparse()
    quantized = torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8)
    with pytest.raises((NotImplementedError, RuntimeError), match="dequantize"):
        quantized.to(device)


@pytest.mark.critical
def test_mixed_places_are_refused_at_the_call(device):
    with pytest.raises(remora.CrossMachineException, match="on the same device, but .* on cpu"):
        torch.mm(torch.ones(2, 2, device=device), torch.ones(2, 2))
    x, y = torch.ones(2, device=device, requires_grad=True), torch.ones(2)
    for a, b in [(x, y), (y, x)]:
        with pytest.raises(
            remora.CrossMachineException, match=r"remora:\d and cpu! .* tensor\.to\(device\)"
        ):
            a + b
    with pytest.raises(remora.CrossMachineException, match="two devices"):
        y.mul_(x.detach())
    for refused in (
        lambda: y.pow_(x.detach()),
        lambda: x.detach().pow_(y),
        lambda: torch.ops.aten.tanh_backward(x.detach(), y),
        lambda: torch.ops.aten.gelu_backward(y, x.detach()),
    ):
        with pytest.raises(remora.CrossMachineException, match="on the same device"):
            refused()
    assert (torch.ones(2, device=device) * torch.tensor(3.0)).tolist() == [3, 3]


@pytest.mark.critical
def test_metadata_errors_keep_pytorchs_types(device):
    x = torch.ones(2, 3, device=device)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        x @ x
    with pytest.raises(IndexError):
        x[5]
    with pytest.raises(RuntimeError, match="shape"):
        x.view(7)
    with pytest.raises(
        RuntimeError, match=r"sizes \(2\) must match dimensionality of strides \(1\)"
    ):
        x.new_empty_strided((2, 3), (1,))
    for pool, dims in ((torch.nn.FractionalMaxPool2d, 2), (torch.nn.FractionalMaxPool3d, 3)):
        few = torch.rand(0, 4, dims, device=device)
        with pytest.raises(RuntimeError, match=r"_random_samples.size\(0\)"):
            pool(2, output_size=1, _random_samples=few)(
                torch.ones(1, 4, *[8] * dims, device=device)
            )


@pytest.mark.critical
def test_a_failed_operation_fails_what_is_read_from_it(device):
    bad = torch.ones(3, device=device)[torch.tensor([7], device=device)]
    with pytest.raises(remora.RemoteOperationException, match="index"):
        (bad + 1).cpu()
    assert torch.ones(2, device=device).sum().item() == 2


def test_a_failure_nobody_reads_is_raised_by_synchronize(machine, device):
    x = torch.ones(3, device=device)[torch.tensor([7], device=device)]
    with pytest.raises(remora.RemoteOperationException, match="aten::index"):
        machine.synchronize()
    machine.synchronize()
    del x


def test_with_torch_device_and_default_device(device):
    with torch.device(device):
        assert torch.ones(2).device == device
        assert nn.Linear(2, 2).weight.device == device
        assert torch.tensor([1, 2]).device == device
    torch.set_default_device(device)
    try:
        assert torch.zeros(3).device == device
    finally:
        torch.set_default_device(None)
    assert torch.zeros(3).device.type == "cpu"


def test_storage_ids_and_metadata_hashes(device):
    x = torch.ones(4, 4, device=device)
    y = torch.ones(4, 4, device=device)
    assert remora.storage_id(x) == remora.storage_id(x[1:]) != remora.storage_id(y)
    assert remora.metadata_hash(x) == remora.metadata_hash(x.view(4, 4))
    assert remora.metadata_hash(x) != remora.metadata_hash(x.t()[0])
    assert remora.metadata_hash(torch.ones(2)) >= 0
    with pytest.raises(ValueError, match="cpu"):
        remora.storage_id(torch.ones(2))


def test_generated_methods(machine, device):
    x = torch.ones(2).remora()
    assert x.is_remora
    assert not torch.ones(2).is_remora
    assert nn.Linear(1, 1).remora().weight.is_remora
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(2, 2)], enforce_sorted=True)
    assert packed.remora().is_remora


def test_copies_between_devices_and_dtypes(machine, device):
    other = machine.device("cuda:1")
    x = torch.randn(5, 5)
    assert torch.equal(x.to(device).to(other).cpu(), x)
    assert torch.equal(x.to(device, torch.float64).cpu(), x.double())
    assert torch.equal(x.t().to(device).cpu(), x.t())
    target = torch.zeros(5, 5, device=device)
    target.copy_(x, non_blocking=True)
    assert torch.equal(target.cpu(), x)
    assert torch.equal(x.to(device)[1:3, ::2].cpu(), x[1:3, ::2])


def test_large_transfers(device):
    x = torch.randn(5_000_001)
    assert torch.equal(x.to(device).cpu(), x)


def test_legacy_types_name_device_and_dtype(device):
    x = torch.ones(3, device=device)
    assert x.type() == "torch.remora.FloatTensor"
    with pytest.warns(UserWarning, match="TypedStorage"):
        assert x.storage_type() is torch.remora.FloatStorage
    assert torch.remora.FloatStorage.dtype is torch.float32
    assert isinstance(x, torch.remora.FloatTensor)
    assert not isinstance(x, torch.remora.DoubleTensor)
    assert not isinstance(x.cpu(), torch.remora.FloatTensor)
    for name in [
        "BFloat16",
        "Bool",
        "Byte",
        "Char",
        "Double",
        "Float",
        "Half",
        "Int",
        "Long",
        "Short",
    ]:
        kind = getattr(torch.remora, name + "Tensor")
        assert isinstance(x.type(kind), kind)
        assert x.type(kind).type() == f"torch.remora.{name}Tensor"
        assert isinstance(x.cpu().type(f"torch.remora.{name}Tensor"), kind)
    made = torch.remora.LongTensor([1, 2])
    assert made.tolist() == [1, 2] and isinstance(made, torch.remora.LongTensor)
    assert torch.remora.FloatTensor(2, 3).shape == (2, 3)


@pytest.mark.filterwarnings("ignore")
def test_an_operator_may_be_taken_away_and_defined_otherwise(machine, device, request):
    if request.config.getoption("--machine") != "local":
        pytest.skip("another process does not have the operator")
    x = torch.arange(3.0, device=device)
    for n in range(8):
        library = torch.library.Library("remora_again", "DEF")
        try:
            if n % 2:
                library.define("shifted(Tensor x, int n) -> Tensor")
                library.impl("shifted", lambda x, n: x + n, "CPU")
                result = torch.ops.remora_again.shifted(x, n).tolist()
            else:
                library.define("doubled(Tensor x) -> Tensor")
                library.impl("doubled", lambda x: x * 2, "CPU")
                result = torch.ops.remora_again.doubled(x).tolist()
        finally:
            library._destroy()
        assert result == ([n, 1 + n, 2 + n] if n % 2 else [0, 2, 4])
    machine.synchronize()
