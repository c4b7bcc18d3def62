# SPDX-License-Identifier: AGPL-3.0-or-later
"""Settings from environment variables, read when a machine is opened."""

from __future__ import annotations

import os
from dataclasses import dataclass


def _number(name: str, default: float) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value <= 0:
        raise ValueError(f"{name} must be a positive number, not {text!r}")
    return value


def switch(name: str, default: bool = False) -> bool:
    """Returns whether a variable is on."""
    text = os.environ.get(name, "").strip().lower()
    if text not in ("", "0", "1", "on", "off", "true", "false"):
        raise ValueError(f"{name} must be 1 or 0, not {text!r}")
    return text in ("1", "on", "true") if text else default


@dataclass(frozen=True)
class Settings:
    """Limits of a session."""

    # A batch of recorded operations is sent when it reaches this many bytes: REMORA_BATCH_BYTES.
    batch_bytes: int
    # Recorded operations are sent to an idle node after this many microseconds: REMORA_FLUSH_MICROS.
    flush_micros: int
    # Recording blocks while more bytes than this are sent but not executed: REMORA_MAX_IN_FLIGHT_BYTES.
    max_in_flight_bytes: int
    # A read fails if the node finishes nothing for this long: REMORA_READ_TIMEOUT.
    read_timeout_seconds: float
    # A broken connection is retried for this long: REMORA_RECONNECT_TIMEOUT.
    reconnect_seconds: float
    # A silent gateway is pinged at this interval; after three silent intervals the connection counts as
    # broken: REMORA_PING_INTERVAL.
    ping_seconds: float
    # The time limit of a call to the gateway that does not provision a machine: REMORA_CALL_TIMEOUT.
    call_seconds: float
    # The time within which a gateway that this program starts must be ready: REMORA_GATEWAY_START_TIMEOUT.
    gateway_start_seconds: float
    # At the program's end, the time in which recorded operations may still be executed:
    # REMORA_EXIT_TIMEOUT.
    exit_seconds: float
    # Errors of operations name the program's line; this costs microseconds per operation:
    # REMORA_CALL_SITES.
    call_sites: bool
    # Each operation is logged at DEBUG by the logger remora.operations: REMORA_LOG_OPERATIONS.
    log_operations: bool
    # The file for a timeline of each machine, from its start to its stop; "" for none: REMORA_TRACE.
    trace: str
    # Batches and values go straight to a node on this computer, not through the gateway: REMORA_DIRECT.
    direct: bool

    @staticmethod
    def from_environment() -> Settings:
        """Returns the settings from the current environment."""
        return Settings(
            batch_bytes=int(_number("REMORA_BATCH_BYTES", 64 * 1024)),
            flush_micros=int(_number("REMORA_FLUSH_MICROS", 200)),
            max_in_flight_bytes=int(_number("REMORA_MAX_IN_FLIGHT_BYTES", 64 * 1024 * 1024)),
            read_timeout_seconds=_number("REMORA_READ_TIMEOUT", 600),
            reconnect_seconds=_number("REMORA_RECONNECT_TIMEOUT", 30),
            ping_seconds=_number("REMORA_PING_INTERVAL", 10),
            call_seconds=_number("REMORA_CALL_TIMEOUT", 30),
            gateway_start_seconds=_number("REMORA_GATEWAY_START_TIMEOUT", 60),
            exit_seconds=_number("REMORA_EXIT_TIMEOUT", 5),
            call_sites=switch("REMORA_CALL_SITES"),
            log_operations=switch("REMORA_LOG_OPERATIONS"),
            trace=os.environ.get("REMORA_TRACE", ""),
            direct=switch("REMORA_DIRECT", default=True),
        )
