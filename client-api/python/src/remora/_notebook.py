# SPDX-License-Identifier: AGPL-3.0-or-later
"""The extension of IPython: ``%load_ext remora``, then ``%%remora`` as the first line of a cell."""

from __future__ import annotations

import ast
import shlex
import time
from typing import Any

import torch

from ._progress import format_bytes
from .exceptions import RemoraException
from .machine import RemoteMachine

_COUNTED = (
    "operations",
    "uploaded_bytes",
    "downloaded_bytes",
    "blocking_reads",
    "value_waits",
    "shape_waits",
    "metadata_waits",
)

_machines: dict[tuple[str, str | None], RemoteMachine] = {}
_last: tuple[str, str | None] = ("mock", None)


def load(shell: Any) -> None:
    """Adds the magic ``%%remora`` to a shell of IPython."""
    shell.register_magic_function(
        lambda line, cell: _run(shell, line, cell), magic_kind="cell", magic_name="remora"
    )


def _machine(line: str) -> RemoteMachine:
    """Returns the machine for a line ``[provider [gpu_type]]``: that of the last cell, or a new one."""
    global _last
    words = shlex.split(line)
    if len(words) > 2:
        raise ValueError(f"%%remora takes a provider and a kind of GPU, not {line!r}")
    key = (words[0], words[1] if len(words) > 1 else None) if words else _last
    machine = _machines.get(key)
    if machine is None or not _is_usable(machine):
        machine = RemoteMachine(key[0], key[1]).start()
        _machines[key] = machine
    _last = key
    return machine


def _is_usable(machine: RemoteMachine) -> bool:
    try:
        return machine.state not in ("STOPPED", "FAILED")
    except RemoraException:  # its gateway is gone
        return False


def _run(shell: Any, line: str, cell: str) -> Any:
    """Runs a cell whose new tensors are on a machine, and prints what that took."""
    machine = _machine(line)
    before = machine.stats()
    begin = time.monotonic()
    with torch.device(machine.device()):
        value = _execute(shell, cell)
    machine.synchronize()
    seconds = time.monotonic() - begin
    after = machine.stats()
    took = {name: int(after.get(name, 0) - before.get(name, 0)) for name in _COUNTED}
    print(
        f"{machine.name}: {seconds:.2f} s, {took['operations']} operations, "
        f"{format_bytes(took['uploaded_bytes'])} up, {format_bytes(took['downloaded_bytes'])} down, "
        f"{took['blocking_reads']} waits ({took['value_waits']} for values, {took['shape_waits']} for shapes, "
        f"{took['metadata_waits']} for metadata)"
    )
    return value


def _execute(shell: Any, cell: str) -> Any:
    """Executes a cell in the user's namespace. Returns the value of its last line, if that is an expression."""
    code = shell.transform_cell(cell)
    name = shell.compile.cache(code, shell.execution_count)  # so that a traceback shows its lines
    tree = ast.parse(code, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), shell.user_ns)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), name, "eval"), shell.user_ns)
