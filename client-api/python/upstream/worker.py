# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs tests of one of PyTorch's test files in this process; reports each test's start and end as lines of JSON.

The runner starts a worker, and another one if it ends early: ``worker.py FILE DEVICE MACHINE REPORT_FD TODO``.
DEVICE is ``remora`` or ``cpu``, MACHINE ``local`` or ``gateway``, TODO a file with the tests to run, or ``-`` for all.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.util
import json
import os
import re
import sys
import time
import traceback
import unittest
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

MESSAGE_LIMIT = 8000  # the last characters of a failure's message are kept


class Outcome(unittest.TestResult):
    """Collects the outcome of one test."""

    def __init__(self) -> None:
        super().__init__()
        self.outcome, self.message = "passed", ""

    def _note(self, outcome: str, message: str) -> None:
        if self.outcome != "failed":
            self.outcome, self.message = outcome, message

    def _failed(self, error: Any) -> None:
        self._note("failed", "".join(traceback.format_exception(*error))[-MESSAGE_LIMIT:])

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802, D102
        self._failed(err)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802, D102
        self._failed(err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802, D102
        if err is not None:
            self._failed(err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802, D102
        self._note("skipped", reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802, D102
        self._note("expected failure", "")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802, D102
        self._note("failed", "unexpected success")


def open_device(device: str, machine: str) -> Callable[[], str]:
    """Makes `device` the only one of `torch.testing`; returns a function that tells why the device is lost."""
    import torch

    if device == "remora":
        import remora

        if machine == "local":
            remora.disable_remote_execution()
        opened = remora.RemoteMachine("mock", gpu_count=2).start()

    from torch.testing._internal import common_device_type as generic

    class Base(generic.DeviceTypeTestBase):
        device_type = device

        @classmethod
        def get_primary_device(cls) -> str:
            return device if device == "cpu" else f"{device}:0"

        @classmethod
        def get_all_devices(cls) -> list[str]:
            return ["cpu"] if device == "cpu" else [f"{device}:{n}" for n in range(2)]

        def _should_stop_test_suite(self) -> bool:
            return False

    generic.device_type_test_bases[:] = [Base]

    def lost() -> str:
        if device == "cpu":
            return ""
        try:
            with contextlib.suppress(remora.RemoteOperationException):  # a test's own failures
                opened.synchronize()
            torch.ones(1, device=f"{device}:0").item()
        except Exception as e:
            return f"{type(e).__name__}: {e}"
        return ""

    return lost


def restore_helpers() -> None:
    """Restores helpers in `torch.testing` that the test files import and later versions have renamed or dropped."""
    from torch.testing._internal import common_cuda, common_mkldnn, common_nn

    def unchanged(*_: Any, **__: Any) -> Any:
        return lambda test: test

    for module, name, helper in (
        (common_cuda, "tf32_is_not_fp32", lambda: False),
        (common_mkldnn, "bf32_on_and_off", unchanged),
        (common_nn, "new_module_tests", []),
    ):
        if not hasattr(module, name):
            setattr(module, name, helper)


def load(file: Path) -> ModuleType:
    """Loads the test file as a module, as if it had been started as a program."""
    for folder in (file.parent, file.parent.parent):
        sys.path.insert(0, str(folder))
    sys.argv = [str(file)]
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def classes_of(module: ModuleType, device: str) -> dict[str, type[unittest.TestCase]]:
    """Returns the classes that PyTorch has made for the device, by their names without the device."""
    from torch.testing._internal.common_device_type import DeviceTypeTestBase

    suffix = device.upper()
    return {
        name.removesuffix(suffix): value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, DeviceTypeTestBase)
        and name.endswith(suffix)
    }


def run(report: TextIO, file: Path, device: str, machine: str, todo: str) -> int:
    """Runs the tests; returns 3 if the machine was lost."""

    def tell(**line: Any) -> None:
        print(json.dumps(line), file=report, flush=True)

    lost = open_device(device, machine)
    restore_helpers()
    classes = classes_of(load(file), device)
    # Names contain the device; in the report they are the same for all devices.
    of_device = re.compile(rf"_{device}(?=_|$)(?!.*_{device}(_|$))")
    names = {
        f"{label}::{of_device.sub('_DEVICE', test)}": (case, test)
        for label, case in classes.items()
        for test in unittest.TestLoader().getTestCaseNames(case)
    }
    wanted = list(names) if todo == "-" else json.loads(Path(todo).read_text())
    tell(all=wanted)
    case: type[unittest.TestCase] | None = None
    for name in wanted:
        tell(start=name)
        begin = time.monotonic()
        result = Outcome()
        if name not in names:
            result._note("skipped", "there is no such test for this device")
        else:
            if case is not names[name][0]:
                if case is not None:
                    case.tearDownClass()
                case = names[name][0]
                case.setUpClass()
            case(names[name][1]).run(result)
        why = lost()
        took = round(time.monotonic() - begin, 3)
        if why:
            tell(end=name, outcome="lost", message=f"{why}\n{result.message}", seconds=took)
            return 3
        tell(end=name, outcome=result.outcome, message=result.message, seconds=took)
    return 0


if __name__ == "__main__":
    faulthandler.enable()
    _, file_, device_, machine_, fd, todo_ = sys.argv
    with os.fdopen(int(fd), "w") as report_:
        status = run(report_, Path(file_), device_, machine_, todo_)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # tests leave threads and processes behind
