# SPDX-License-Identifier: AGPL-3.0-or-later
"""Measures what a timeline of additions of 8x8 tensors costs the thread that records them.

    python benchmarks/timeline.py [--pairs N] [--rounds N] [--additions N]

Two processes take turns: one never starts a timeline, the other records without one (but after others) and with one.
Each figure is processor time of the recording thread for one addition, and its ratio to the one without a timeline in
the same round: the median and the quartiles of all rounds. Processes differ by some percent for their whole lives, so
there are several pairs, one after the other. Set REMORA_GATEWAY_CLASSPATH or REMORA_HOME.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path


def work(commands: Connection, additions: int) -> None:
    """Measures rounds on a machine of its own, until told to end."""
    import torch

    import remora

    with remora.RemoteMachine("mock") as machine, tempfile.TemporaryDirectory() as folder:
        x = torch.randn(8, 8).to(machine.device())
        y = torch.randn(8, 8).to(machine.device())

        def measure() -> float:
            before = time.thread_time()
            for _ in range(additions):
                torch.add(x, y)
            used = time.thread_time() - before
            machine.synchronize()
            return used / additions

        measure()
        commands.send(0.0)
        while mode := commands.recv():
            if mode == "on":
                file = Path(folder) / "run.json"
                with machine.trace(file):
                    used = measure()
                file.unlink()
            else:
                used = measure()
            commands.send(used)


def measure_pair(times: dict[str, list[float]], rounds: int, additions: int) -> None:
    context = multiprocessing.get_context("spawn")
    workers = []
    for _ in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, additions))
        process.start()
        workers.append((ours, process))
    for each, _ in workers:
        each.recv()
    never, switched = (each for each, _ in workers)
    for number in range(rounds):
        order = [(never, "never"), (switched, "off"), (switched, "on")]
        for worker, mode in order if number % 2 else reversed(order):
            worker.send(mode)
            times[mode].append(worker.recv())
    for each, process in workers:
        each.send("")
        process.join(60)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--rounds", type=int, default=30)
    options.add_argument("--additions", type=int, default=20_000)
    chosen = options.parse_args()
    times: dict[str, list[float]] = {"never": [], "off": [], "on": []}
    for _ in range(chosen.pairs):
        measure_pair(times, chosen.rounds, chosen.additions)
    print(f"{'timeline':<10}{'us/addition':>12}{'ratio':>8}{'quartiles':>18}")
    for mode, measured in times.items():
        ratios = [one / other for one, other in zip(measured, times["off"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{mode:<10}{statistics.median(measured) * 1e6:>12.3f}{middle:>8.3f}"
            f"{f'{low:.3f}-{high:.3f}':>18}"
        )


if __name__ == "__main__":
    main()
