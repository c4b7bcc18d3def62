# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes the files next to this script: python make-fixtures.py, with torch 2.10.0 and safetensors 0.8.0."""

import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

DTYPES = """bool uint8 int8 float8_e5m2 float8_e4m3fn float8_e8m0fnu float8_e4m3fnuz float8_e5m2fnuz float4_e2m1fn_x2
int16 uint16 float16 bfloat16 int32 uint32 float32 complex64 float64 int64 uint64""".split()


def sixteen_bytes(name: str) -> torch.Tensor:
    return torch.ones(16, dtype=torch.uint8).view(getattr(torch, name))


save_file({f"t.{name}": sixteen_bytes(name) for name in DTYPES}, "dtypes.safetensors", metadata={"format": "pt"})

weight = torch.arange(6, dtype=torch.float32).reshape(2, 3)
attributed = torch.nn.Parameter(torch.ones(2))
attributed.note = "an attribute"
module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
torch.save(
    {
        "state_dict": module.state_dict(),
        "weight": weight,
        "tied": weight,
        "transposed": weight.t(),
        "row": weight[1],
        "expanded": torch.zeros(1).expand(4, 5),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "attributed": attributed,
        "scalar": torch.tensor(7, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
        "uint16": torch.ones(2, dtype=torch.uint16),
        "float8": torch.ones(2).to(torch.float8_e4m3fn),
        "complex": torch.ones(2, dtype=torch.complex64),
        "list": [torch.zeros(1), (torch.ones(1, dtype=torch.bool), 5)],
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}},
        "plain": [1, 2**40, 2**100, -1, 0.5, "text", None, True, b"bytes", {1}, 1 + 2j],
        "more": [torch.float16, torch.Size([1, 2]), torch.device("cpu"), OrderedDict(a=1)],
    },
    "checkpoint.pt",
)
torch.save({"function": print}, "function.pt")

# The format before PyTorch 1.6.
torch.save(
    {
        "weight": weight,
        "transposed": weight.t(),
        "row": weight[1],
        "parameter": torch.nn.Parameter(torch.full((2,), 7.0)),
        "uint16": torch.full((2,), 9, dtype=torch.uint16),
        "empty": torch.zeros(0, 3),
        "list": [torch.ones(1, dtype=torch.bool), "text", 2**100],
    },
    "legacy.pt",
    _use_new_zipfile_serialization=False,
)
for protocol in 3, 4, 5:
    values = {"weight": weight, "plain": [b"bytes", {1}, frozenset({2}), 2**40, 2**2100, bytearray(b"x"), "y" * 300]}
    for name, is_zip in ("legacy", False), ("archive", True):
        file = f"{name}-protocol{protocol}.pt"
        torch.save(values, file, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)

numbers = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
torch.save({"conjugated": numbers.conj(), "negated": numbers.clone().conj().imag}, "conjugated.pt")
torch.save({"weight": torch.eye(2).to_sparse()}, "sparse.pt")
torch.save({"weight": torch.eye(2).to_sparse_csr()}, "sparse-csr.pt")
torch.save({"weight": torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8)}, "quantized.pt")


def pack(name: str, values: dict[str, torch.Tensor], compression: int, big_endian: bool = False) -> None:
    """Writes an archive as a machine of the other byte order does, or as a zip program packs it again."""
    torch.save(values, "packed.pt")
    with zipfile.ZipFile("packed.pt") as saved, zipfile.ZipFile(name, "w", compression) as packed:
        storages = [value.untyped_storage().clone() for value in values.values()]
        for entry in saved.namelist():
            content = saved.read(entry)
            if big_endian and entry.endswith("byteorder"):
                content = b"big"
            elif big_endian and "/data/" in entry:
                number = int(entry.rsplit("/", 1)[1])
                storages[number].byteswap(list(values.values())[number].dtype)
                content = bytes(storages[number].tolist())
            packed.writestr(entry, content)
    Path("packed.pt").unlink()
    loaded = torch.load(name)
    assert all(torch.equal(loaded[key], value) for key, value in values.items())


packed = {
    "float32": torch.arange(40_000, dtype=torch.float32) % 7,
    "int16": torch.arange(3, dtype=torch.int16),
    "complex": torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64),
    "int64": torch.tensor([-2, 2**40]),
    "bool": torch.tensor([True, False, True]),
}
pack("compressed.pt", packed, zipfile.ZIP_DEFLATED)
packed["float32"] = packed["float32"][:3].clone()
pack("big-endian.pt", packed, zipfile.ZIP_STORED, big_endian=True)
