# SPDX-License-Identifier: AGPL-3.0-or-later
"""Lightning's Trainer on a remote device; needs the package ``lightning`` or ``pytorch-lightning``.

::

    from remora.lightning import RemoraAccelerator, RemoraStrategy

    with remora.RemoteMachine("mock") as machine:
        trainer = lightning.Trainer(strategy=RemoraStrategy(machine.device()), max_epochs=3)
"""

from __future__ import annotations

from typing import Any

import torch

from . import _torch_module

try:
    from lightning.pytorch.accelerators import Accelerator
    from lightning.pytorch.strategies import SingleDeviceStrategy
except ModuleNotFoundError:
    from pytorch_lightning.accelerators import Accelerator
    from pytorch_lightning.strategies import SingleDeviceStrategy

__all__ = ["RemoraAccelerator", "RemoraStrategy"]


class RemoraAccelerator(Accelerator):  # type: ignore[misc]
    """Lightning's interface to a kind of device; :class:`RemoraStrategy` uses it."""

    _previous: int | None = None  # the current device before the training

    def setup_device(self, device: torch.device) -> None:
        """Makes the device the current one.

        Raises:
            MachineStateException: no machine is open there.
            ValueError: the device is not remote. Lightning chooses the CPU if it gets only the accelerator.

        """
        if device.type != "remora":
            raise ValueError(
                f"Lightning would train on {device}: pass Trainer(strategy=RemoraStrategy(machine.device())) "
                "instead of accelerator=…"
            )
        if self._previous is None:
            self._previous = _torch_module.current_device()
        _torch_module.set_device(device)

    def teardown(self) -> None:
        """Restores the device that was current before the training; the machine stays open."""
        if self._previous is not None:
            torch.accelerator.set_device_index(self._previous)
            self._previous = None

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        """Returns the device's memory figures, in bytes; waits for the machine."""
        return dict(_torch_module.memory_stats(device))

    @staticmethod
    def parse_devices(devices: Any) -> list[int]:
        """Returns the index of the current device: the strategy decides which device is used."""
        return [_torch_module.current_device()]

    @staticmethod
    def get_parallel_devices(devices: list[int]) -> list[torch.device]:
        """Returns the devices of these indices."""
        return [torch.device("remora", each) for each in devices]

    @staticmethod
    def auto_device_count() -> int:
        """Returns 1: each Trainer trains on one device."""
        return 1

    @staticmethod
    def is_available() -> bool:
        """Whether a machine is open in this process."""
        return bool(_torch_module.is_available())

    @staticmethod
    def name() -> str:
        """``"remora"``."""
        return "remora"


class RemoraStrategy(SingleDeviceStrategy):  # type: ignore[misc]
    """Trains on one remote device. ``Trainer(strategy=…)`` needs no ``accelerator=`` with it."""

    def __init__(self, device: torch.device | str, **more: Any) -> None:
        """Makes a strategy for a device, such as ``machine.device()``; `more` goes to ``SingleDeviceStrategy``."""
        super().__init__(device=torch.device(device), accelerator=RemoraAccelerator(), **more)
