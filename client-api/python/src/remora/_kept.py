# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tensors that stay on a machine under a name: ``RemoteMachine.keep`` and ``kept``."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from . import exceptions, models
from ._proto import models_pb2 as pb
from ._session import Session

DEFAULT_LEASE = 86400.0
_STRUCTURE = "remora.structure"  # the metadata's entry with what is not a tensor


@dataclass(frozen=True)
class Kept:
    """What is kept under a name.

    Attributes:
        name: under which it is kept.
        kept_at: when, by the node's clock.
        lease: seconds after which it may be deleted.

    """

    name: str
    kept_at: datetime.datetime
    lease: float


def keep(session: Session, name: str, state: Any, lease: float) -> Kept:
    if not 1 <= lease < 1e10:
        raise ValueError(f"lease must be a number of seconds, 1 or more, not {lease}")
    models.require_node(session)
    tensors: dict[str, torch.Tensor] = {}
    structure = _pack(session, state, "", tensors)
    distinct, texts = models.distinct(
        session, tensors, {_STRUCTURE: json.dumps(structure, separators=(",", ":"))}
    )
    call = pb.NodeCall(
        keep=pb.Keep(
            name=name,
            lease_seconds=int(lease),
            tensors=models.descriptions(distinct),
            metadata=texts,
        )
    )
    answer, _ = models.ask(
        session, f"keeping {name}", call, tensors=[*distinct.values()], timeout=models.TIMEOUT
    )
    return _kept(answer.kept.kept[0])


def kept(session: Session, name: str, device: int) -> Any:
    found = _find(session, _checked(name))
    if not found:
        return None
    call = pb.NodeCall(load_kept=pb.LoadKept(key=found[0].key))
    answer, results = models.ask(
        session, f"getting {name}", call, device=device, timeout=models.TIMEOUT
    )
    tensors = {each.name: results[each.tensor] for each in answer.kept_loaded.tensors}
    structure = answer.kept_loaded.metadata.get(_STRUCTURE)
    if structure is None:  # kept by a Java program
        return tensors
    return _unpack(json.loads(structure), tensors)


def list_kept(session: Session) -> list[Kept]:
    return [_kept(each) for each in _find(session, "")]


def drop(session: Session, name: str) -> bool:
    models.require_node(session)
    call = pb.NodeCall(drop_kept=pb.DropKept(name=_checked(name)))
    answer, _ = models.ask(session, f"dropping {name}", call, timeout=models.TIMEOUT)
    return len(answer.kept.kept) > 0


def _find(session: Session, name: str) -> list[pb.Kept]:
    models.require_node(session)
    call = pb.NodeCall(find_kept=pb.FindKept(name=name))
    answer, _ = models.ask(session, "looking for what is kept", call, timeout=models.TIMEOUT)
    return list(answer.kept.kept)


def _checked(name: str) -> str:
    if not name:
        raise ValueError("the name of kept tensors must not be empty")
    return name


def _kept(message: pb.Kept) -> Kept:
    return Kept(
        message.name,
        datetime.datetime.fromtimestamp(
            message.kept_at_unix_millis / 1000, tz=datetime.timezone.utc
        ),
        float(message.lease_seconds),
    )


# A structure in JSON: ["t", name, 1 = on the program's CPU] a tensor, ["d", [[key, value], …]] a dict, ["l", […]] a
# list, ["u", […]] a tuple, ["v", value] what JSON itself has.


def _pack(session: Session, value: Any, path: str, tensors: dict[str, torch.Tensor]) -> list[Any]:
    if isinstance(value, torch.Tensor):
        name = path or "tensor"
        if name in tensors:
            raise ValueError(f"two tensors have the name {name!r}: rename one of the keys")
        local = value.device.type == "cpu"
        # An optimizer has its number of steps on the CPU.
        tensors[name] = value.detach().to(session.device(0)) if local else value.detach()
        return ["t", name, int(local)]
    if isinstance(value, Mapping):
        entries = []
        for key, each in value.items():
            if not isinstance(key, str | int):
                raise ValueError(
                    f"{path or 'the state'} has the key {key!r}: keys must be strings or integers"
                )
            entries.append(
                [key, _pack(session, each, f"{path}.{key}" if path else str(key), tensors)]
            )
        return ["d", entries]
    if isinstance(value, list | tuple):
        kind = "l" if isinstance(value, list) else "u"
        return [
            kind,
            [
                _pack(session, each, f"{path}.{i}" if path else str(i), tensors)
                for i, each in enumerate(value)
            ],
        ]
    if value is None or isinstance(value, str | bool | int | float):
        return ["v", value]
    raise ValueError(
        f"{path or 'the state'} is a {type(value).__name__}: only tensors, dicts, lists, tuples, strings, numbers "
        "and None can be kept"
    )


def _unpack(node: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    match node:
        case ["t", str(name), local] if name in tensors:
            return tensors[name].cpu() if local else tensors[name]
        case ["d", list(entries)]:
            return {key: _unpack(each, tensors) for key, each in entries}
        case ["l", list(items)]:
            return [_unpack(each, tensors) for each in items]
        case ["u", list(items)]:
            return tuple(_unpack(each, tensors) for each in items)
        case ["v", value]:
            return value
    raise exceptions.ModelException("what is kept has a structure that this version does not know")
