# SPDX-License-Identifier: AGPL-3.0-or-later
"""Changes to libraries, including newer parts of PyTorch, that check devices against fixed lists.

A library is changed when the program imports it, or at once if it is imported already. Remora itself
imports none of them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch

from . import _torch_module, exceptions

log = logging.getLogger("remora")

Change = Callable[[Any], None]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds no modules itself: it changes modules that other finders find, after they are loaded."""

    def __init__(self, changes: dict[str, Change]) -> None:
        self._changes = changes
        self._finding: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._changes or fullname in self._finding:
            return None
        self._finding.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._finding.discard(fullname)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            load = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _apply(self._changes[fullname], module)

            loader.exec_module = exec_module
        return spec


def _apply(change: Change, module: ModuleType) -> None:
    try:
        change(module)
    except (AttributeError, KeyError) as e:
        log.debug(
            "This version of %s cannot be changed to support remora devices: %r", module.__name__, e
        )


def install() -> None:
    """Changes the libraries."""
    for name, change in _CHANGES.items():
        if name in sys.modules:
            _apply(change, sys.modules[name])
    sys.meta_path.insert(0, _Finder(_CHANGES))


def _is_remora(device: Any) -> bool:
    return str(device).partition(":")[0] == "remora"


# ---------------------------------------------------------------- PyTorch


def _flex_attention(module: Any) -> None:
    """Skips the device check: the unfused form works on every device."""
    validate = module._validate_device

    def _validate_device(query: torch.Tensor, *others: torch.Tensor) -> None:
        if query.device.type != "remora":
            validate(query, *others)

    module._validate_device = _validate_device


def _checkpoint_within_compile(module: Any) -> None:
    """Lets checkpointing restore the device's random generators when it reruns random operators."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, track_tensor_tree
    from torch.utils._pytree import tree_map

    def device_of(*arguments: Any) -> torch.device | None:
        found: list[torch.device] = []

        def look(value: Any) -> Any:
            device = value.device if isinstance(value, torch.Tensor) else value
            if isinstance(device, torch.device) and device.type == "remora":
                found.append(device)
            return value

        tree_map(look, arguments)
        return found[0] if found else None

    def unknown_state() -> torch.Tensor:
        return torch.empty_like(torch.get_rng_state())  # only while tracing, where nothing reads it

    def replace(operator: Any, key: Any, make: Callable[[Any], Any]) -> None:
        table = operator.py_kernels if key in operator.py_kernels else operator.python_key_table
        table[key] = make(table[key])

    def save(other: Any) -> Any:
        def backend_select(op: Any, *args: Any, **kwargs: Any) -> Any:
            device = device_of(args, kwargs)
            if device is None:
                return other(op, *args, **kwargs)
            return _torch_module.get_rng_state(device), op(*args, **kwargs)

        return backend_select

    def save_fake(other: Any) -> Any:
        def fake(mode: Any, op: Any, *args: Any, **kwargs: Any) -> Any:
            if device_of(args, kwargs) is None:
                return other(mode, op, *args, **kwargs)
            with mode:
                return unknown_state(), op(*args, **kwargs)

        return fake

    def save_traced(other: Any) -> Any:
        def traced(mode: Any, op: Any, *args: Any, **kwargs: Any) -> Any:
            if device_of(args, kwargs) is None:
                return other(mode, op, *args, **kwargs)
            out = unknown_state(), op(*args, **kwargs)
            proxies = tree_map(mode.tracer.unwrap_proxy, ((op, *args), kwargs))
            call = mode.tracer.create_proxy(
                "call_function", module.run_and_save_rng_state, *proxies
            )
            return track_tensor_tree(out, call, constant=None, tracer=mode.tracer)

        return traced

    def restore(other: Any) -> Any:
        def backend_select(state: Any, op: Any, *args: Any, **kwargs: Any) -> Any:
            device = device_of(args, kwargs)
            if device is None:
                return other(state, op, *args, **kwargs)
            now = _torch_module.get_rng_state(device)
            _torch_module.set_rng_state(state, device)
            try:
                return op(*args, **kwargs)
            finally:
                _torch_module.set_rng_state(now, device)

        return backend_select

    backend = torch._C.DispatchKey.BackendSelect
    replace(module.run_and_save_rng_state, backend, save)
    replace(module.run_and_save_rng_state, FakeTensorMode, save_fake)
    replace(module.run_and_save_rng_state, ProxyTorchDispatchMode, save_traced)
    replace(module.run_with_rng_state, backend, restore)


def _jagged_attention(module: Any) -> None:
    """Computes one sequence after the other, because the fused kernels support only other devices."""
    original = module.jagged_scaled_dot_product_attention

    def jagged_scaled_dot_product_attention(
        query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
    ) -> Any:
        ragged = [getattr(each, "_ragged_idx", 0) for each in (query, key, value)]
        if query.device.type != "remora" or ragged != [2, 2, 2]:
            return original(query, key, value, *args, **kwargs)
        attn_mask = args[0] if args else kwargs.get("attn_mask")
        if attn_mask is not None or any(each.lengths() is not None for each in (query, key, value)):
            raise exceptions.RemoraException(
                "attention of jagged tensors on a remora device supports neither attn_mask nor tensors with holes: pad "
                "them with torch.nested.to_padded_tensor, or leave out the mask"
            )
        sequences = zip(
            *(each.transpose(1, 2).unbind() for each in (query, key, value)), strict=True
        )
        attend = torch.nn.functional.scaled_dot_product_attention
        results = [
            attend(*(each.transpose(0, 1) for each in one), *args, **kwargs) for one in sequences
        ]
        values = torch.cat([each.transpose(0, 1) for each in results])
        return torch.nested.nested_tensor_from_jagged(values, query.offsets()).transpose(1, 2)

    module.jagged_scaled_dot_product_attention = jagged_scaled_dot_product_attention


# ---------------------------------------------------------------- others


def _safetensors(module: Any) -> None:
    """Reads files in this process and moves their tensors."""
    load = module.load_file

    def load_file(filename: Any, device: Any = "cpu", **more: Any) -> dict[str, torch.Tensor]:
        if not _is_remora(device):
            return load(filename, device=device, **more)  # type: ignore[no-any-return]
        return {name: each.to(device) for name, each in load(filename, **more).items()}

    module.load_file = load_file


def _warn_if_taken_away(model: Any, device: Any, library: str) -> None:
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) else None
    if first is not None and first.device.type == "remora" and not _is_remora(device):
        log.warning(
            "%s moves a model from %s to %s and trains it there: to keep it, set the environment variable "
            "ACCELERATE_TORCH_DEVICE=%s before its first use",
            library,
            first.device,
            device,
            first.device,
        )


def _accelerate(module: Any) -> None:
    prepare = module.Accelerator.prepare_model

    def prepare_model(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        if self.device_placement:
            _warn_if_taken_away(model, self.device, "accelerate")
        return prepare(self, model, *args, **kwargs)

    module.Accelerator.prepare_model = prepare_model


def _trainer(module: Any) -> None:
    move = module.Trainer._move_model_to_device

    def _move_model_to_device(self: Any, model: Any, device: Any) -> Any:
        _warn_if_taken_away(model, device, "transformers' Trainer")
        return move(self, model, device)

    module.Trainer._move_model_to_device = _move_model_to_device


_CHANGES: dict[str, Change] = {
    "torch._prims.rng_prims": _checkpoint_within_compile,
    "torch.nested._internal.ops": _jagged_attention,
    "torch.nn.attention.flex_attention": _flex_attention,
    "safetensors.torch": _safetensors,
    "accelerate.accelerator": _accelerate,
    "transformers.trainer": _trainer,
}
