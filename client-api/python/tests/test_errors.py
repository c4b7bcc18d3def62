# SPDX-License-Identifier: AGPL-3.0-or-later
"""Errors and warnings of operations are the same as on the CPU."""

from __future__ import annotations

import builtins
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from databases import first_line, raised
from torch import Tensor, nn, tensor

import remora
from remora import exceptions
from remora._proto import errors_pb2

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")


def expanded(d: torch.device, *sizes: int) -> Tensor:
    """A tensor whose elements all share one place in memory."""
    return torch.zeros(1, device=d).expand(*sizes)


def assign(target: Tensor, index: Any, value: Tensor) -> None:
    target[index] = value


def shift(target: Tensor) -> Tensor:
    return target[1:].copy_(target[:-1])


def at_itself(places: Tensor) -> Tensor:
    return places.index_put_((places,), places.clone())


def over_its_input(d: torch.device, call: Callable[..., object]) -> None:
    base = torch.arange(6.0, device=d)
    call(base[1:4], out=torch.zeros(3, device=d))  # no other call uses this plan
    call(base[1:4], out=base[0:3])


def deterministic(call: Callable[[], object]) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        call()
    finally:
        torch.use_deterministic_algorithms(False)


# Errors that depend on metadata or on numbers in the program; and calls where PyTorch itself waits for values.
AT_THE_CALL: dict[str, Callable[[torch.device], object]] = {
    "assigning a wrong shape": lambda d: assign(
        torch.zeros(3, device=d), tensor([0, 1], device=d), torch.ones(3, device=d)
    ),
    "assigning a wrong shape behind a slice": lambda d: assign(
        torch.zeros(2, 3, 4, device=d),
        (slice(None), tensor([0, 1], device=d)),
        torch.ones(3, device=d),
    ),
    "assigning to scattered dimensions": lambda d: assign(
        torch.zeros(2, 3, 4, device=d),
        (tensor([0, 1], device=d), slice(None), tensor([0, 1], device=d)),
        torch.ones(3, 2, device=d),
    ),
    "indices that do not fit together": lambda d: torch.zeros(3, 3, device=d).index_put_(
        (tensor([0, 1], device=d), tensor([0, 1, 2], device=d)), torch.ones(1, device=d)
    ),
    "assigning another dtype": lambda d: torch.zeros(3, device=d).index_put_(
        (tensor([0], device=d),), torch.ones(1, dtype=torch.int64, device=d)
    ),
    "assigning at floats": lambda d: torch.zeros(3, device=d).index_put_(
        (torch.ones(1, device=d),), torch.ones(1, device=d)
    ),
    "assigning by a mask of another shape": lambda d: torch.zeros(3, 2, device=d).index_put_(
        (torch.ones(2, dtype=torch.bool, device=d),), torch.ones(2, 2, device=d)
    ),
    "assigning another dtype by a mask": lambda d: torch.zeros(3, device=d).index_put_(
        (torch.ones(3, dtype=torch.bool, device=d),), torch.ones(3, dtype=torch.int64, device=d)
    ),
    "put_ at floats": lambda d: torch.zeros(3, device=d).put_(
        torch.ones(1, device=d), torch.ones(1, device=d)
    ),
    "put_ of another dtype": lambda d: torch.zeros(3, device=d).put_(
        tensor([0], device=d), torch.ones(1, dtype=torch.int64, device=d)
    ),
    "put_ under determinism": lambda d: deterministic(
        lambda: torch.zeros(3, device=d).put_(tensor([0], device=d), torch.ones(1, device=d))
    ),
    "assigning to a number": lambda d: torch.zeros([], device=d).index_put(
        [], torch.ones(1, device=d), True
    ),
    "assigning a number by a mask of bytes": lambda d: assign(
        torch.zeros(3, device=d), torch.ones(3, dtype=torch.uint8, device=d), tensor(1.0, device=d)
    ),
    "assigning at its own elements": lambda d: at_itself(torch.arange(3, device=d)),
    "an output over a part of the input": lambda d: over_its_input(d, torch.sin),
    "an output over a part of the input of pow": lambda d: over_its_input(
        d, lambda x, out: torch.pow(x, 42, out=out)
    ),
    "an output over a part of the input of cumsum": lambda d: over_its_input(
        d, lambda x, out: torch.cumsum(x, 0, out=out)
    ),
    "antialiasing of integers": lambda d: F.interpolate(
        torch.ones(1, 3, 8, 8, dtype=torch.int32, device=d), (3, 3), mode="bicubic", antialias=True
    ),
    "flip": lambda d: torch.ones(2, 3, device=d).flip(5),
    "flip twice": lambda d: torch.ones(2, 3, device=d).flip(0, 0),
    "count_nonzero": lambda d: torch.ones(2, 3, device=d).count_nonzero(5),
    "std": lambda d: torch.ones(2, 3, device=d).std(5),
    "var_mean": lambda d: torch.var_mean(torch.ones(2, 3, device=d), 5),
    "kthvalue of no dimension": lambda d: torch.ones(2, 3, device=d).kthvalue(1, 5),
    "kthvalue of no place": lambda d: torch.ones(2, 3, device=d).kthvalue(9, 1),
    "logcumsumexp": lambda d: torch.ones(2, 3, device=d).logcumsumexp(5),
    "roll": lambda d: torch.ones(2, 3, device=d).roll(1, 5),
    "unique": lambda d: torch.ones(2, 3, device=d).unique(dim=5),
    "copy_ to one element": lambda d: expanded(d, 3).copy_(torch.ones(3, device=d)),
    "copy_ from the CPU to one element": lambda d: expanded(d, 3).copy_(torch.ones(3)),
    "copy_ into itself": lambda d: shift(torch.arange(4.0, device=d)),
    "put_ to one element": lambda d: expanded(d, 3).put_(
        tensor([0], device=d), torch.ones(1, device=d)
    ),
    "put_ of another number": lambda d: torch.zeros(3, device=d).put_(
        tensor([0], device=d), torch.ones(2, device=d)
    ),
    "bernoulli_": lambda d: expanded(d, 3).bernoulli_(),
    "bernoulli_ of a tensor": lambda d: expanded(d, 3).bernoulli_(torch.ones(3, device=d)),
    "bernoulli_ of no probability": lambda d: torch.zeros(3, device=d).bernoulli_(1.5),
    "uniform_": lambda d: expanded(d, 3).uniform_(),
    "random_": lambda d: expanded(d, 3).random_(),
    "random_ of no range": lambda d: torch.zeros(3, device=d).random_(3, 1),
    "random_ up to nothing": lambda d: torch.zeros(3, device=d).random_(0),
    "random_ of another dtype": lambda d: torch.zeros(3, dtype=torch.uint8, device=d).random_(
        0, 999
    ),
    "randint": lambda d: torch.randint(3, 1, (2,), device=d),
    "_foreach_add_": lambda d: torch._foreach_add_([expanded(d, 3)], 1),
    "_foreach_copy_": lambda d: torch._foreach_copy_([expanded(d, 3)], [torch.ones(3, device=d)]),
    "histc": lambda d: torch.histc(torch.ones(3, device=d), 4, 3, 1),
    "histc of no bins": lambda d: torch.histc(torch.ones(3, device=d), 0, 1, 3),
    "fill_ of a number too large": lambda d: torch.zeros(3, dtype=torch.uint8, device=d).fill_(
        1000
    ),
    "bmm of two dtypes": lambda d: torch.bmm(
        torch.ones(1, 2, 3, device=d), torch.ones(1, 3, 4, dtype=torch.float64, device=d)
    ),
    "one_hot of floats": lambda d: F.one_hot(torch.ones(2, device=d)),
    "max_pool1d": lambda d: F.max_pool1d(torch.ones(2, 1, 4, device=d, requires_grad=True), 0),
    "mm": lambda d: torch.ones(2, 3, device=d) @ torch.ones(2, 3, device=d),
    "conv2d": lambda d: F.conv2d(
        torch.zeros(1, 3, 4, 4, device=d), torch.zeros(2, 2, 3, 3, device=d)
    ),
    "inverse": lambda d: torch.linalg.inv(torch.zeros(3, 3, device=d)),
    "cholesky": lambda d: torch.linalg.cholesky(-torch.eye(3, device=d)),
}

# Errors that depend on the tensors' values.
AT_THE_READ: dict[str, Callable[[torch.device], Tensor]] = {
    "division by zero": lambda d: tensor([1], device=d) // tensor([0], device=d),
    "index": lambda d: torch.ones(3, device=d)[tensor([7], device=d)],
    "index_put": lambda d: torch.ones(3, device=d).index_put_(
        (tensor([7], device=d),), torch.ones(1, device=d)
    ),
    "gather": lambda d: torch.ones(3, device=d).gather(0, tensor([7], device=d)),
    "take": lambda d: torch.ones(3, device=d).take(tensor([7], device=d)),
    "embedding": lambda d: F.embedding(tensor([9], device=d), torch.ones(3, 2, device=d)),
    "nll_loss": lambda d: F.nll_loss(torch.ones(2, 3, device=d), tensor([1, 9], device=d)),
    "svd": lambda d: torch.linalg.svd(torch.full((3, 3), torch.nan, device=d))[1],
    "eigvalsh": lambda d: torch.linalg.eigvalsh(torch.full((3, 3), torch.nan, device=d)),
    "a mask's count": lambda d: torch.ones(3, device=d).index_put_(
        (tensor([True, False, True], device=d),), torch.ones(3, device=d)
    ),
}


def same(got: Exception | None, expected: Exception | None) -> None:
    assert expected is not None
    assert isinstance(got, type(expected)), f"{got!r}, not {expected!r}"
    assert first_line(got) == first_line(expected)


@pytest.mark.parametrize("name", AT_THE_CALL)
def test_a_mistake_that_metadata_show_is_raised_at_the_call(machine, device, name):
    call = AT_THE_CALL[name]
    expected = raised(lambda: call(CPU))
    for _ in range(2):  # the second call uses a cached plan
        same(raised(lambda: call(device)), expected)
        assert raised(machine.synchronize) is None


def test_histc_is_refused_also_where_its_plan_is_known(device):
    x = torch.ones(3, device=device)
    torch.histc(x, 4, 1, 3)
    same(
        raised(lambda: torch.histc(x, 4, 3, 1)), raised(lambda: torch.histc(torch.ones(3), 4, 3, 1))
    )
    bytes_ = torch.zeros(3, dtype=torch.uint8, device=device)
    bytes_.fill_(255)
    same(
        raised(lambda: bytes_.fill_(256)),
        raised(lambda: torch.zeros(3, dtype=torch.uint8).fill_(256)),
    )


@pytest.mark.parametrize(
    ("call", "good", "bad"),
    [
        (lambda x, value: x.to(torch.int64).pow(value), 2, -2),
        (lambda x, value: x.to(torch.int64).pow_(value), 2, -2),
        (F.softshrink, 0.5, -0.5),
        (lambda x, value: x.renorm(2, 0, value), 1.0, -1.0),
        (lambda x, value: torch.linalg.vector_norm(x[:0], value), 2, -2),
        (lambda x, value: torch.ops.aten.leaky_relu_backward(x, x, value, True), 0.5, -0.5),
        (lambda x, value: torch.ops.aten.elu_backward(x, value, 1, 1, True, x), 0.5, -0.5),
    ],
)
def test_a_number_is_refused_also_where_the_plan_is_known(device, call, good, bad):
    x = torch.ones(3, 4)
    there = x.to(device)
    assert torch.equal(call(there, good).cpu(), call(x, good))
    same(raised(lambda: call(there, bad)), raised(lambda: call(x, bad)))


@pytest.mark.parametrize("name", AT_THE_READ)
def test_a_mistake_of_values_is_raised_as_pytorchs_and_as_ours(device, name):
    call = AT_THE_READ[name]
    got = raised(lambda: call(device).cpu())
    same(got, raised(lambda: call(CPU)))
    assert isinstance(got, remora.RemoteOperationException)
    assert "on the node" in str(got)


def test_the_message_names_class_operator_and_inputs(device):
    with pytest.raises(IndexError) as caught:
        torch.ones(3, device=device)[tensor([7], device=device)].cpu()
    lines = str(caught.value).splitlines()
    assert lines[0] == "index 7 is out of bounds for dimension 0 with size 3"
    assert re.fullmatch(r"  IndexError in aten::index\.\S+ on the node", lines[1])
    assert lines[2].startswith("  inputs: float32[3]#")
    assert isinstance(caught.value, remora.exceptions.RemoteIndexError)


# ---------------------------------------------------------------- warnings


def warned(run: Callable[[], object]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # of what the collector finds meanwhile
        run()
    return caught


WARNINGS: dict[str, Callable[[torch.device], Tensor]] = {
    "masked_fill_": lambda d: (
        torch.zeros(3, 1, device=d)
        .expand(3, 2)
        .masked_fill_(torch.ones(3, 2, dtype=torch.bool, device=d), 1.0)
    ),
    "out=": lambda d: torch.median(
        torch.ones(3, 4, device=d), 0, out=(torch.ones(2, device=d), tensor([1], device=d))
    )[0],
    "std": lambda d: torch.zeros(1, device=d).std(),
    "add out=": lambda d: torch.add(torch.ones(3, device=d), 1, out=torch.ones(2, device=d)),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_a_warning_of_an_operation_comes_once_with_the_next_value(device, name):
    call = WARNINGS[name]
    expected = {
        str(each.message).partition(" (Triggered internally")[0]: each.category
        for each in warned(lambda: call(CPU).cpu())
    }
    assert expected
    for _ in range(2):  # no Meta kernel runs in the program at the second call
        caught = warned(lambda: call(device).cpu())
        assert {
            str(each.message).rpartition(" (aten::")[0]: each.category for each in caught
        } == expected
        assert len(caught) == len(expected)
        assert {each.filename for each in caught} == {__file__}


WARNINGS_AT_THE_CALL: dict[str, Callable[[torch.device], object]] = {
    "an index of bytes": lambda d: torch.ones(2, device=d)[byte_mask(d)],
    "assigning by bytes": lambda d: assign(
        torch.ones(2, device=d), byte_mask(d), torch.ones(2, device=d)
    ),
    "assigning to one element": lambda d: assign(
        expanded(d, 3), tensor([0, 1], device=d), torch.ones(2, device=d)
    ),
    "a range beyond the dtype's integers": lambda d: torch.zeros(
        3, dtype=torch.float16, device=d
    ).random_(-60000, 42),
    "complex halves": lambda d: torch.empty(3, dtype=torch.complex32, device=d),
    "put_ under determinism": lambda d: torch.zeros(3, device=d).put_(
        tensor([0], device=d), torch.ones(1, device=d)
    ),
}


def byte_mask(d: torch.device) -> Tensor:
    return torch.ones(2, dtype=torch.uint8, device=d)


@pytest.mark.parametrize("name", WARNINGS_AT_THE_CALL)
def test_a_warning_that_metadata_decide_comes_at_the_call(device, machine, name):
    call = WARNINGS_AT_THE_CALL[name]

    def texts(caught: list[warnings.WarningMessage]) -> list[str]:
        return [str(each.message).partition(" (Triggered internally")[0] for each in caught]

    torch.set_warn_always(True)
    torch.use_deterministic_algorithms("determinism" in name, warn_only=True)
    try:
        expected = texts(warned(lambda: call(CPU)))
        assert len(expected) == 1
        for _ in range(2):
            assert texts(warned(lambda: call(device))) == expected
            assert warned(machine.synchronize) == []
    finally:
        torch.set_warn_always(False)
        torch.use_deterministic_algorithms(False)


def test_a_warning_names_the_operation_and_the_machine(device, machine):
    (caught,) = warned(lambda: torch.zeros(1, device=device).std().cpu())
    assert re.search(rf"\(aten::std\S* on machine '{machine.name}'\)", str(caught.message))


def test_synchronize_warns_of_what_nobody_has_read(device, machine):
    results = []
    caught = warned(
        lambda: (results.append(torch.zeros(1, device=device).std()), machine.synchronize())
    )
    assert [each.category for each in caught] == [UserWarning]


def test_a_warning_may_be_made_an_error(device):
    result = torch.zeros(1, device=device).std()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="degrees of freedom"):
            result.cpu()
    assert result.isnan().item()


def test_a_flood_of_warnings_is_told_of_once(device):
    def flood() -> None:
        for _ in range(200):
            result = torch.zeros(1, device=device).std()
        result.cpu()

    assert 1 <= len(warned(flood)) <= 3


# ---------------------------------------------------------------- what devices do not hold


REFUSED: dict[str, tuple[str, Callable[[torch.device], object]]] = {
    "COO": ("to_dense", lambda d: torch.eye(3).to_sparse().to(d)),
    "MKL-DNN": ("to_dense", lambda d: torch.ones(3, device=d).to_mkldnn()),
    "sparse_coo_tensor": (
        "strided",
        lambda d: torch.sparse_coo_tensor(
            torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (3,), device=d
        ),
    ),
    "embedding_bag": (
        "sparse=False",
        lambda d: (
            F.embedding_bag(
                tensor([[0, 1]], device=d),
                torch.ones(3, 2, device=d, requires_grad=True),
                sparse=True,
            )
            .sum()
            .backward()
        ),
    ),
    "embedding": (
        "sparse=False",
        lambda d: (
            F.embedding(
                tensor([[0, 1]], device=d),
                torch.ones(3, 2, device=d, requires_grad=True),
                sparse=True,
            )
            .sum()
            .backward()
        ),
    ),
    "quantize_per_tensor": (
        "dequantize",
        lambda d: torch.quantize_per_tensor(torch.ones(3, device=d), 0.1, 0, torch.qint8),
    ),
    "quantize_per_channel": (
        "dequantize",
        lambda d: torch.quantize_per_channel(
            torch.ones(3, 2, device=d),
            torch.ones(3, device=d),
            torch.zeros(3, dtype=torch.long, device=d),
            0,
            torch.qint8,
        ),
    ),
    "a quantized tensor": (
        "dequantize",
        lambda d: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8).to(d),
    ),
    "a nested tensor": (
        "nested",
        lambda d: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], device=d),
    ),
    "a nested tensor that is moved": (
        "jagged",
        lambda d: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]).to(d),
    ),
    "a nested tensor like another": (
        "jagged",
        lambda d: torch.empty_like(
            torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), device=d
        ),
    ),
    "a nested tensor by a mask": (
        "enable_nested_tensor=False",
        lambda d: torch._nested_tensor_from_mask(
            torch.ones(1, 2, 3, device=d), torch.ones(1, 2, dtype=torch.bool, device=d)
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_devices_do_not_hold_is_refused_with_the_remedy(machine, device, name):
    remedy, make = REFUSED[name]
    with pytest.raises(NotImplementedError, match=remedy):
        make(device)
    assert raised(machine.synchronize) is None


LAYOUTS = [
    torch.sparse_coo,
    torch.sparse_csr,
    torch.sparse_csc,
    torch.sparse_bsr,
    torch.sparse_bsc,
]


def sparse(dense: Tensor, layout: torch.layout) -> Tensor:
    blocks = (2, 2) if layout in (torch.sparse_bsr, torch.sparse_bsc) else None
    return dense.to_sparse(layout=layout, blocksize=blocks)


def parts(of: Tensor) -> tuple[Tensor, ...]:
    if of.layout == torch.sparse_coo:
        return of._indices(), of._values()
    if of.layout in (torch.sparse_csr, torch.sparse_bsr):
        return of.crow_indices(), of.col_indices(), of.values()
    return of.ccol_indices(), of.row_indices(), of.values()


def put_together(
    layout: torch.layout, of: tuple[Tensor, ...], *size: Any, **options: Any
) -> Tensor:
    if layout == torch.sparse_coo:
        return torch.sparse_coo_tensor(*of, *size, **options)
    return torch.sparse_compressed_tensor(*of, *size, layout=layout, **options)


SPARSE: dict[str, Callable[[Tensor, torch.device], object]] = {
    "to": lambda s, d: s.to(d),
    "to another dtype": lambda s, d: s.to(d, torch.float64),
    "to, with a gradient": lambda s, d: s.clone().requires_grad_().to(d),
    "to, in inference mode": torch.inference_mode()(lambda s, d: s.to(d)),
    "as_tensor": lambda s, d: torch.as_tensor(s, device=d),
    "to_sparse": lambda s, d: sparse(torch.eye(4, device=d), s.layout),
    "parts on the CPU": lambda s, d: put_together(s.layout, parts(s), s.shape, device=d),
    "parts on the CPU, no size": lambda s, d: put_together(s.layout, parts(s), device=d),
    "parts on the device": lambda s, d: put_together(s.layout, tuple(x.to(d) for x in parts(s))),
    "lists": lambda s, d: put_together(s.layout, tuple(x.tolist() for x in parts(s)), device=d),
    "empty": lambda s, d: torch.empty(4, 4, layout=s.layout, device=d),
    "zeros": lambda s, d: torch.zeros(4, 4, layout=s.layout, device=d),
    "empty_like": lambda s, d: torch.empty_like(s, device=d),
    "zeros_like": lambda s, d: torch.zeros_like(s, device=d),
    "zeros_like by its layout": lambda s, d: torch.zeros_like(
        torch.eye(4, device=d), layout=s.layout
    ),
    "new_zeros": lambda s, d: s.new_zeros((4, 4), device=d),
    "into a tensor": lambda s, d: torch.empty(4, 4, device=d).copy_(s),
    "a module's buffer": lambda s, d: nn.Buffer(s).to(d),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_sparse_tensors_are_refused_where_they_are_made(machine, device, layout):
    on_cpu = sparse(torch.eye(4), layout)
    for name, make in SPARSE.items():
        error = raised(lambda make=make: make(on_cpu, device))
        assert isinstance(error, NotImplementedError), (name, error)
        assert "to_dense" in str(error), (name, error)
    assert raised(machine.synchronize) is None


# ---------------------------------------------------------------- padded inference


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_transformer_encoder_takes_padded_input(device, norm_first, mode):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).eval()
    x = torch.randn(3, 5, 8)
    padding = torch.arange(5).expand(3, 5) >= tensor([[5], [3], [1]])
    with mode():
        nested = model(x, src_key_padding_mask=padding)
        model.use_nested_tensor = False
        expected = model(x, src_key_padding_mask=padding)
        model.use_nested_tensor = not norm_first
        got = model.to(device)(x.to(device), src_key_padding_mask=padding.to(device)).cpu()
    assert torch.equal(got, expected)
    torch.testing.assert_close(got[~padding], nested[~padding])


def test_an_error_at_the_end_of_a_profile_ends_the_program_as_any_error(run_program):
    """The profiler synchronizes before it stops. If that raises an error, PyTorch leaves the profiler running."""
    result = run_program(
        """
        from torch.profiler import profile
        with profile():
            y = torch.ones(3, device=device)[torch.tensor([7], device=device)]
        machine.synchronize()  # torch 2.6 does not synchronize at the profile's end
        """,
        check=False,
    )
    assert result.returncode == 1, (result.returncode, result.stderr)
    assert "IndexError in aten::index" in result.stderr


def test_exceptions_are_those_of_the_table_of_errors():
    own = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and name.endswith("Exception")
    }
    assert own == {*errors_pb2.ErrorKind.keys()} - {"IllegalArgumentException"}
    for kind in errors_pb2.ErrorKind.DESCRIPTOR.values:
        options = kind.GetOptions()
        if options.HasExtension(errors_pb2.base):
            base = errors_pb2.ErrorKind.Name(options.Extensions[errors_pb2.base])
            assert exceptions.BY_NAME[kind.name].__bases__ == (exceptions.BY_NAME[base],)


@pytest.mark.parametrize("error", errors_pb2.OperatorError.keys())
def test_a_failed_operation_is_an_error_of_pytorchs_class(error):
    pytorchs = {"LinAlgError": torch.linalg.LinAlgError, "OutOfMemoryError": torch.OutOfMemoryError}
    kind = exceptions.BY_NAME[f"Remote{error}"]
    assert issubclass(kind, exceptions.RemoteOperationException)
    assert issubclass(kind, pytorchs.get(error) or getattr(builtins, error))
