# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes the files beside it: python make-fixtures.py, with torch 2.10.0 and safetensors 0.8.0."""

from collections import OrderedDict

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
torch.save({"weight": weight}, "legacy.pt", _use_new_zipfile_serialization=False)
torch.save({"function": print}, "function.pt")
torch.save({"weight": torch.zeros(2, dtype=torch.complex64).conj()}, "conjugated.pt")
