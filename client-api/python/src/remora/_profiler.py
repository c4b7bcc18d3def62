# SPDX-License-Identifier: AGPL-3.0-or-later
"""torch.profiler: its profiles show when machines' nodes have executed operations.

The core hands the times to Kineto, PyTorch's collector. Here is what a profile does in Python: at its end it waits
for the times that are still on their way, and it tells what it lacks.
"""

from __future__ import annotations

import sys
import threading
import warnings
from typing import Any

import torch
from torch._C._profiler import ProfilerActivity, ProfilerState
from torch.autograd import profiler as _torch_profiler

from . import _call_sites
from ._native import core

_LONGEST_WAIT = 10.0
_DEVICE = "remora"
_FALLBACK = ProfilerState.KINETO_PRIVATEUSE1_FALLBACK
_ending = threading.local()


def is_ending() -> bool:
    """Whether the calling thread ends a profile, which then must not fail for what an operation did."""
    return getattr(_ending, "now", False)


def _warn(text: str) -> None:
    """Warns at the program's line."""
    frame = sys._getframe(1)
    level = 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_call_sites.OURS):
        frame = frame.f_back
        level += 1
    warnings.warn(text, stacklevel=level)


def install() -> None:
    """Makes profiles with ``ProfilerActivity.PrivateUse1``, or of the device ``remora``, cover machines."""
    if core.profiler_register():
        _cover_machines()
    else:
        _refuse_machines()


def _cover_machines() -> None:
    profile: Any = _torch_profiler.profile
    prepare, leave = profile._prepare_trace, profile.__exit__

    def prepare_trace(self: Any) -> None:
        if self.use_device == _DEVICE and self.profiler_kind == _FALLBACK:
            # Without use_kineto, PyTorch would ask the device for a time after each operation.
            self.profiler_kind = getattr(ProfilerState, "KINETO_PRIVATEUSE1", ProfilerState.KINETO)
            self.kineto_activities.add(ProfilerActivity.PrivateUse1)
        prepare(self)

    def leave_profile(self: Any, *exception: Any) -> Any:
        if not self.enabled or self.use_device != _DEVICE:
            return leave(self, *exception)
        lacks = core.profiler_settle(int(_LONGEST_WAIT * 1000)).decode(errors="replace")
        _ending.now = True  # PyTorch calls torch.remora.synchronize()
        try:
            result = leave(self, *exception)
        finally:
            _ending.now = False
        for line in lacks.splitlines():
            _warn(f"The profile is not complete: {line}.")
        return result

    profile._prepare_trace = prepare_trace
    profile.__exit__ = leave_profile


def _refuse_machines() -> None:
    profile: Any = _torch_profiler.profile
    prepare = profile._prepare_trace

    def prepare_trace(self: Any) -> None:
        if self.use_device == _DEVICE:
            self.use_device = None
            self.profiler_kind = ProfilerState.KINETO
            self.kineto_activities = {ProfilerActivity.CPU}
            if core.open_devices() > 0:
                _warn(
                    f"Remora cannot add times of machines to profiles of torch {torch.__version__}, whose wheel "
                    "lacks headers for it. This profile shows the CPU alone; machine.trace(file) writes a "
                    "timeline with the times of the machine."
                )
        prepare(self)

    profile._prepare_trace = prepare_trace
