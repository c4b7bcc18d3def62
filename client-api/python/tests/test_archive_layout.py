# SPDX-License-Identifier: AGPL-3.0-or-later
"""The layout of libtorch's OutputArchive, on which Archive.java of the module training relies."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not torch.__version__.startswith("2.10."), reason="bytedeco's libtorch is 2.10"
    ),
    pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler"),
]

TORCH = Path(torch.__file__).parent
SOURCE = Path(__file__).parents[3] / "training/src/test/cpp/archive_layout.cpp"


def test_the_module_of_an_archive_follows_its_compilation_unit(tmp_path):
    program = tmp_path / "layout"
    headers = f"-I{TORCH}/include -I{TORCH}/include/torch/csrc/api/include"
    libraries = f"-L{TORCH}/lib -Wl,-rpath,{TORCH}/lib -lc10 -ltorch_cpu"
    subprocess.run(
        f"c++ -std=c++17 -w {headers} {SOURCE} -o {program} {libraries}".split(),
        check=True,
        timeout=600,
    )
    printed = subprocess.run(
        [program], check=True, timeout=60, capture_output=True, text=True
    ).stdout
    layout = re.fullmatch(
        r"archive (\d+)\nunit at (\d+) of (\d+)\nmodule at (\d+) of (\d+)\n", printed
    )
    assert layout, printed
    archive, unit, unit_bytes, module, module_bytes = map(int, layout.groups())
    assert (unit, unit_bytes, module) == (0, 16, 16)
    assert archive == unit_bytes + module_bytes
