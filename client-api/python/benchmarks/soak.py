# SPDX-License-Identifier: AGPL-3.0-or-later
"""Uses one session for a long time, and detects figures that grow.

    python benchmarks/soak.py [--minutes M] [--csv FILE] [--plot FILE.svg] [--seed N]

Several kinds of work alternate: training with changing shapes, events, generators, functions, models that the node
loads and saves, transfers, failing operations, and pauses. Once a minute, everything that the rounds have made is
dropped and the figures are measured: those of the processes (program, gateway, node, the node's worker), and what
each process keeps for the session. At the end, every figure must be within its tolerance of its value after the first
minute. Otherwise a table shows the grown figures, and the exit status is 1.

A pause ends the node, so the next node is new. Pauses therefore stop at half time, and the node's figures are
compared with the same node's first minute.
"""

from __future__ import annotations

import argparse
import csv
import gc
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import remora

MIB = 1024 * 1024
# A process's figures, with the increase over the first minute that is tolerated. Allocators' caches and code that is
# compiled later take memory too; a heap is measured after a collection.
TOLERANCES: dict[str, Callable[[float], float]] = {
    "rss": lambda first: max(64 * MIB, 0.15 * first),
    "heap": lambda first: max(8 * MIB, 0.1 * first),
    "threads": lambda first: 4,
    "files": lambda first: 8,
}
# Figures of `machine.stats()` for what is kept at the moment; they have no tolerance.
KEPT = (
    "storages",
    "events",
    "generators",
    "answers.kept",
    "sessions",
    "machine.storages",
    "storages.realized",
    "storages.lazy",
    "storages.offloaded",
    "storage.actors",
    "storage.bytes",
    "batches.waiting",
    "batches.waiting.bytes",
    "batches.in.flight",
    "in.flight.bytes",
    "unreceived.bytes",
)


class Soak:
    """The kinds of work, on one machine."""

    def __init__(self, machine: remora.RemoteMachine, folder: Path, seed: int) -> None:
        self.machine, self.device, self.folder = machine, machine.device(), folder
        self.random = random.Random(seed)
        self.batch = 0
        # These live as long as the session.
        self.model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4)).to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)

    def train(self) -> None:
        """Trains a new model with new shapes, and the long-lived model for some steps."""
        width = self.random.randrange(8, 72, 8)
        rows = self.random.randrange(4, 36, 4)
        model = nn.Sequential(nn.Linear(32, width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, 4))
        model.to(self.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for one, its in ((model, optimizer), (self.model, self.optimizer)):
            for _ in range(20):
                x = torch.randn(rows, 32, device=self.device)
                y = torch.randint(0, 4, (rows,)).to(self.device)
                loss = nn.functional.cross_entropy(one(x), y)
                its.zero_grad()
                loss.backward()
                its.step()
            check(loss.isfinite().item(), "a loss is not finite")

    def events(self) -> None:
        """Records events, waits for them, and drops them."""
        previous = None
        for _ in range(500):
            event = torch.Event(self.device, enable_timing=True)
            event.record()
            if previous is not None:
                event.synchronize()
                check(previous.elapsed_time(event) >= 0, "time ran backwards")
            previous = event if self.random.random() < 0.02 else None

    def generators(self) -> None:
        """Draws once from each of several generators, and drops them."""
        for seed in range(200):
            generator = torch.Generator(self.device).manual_seed(seed)
            value = torch.rand(3, device=self.device, generator=generator)
        check(value.max().item() < 1, "a number of rand is 1")

    def functions(self) -> None:
        """Runs functions on the node: one that writes and returns, one that raises."""
        x = torch.ones(self.random.randrange(1, 64), 8, device=self.device)
        result = add_and_sum(x, 2.0)
        check(result["sum"].item() == x.sum().item(), "a function has computed another value")
        try:
            raise_it(x)
        except KeyError:
            return
        raise AssertionError("a function's error was lost")

    def models(self) -> None:
        """Saves a model on the node, loads it there, and drops it."""
        path = self.folder / f"model-{self.random.randrange(4)}.safetensors"
        weights = {"a": torch.randn(64, self.random.randrange(1, 256), device=self.device)}
        self.machine.save(weights, path, where="node")
        loaded = remora.load_huggingface_state_dicts(path, self.device)[""]
        check(
            torch.equal(loaded["a"], weights["a"]),
            "a model has changed when it was saved and loaded",
        )

    def transfers(self) -> None:
        """Uploads and downloads values, some of them large."""
        for size in (10, 100_000, self.random.randrange(1, 4_000_000)):
            x = torch.arange(size)
            check(
                torch.equal(x.to(self.device).cpu(), x),
                "a value has changed when it was transferred",
            )

    def failures(self) -> None:
        """Runs operations that fail on the node."""
        x = torch.ones(4, device=self.device)
        index = torch.tensor([self.random.randrange(4, 9)], device=self.device)
        try:
            (x[index] + 1).cpu()
        except (remora.RemoteOperationException, IndexError):
            return
        raise AssertionError("an index out of range was accepted")

    def pause(self) -> None:
        """Pauses the machine; the next operation starts another node."""
        weight = next(self.model.parameters())
        before = weight.cpu()
        self.machine.pause()
        check(torch.equal(weight.cpu(), before), "a pause has changed a weight")


@remora.remote
def add_and_sum(x: torch.Tensor, more: float) -> dict[str, torch.Tensor]:
    """Writes in place and returns new tensors."""
    x += more
    return {"sum": x.sum()}


@remora.remote
def raise_it(x: torch.Tensor) -> None:
    """Raises."""
    raise KeyError(x.shape)


def check(right: object, wrong: str) -> None:
    """Ends the run if a result is wrong."""
    if not right:
        raise AssertionError(wrong)


# ---------------------------------------------------------------- measurements


def children() -> dict[str, int]:
    """Returns the processes of the run, including this one, by their role."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = {"program": os.getpid()}
    above = [os.getpid()]
    for what, of in (("gateway", "java"), ("node", "java"), ("worker", "python")):
        above = [c for p in above for c in parents.get(p, []) if of in command(c)]
        if above:
            found[what] = above[0]
    return found


def command(process: int) -> str:
    """Returns the name of the program that a process runs."""
    try:
        return Path(f"/proc/{process}/exe").readlink().name
    except OSError:
        return ""


def of_process(what: str, process: int) -> dict[str, float]:
    """Returns memory, threads and open files of a process, and a JVM's heap after a collection."""
    result: dict[str, float] = {}
    if what in ("gateway", "node") and shutil.which("jcmd"):
        jcmd(process, "GC.run")
        pieces = re.findall(r"total (\d+)K, used (\d+)K", jcmd(process, "GC.heap_info"))
        result["heap"] = sum(int(used) for _, used in pieces) * 1024
    status = Path(f"/proc/{process}/status").read_text()
    result["rss"] = int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024
    result["threads"] = int(re.findall(r"Threads:\s+(\d+)", status)[0])
    result["files"] = len(list(Path(f"/proc/{process}/fd").iterdir()))
    return result


def jcmd(process: int, order: str) -> str:
    """Returns a JVM's answer to a jcmd command."""
    return subprocess.run(
        ["jcmd", str(process), order], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def sample(machine: remora.RemoteMachine) -> dict[str, float]:
    """Measures everything, after all recorded operations are executed and all dropped objects are freed."""
    gc.collect()
    machine.synchronize()
    machine.synchronize()  # also executes what was freed meanwhile
    result: dict[str, float] = {}
    for what, process in children().items():
        result[f"{what}.process"] = process
        result.update({f"{what}.{k}": v for k, v in of_process(what, process).items()})
    stats = machine.stats()
    result.update({name: stats[name] for name in KEPT if name in stats})
    return result


def grown(first: dict[str, float], last: dict[str, float]) -> list[tuple[str, float, float, float]]:
    """Returns the figures that have grown: name, first, last, tolerance."""
    rows = []
    for name, value in last.items():
        kind = name.rpartition(".")[2]
        if name not in first or (kind not in TOLERANCES and name not in KEPT):
            continue
        tolerance = TOLERANCES[kind](first[name]) if kind in TOLERANCES else 0.0
        # A storage gets an actor when it is a second old, so how many have one differs from moment to moment.
        was = first["machine.storages" if name == "storage.actors" else name]
        if value > was + tolerance:
            rows.append((name, was, value, tolerance))
    return rows


def shown(name: str, value: float) -> str:
    """Formats a figure with its unit."""
    if name.rpartition(".")[2] in ("rss", "heap", "bytes"):
        return f"{value / MIB:.1f} MiB"
    return f"{value:g}"


def main() -> int:
    """Parses the command line and soaks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=20, help="duration; default 20, at least 2"
    )
    parser.add_argument("--csv", type=Path, help="write the figures of each minute to this file")
    parser.add_argument("--plot", type=Path, help="draw memory and live storages as SVG")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random choices; default 1")
    options = parser.parse_args()
    if options.minutes < 2:
        parser.error(
            "--minutes must be at least 2, because the last minute is compared with the first"
        )
    logging.getLogger("remora").setLevel(logging.ERROR)  # operations fail on purpose
    with tempfile.TemporaryDirectory() as folder:
        given = os.environ.get("REMORA_GATEWAY_JVM_OPTIONS", "")
        allowed = [
            f"-Dremora.node.models.{d}.0={folder}" for d in ("directories", "save-directories")
        ]
        os.environ["REMORA_GATEWAY_JVM_OPTIONS"] = " ".join([given, *allowed])
        with remora.RemoteMachine("mock") as machine:
            samples = soak(Soak(machine, Path(folder), options.seed), options.minutes)
    if options.csv:
        write(options.csv, samples)
    if options.plot:
        options.plot.write_text(plot(samples))
    return report(samples)


def soak(work: Soak, minutes: float) -> list[dict[str, Any]]:
    """Works until the time is over, and takes a sample at the end of each minute."""
    rounds = [work.train, work.events, work.generators, work.functions, work.models]
    rounds += [work.transfers, work.failures]
    begin = time.monotonic()
    samples: list[dict[str, Any]] = []
    counts = dict.fromkeys([f"rounds.{one.__name__}" for one in (*rounds, work.pause)], 0)
    while len(samples) < minutes:
        until = begin + 60 * min(len(samples) + 1, minutes)
        while time.monotonic() < until:
            for one in rounds:
                one()
                counts[f"rounds.{one.__name__}"] += 1
        figures = {"minute": len(samples) + 1, **counts, **sample(work.machine)}
        samples.append(figures)
        print(
            f"{len(samples):3d} min: "
            + ", ".join(
                f"{what} {shown('rss', figures[f'{what}.rss'])}"
                for what in ("program", "gateway", "node", "worker")
                if f"{what}.rss" in figures
            )
            + f"; storages {figures['storages']:g}; rounds {counts['rounds.train']}",
            flush=True,
        )
        if len(samples) <= minutes / 2 - 1:
            work.pause()
            counts["rounds.pause"] += 1
    return samples


def report(samples: list[dict[str, Any]]) -> int:
    """Prints the first and the last minute next to each other, and the figures that grew."""
    last = samples[-1]
    first = dict(samples[0])
    # The node and its worker are compared with the first minute of the last node.
    node = next(s for s in samples if s.get("node.process") == last.get("node.process"))
    first.update({k: v for k, v in node.items() if k.startswith(("node.", "worker."))})
    rows = grown(first, last)
    bad = {row[0] for row in rows}
    print(f"\n{'figure':28} {'first minute':>16} {'last minute':>16}")
    for name, value in last.items():
        if name in KEPT or name.rpartition(".")[2] in TOLERANCES:
            before = shown(name, first[name]) if name in first else "-"
            mark = "  GREW" if name in bad else ""
            print(f"{name:28} {before:>16} {shown(name, value):>16}{mark}")
    rounds = {k.partition(".")[2]: v for k, v in last.items() if k.startswith("rounds.")}
    print("\nrounds: " + ", ".join(f"{k} {v}" for k, v in rounds.items()))
    for name, was, now, tolerance in rows:
        print(
            f"{name} grew from {shown(name, was)} to {shown(name, now)}, tolerated: {shown(name, tolerance)}"
        )
    return 1 if rows else 0


def write(path: Path, samples: list[dict[str, Any]]) -> None:
    """Writes one line for each minute."""
    names = list(dict.fromkeys(name for s in samples for name in s))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(samples)


# ---------------------------------------------------------------- the plot

WIDTH, PANEL, LEFT, TOP, GAP = 720, 220, 64, 30, 56
COLOURS = {"program": "#1f77b4", "gateway": "#ff7f0e", "node": "#2ca02c", "worker": "#9467bd"}


def plot(samples: list[dict[str, Any]]) -> str:
    """Draws the memory of the processes, and the live storages below, over the minutes, as SVG."""
    memory = {
        what: [
            (s["minute"], s[f"{what}.rss"] / MIB, s[f"{what}.process"])
            for s in samples
            if f"{what}.rss" in s
        ]
        for what in COLOURS
    }
    storages = {"storages": [(s["minute"], s["storages"], 0) for s in samples]}
    height = TOP + 2 * PANEL + 2 * GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *panel("resident memory, MiB", memory, TOP),
        *panel("live storages of the program", storages, TOP + PANEL + GAP),
        f'<text x="{WIDTH / 2}" y="{height - 12}" text-anchor="middle">minutes</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def panel(title: str, lines: dict[str, list[tuple[float, float, int]]], top: float) -> list[str]:
    """Draws one panel: its lines of (minute, value, process), from zero on. A new process begins a new line."""
    points = [point for line in lines.values() for point in line]
    last = max((minute for minute, _, _ in points), default=1)
    most = 1.1 * max((value for _, value, _ in points), default=1) or 1

    def place(minute: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - 110) * minute / last
        return f"{x:.1f},{top + PANEL * (1 - value / most):.1f}"

    parts = [f'<text x="{LEFT}" y="{top - 10}">{title}</text>']
    for step in range(5):
        value, y = most * step / 4, top + PANEL * (1 - step / 4)
        parts.append(
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - 110}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.0f}</text>'
        )
    for step in range(5):
        x = LEFT + (WIDTH - LEFT - 110) * step / 4
        parts.append(
            f'<text x="{x:.1f}" y="{top + PANEL + 16}" text-anchor="middle">{last * step / 4:g}</text>'
        )
    for i, (name, line) in enumerate(lines.items()):
        colour = COLOURS.get(name, "#444")
        for process in dict.fromkeys(process for _, _, process in line):
            path = " ".join(place(minute, value) for minute, value, p in line if p == process)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        for minute, value, _ in line:
            across, down = place(minute, value).split(",")
            parts.append(f'<circle cx="{across}" cy="{down}" r="1.5" fill="{colour}"/>')
        if len(lines) > 1:
            parts.append(
                f'<text x="{WIDTH - 100}" y="{top + 14 + 18 * i}" fill="{colour}">{name}</text>'
            )
    return parts


if __name__ == "__main__":
    sys.exit(main())
