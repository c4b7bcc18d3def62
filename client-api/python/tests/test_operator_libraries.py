# SPDX-License-Identifier: AGPL-3.0-or-later
"""A C++ library with its own operators, built here and loaded by both a program and its node."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

import remora
from remora import _build, _gateway
from remora._settings import Settings

pytestmark = [pytest.mark.full, pytest.mark.gateway]

SOURCE = """
#include <ATen/ATen.h>
#include <torch/library.h>

namespace {

at::Tensor twice(const at::Tensor& x) { return x + x; }

at::Tensor positive(const at::Tensor& x) { return x.masked_select(x > 0); }

std::tuple<at::Tensor, at::Tensor> halves(const at::Tensor& x, int64_t dim) {
  auto parts = x.chunk(2, dim);
  return {parts[0].clone(), parts[1].clone()};
}

void add_one_(at::Tensor x) { x.add_(1); }

}  // namespace

TORCH_LIBRARY(remora_test, m) {
  m.def("twice(Tensor x) -> Tensor");
  m.def("positive(Tensor x) -> Tensor");
  m.def("halves(Tensor x, int dim) -> (Tensor, Tensor)");
  m.def("add_one_(Tensor(a!) x) -> ()");
}

TORCH_LIBRARY_IMPL(remora_test, CPU, m) {
  m.impl("twice", twice);
  m.impl("positive", positive);
  m.impl("halves", halves);
  m.impl("add_one_", add_one_);
}

TORCH_LIBRARY_IMPL(remora_test, Meta, m) { m.impl("add_one_", add_one_); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    from torch.utils import cpp_extension

    if torch.__version__.split("+")[0] != _build.SHIPPED_TORCH:
        pytest.skip("the node of a gateway has the shipped core's libtorch")
    folder = tmp_path_factory.mktemp("operators")
    (folder / "operators.cpp").write_text(SOURCE)
    built = folder / "libremora_test_operators.so"
    command = [
        os.environ.get("CXX") or cpp_extension.get_cxx_compiler(),
        *("-std=c++17", "-O1", "-fPIC", "-shared", "-w", str(folder / "operators.cpp")),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
        *(f for path in cpp_extension.include_paths() for f in ("-isystem", path)),
        *(f"-L{path}" for path in cpp_extension.library_paths()),
        *("-lc10", "-ltorch_cpu", "-o", str(built)),
    ]
    subprocess.run(command, check=True, timeout=600)
    torch.ops.load_library(str(built))
    return built


@pytest.fixture(scope="module")
def machine(library):
    """A machine whose node has loaded the library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMORA_GATEWAY_JVM_OPTIONS", f"-Dremora.node.operator-libraries.0={library}")
        gateway = _gateway.GatewayProcess(_gateway.class_path(), Settings.from_environment())
    try:
        with remora.RemoteMachine.connect(
            gateway.address, token=gateway.token, provider="mock"
        ) as opened:
            yield opened
    finally:
        gateway.stop()


def test_operators_of_a_library_that_program_and_node_have(device, reads):
    ops = torch.ops.remora_test
    values = torch.tensor([1.0, -2.0, 3.0, -4.0])
    x = values.to(device)
    # Nothing is known about the shapes, which may depend on values, so each call waits.
    for sign in (1, -1, 1):
        assert torch.equal(ops.positive(sign * x).cpu(), ops.positive(sign * values))
    first, second = ops.halves(x.reshape(2, 2), 1)
    assert torch.equal(first.cpu(), values.reshape(2, 2)[:, :1])
    assert torch.equal(second.cpu(), values.reshape(2, 2)[:, 1:])
    # This operator has a Meta kernel, so it is recorded like PyTorch's own operators.
    reads()
    ops.add_one_(x)
    assert reads() == 0
    assert torch.equal(x.cpu(), values + 1)


def test_an_operator_whose_shapes_are_declared_fixed_waits_once(device, reads):
    remora.declare_fixed_shapes("remora_test::twice")
    x = torch.ones(3, device=device)
    reads()
    y = torch.ops.remora_test.twice(torch.ops.remora_test.twice(x))
    assert reads() == 1
    assert y.tolist() == [4.0] * 3


def test_a_failure_of_such_an_operator_names_it(device):
    with pytest.raises(remora.RemoraException, match="remora_test::halves"):
        torch.ops.remora_test.halves(torch.ones(4, device=device), 7)[0].cpu()
