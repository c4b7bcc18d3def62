# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs PyTorch's own device tests on a machine, and compares failures with the local CPU.

Each file runs in a process of its own. A test fails if it crashes the process, loses the machine or exceeds its time
limit; another process then continues with the next test. Failed tests also run once on the local CPU, and the results
are kept; a test that takes long there gets a longer limit on the machine. Every test that fails only on the machine
needs a line in reasons.txt. The exit status is 1 if a failure has none, and 77 if there are no tests to run.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sources

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parents[2] / "docs" / "upstream-tests.md"

FILES = (
    "test_view_ops",
    "test_indexing",
    "test_dlpack",
    "test_numpy_interop",
    "test_torch",
    "test_sort_and_select",
    "test_tensor_creation_ops",
    "test_shape_ops",
    "test_scatter_gather_ops",
    "test_segment_reductions",
    "test_type_promotion",
    "test_complex",
    "test_serialization",
    "test_reductions",
    "test_spectral_ops",
    "test_binary_ufuncs",
    "test_unary_ufuncs",
    "test_autograd",
    "test_optim",
    "test_modules",
    "test_nn",
    "nn/test_convolution",
    "nn/test_dropout",
    "nn/test_embedding",
    "nn/test_init",
    "nn/test_lazy_modules",
    "nn/test_load_state_dict",
    "nn/test_module_hooks",
    "nn/test_multihead_attention",
    "nn/test_packed_sequence",
    "nn/test_parametrization",
    "nn/test_pooling",
    "nn/test_pruning",
)
# Fixed parts for continuous integration: seconds, and minutes.
PARTS = {
    "smoke": (
        "test_view_ops",
        "test_numpy_interop",
        "test_segment_reductions",
        "test_complex",
        "nn/test_multihead_attention",
    ),
    "short": (
        "test_view_ops",
        "test_indexing",
        "test_dlpack",
        "test_numpy_interop",
        "test_torch",
        "test_sort_and_select",
        "test_shape_ops",
        "test_scatter_gather_ops",
        "test_segment_reductions",
        "test_type_promotion",
        "test_complex",
        "test_serialization",
        "test_reductions",
        "test_spectral_ops",
        "test_autograd",
        "nn/test_convolution",
        "nn/test_dropout",
        "nn/test_embedding",
        "nn/test_multihead_attention",
    ),
    "all": FILES,
}
BAD = ("failed", "crashed", "lost", "timeout")
# A limit on the machine, relative to the time on the CPU. A machine in this process uses the cores of the program, and
# tests of many small operations take about twice the CPU time. The rest is for a computer that has become busier.
TIMES_AS_LONG = 12
# The kinds of reasons for a failure, in the order of the table's columns.
KINDS = ("sparse or quantized", "the test's assumption", "ours")


@dataclass
class Result:
    """The outcome of one test on one device."""

    name: str
    outcome: str
    message: str = ""
    seconds: float = 0.0


@dataclass
class Reason:
    """A line of reasons.txt: a kind, a pattern of the tests' names or messages, and the reason."""

    kind: str
    pattern: str
    why: str
    hits: int = field(default=0)

    def fits(self, file: str, result: Result) -> bool:
        """Returns whether this is the reason of the failure."""
        if self.pattern.startswith("/"):
            return re.search(self.pattern[1:-1], result.message) is not None
        return fnmatch.fnmatchcase(f"{file}::{result.name}", self.pattern)


class Runner:
    """Runs files and keeps the outcomes of their tests."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.tests = sources.test_files(options.source)
        self.machine: str = options.machine
        self.limit: float = options.limit
        self.until = time.monotonic() + 60 * options.minutes
        import torch

        kept = sources.cache_folder() / f"results-{torch.__version__}-{self.tests.parent.name}"
        self.kept = kept
        self.kept.mkdir(parents=True, exist_ok=True)

    def path(self, file: str, device: str) -> Path:
        """Returns the file that keeps the results."""
        where = "cpu" if device == "cpu" else self.machine
        return self.kept / f"{file.replace('/', '-')}.{where}.json"

    def load(self, file: str, device: str) -> dict[str, Result]:
        """Returns the kept results of a file."""
        path = self.path(file, device)
        if not path.exists():
            return {}
        return {name: Result(name, *rest) for name, *rest in json.loads(path.read_text())}

    def save(self, file: str, device: str, results: dict[str, Result]) -> None:
        """Keeps the results of a file."""
        lines = [[r.name, r.outcome, r.message, r.seconds] for r in results.values()]
        self.path(file, device).write_text(json.dumps(lines, indent=0))

    def limits(self, file: str, device: str) -> dict[str, float]:
        """The limits in seconds of tests that may take longer than others, by name."""
        if device == "cpu":
            return {}
        on_cpu = [r for r in self.load(file, "cpu").values() if r.outcome == "passed"]
        known = {r.name: TIMES_AS_LONG * r.seconds for r in on_cpu}
        return {name: limit for name, limit in known.items() if limit > self.limit}

    def run(self, file: str, device: str, wanted: list[str] | None = None) -> dict[str, Result]:
        """Runs all tests of a file, or the wanted ones, in as many processes as necessary."""
        results: dict[str, Result] = {}
        limits = self.limits(file, device)
        rest = wanted
        while rest is None or rest:
            names, ended = self._run_some(file, device, rest, limits)
            if names is None:
                results["(import)"] = ended[-1]
                break
            results.update((r.name, r) for r in ended)
            rest = [name for name in names if name not in results]
            if time.monotonic() > self.until:
                results.update((name, Result(name, "not run")) for name in rest)
                break
            if not ended and rest:  # no test was started: the process does not work
                results["(start)"] = Result(
                    "(start)", "crashed", "the process ended before its first test"
                )
                break
        return results

    def _run_some(
        self, file: str, device: str, wanted: list[str] | None, limits: dict[str, float]
    ) -> tuple[list[str] | None, list[Result]]:
        """Runs one process; returns the names of its tests (None if it did not report them), and the results."""
        reading, writing = os.pipe()
        names: list[str] | None = None
        ended: list[Result] = []
        with tempfile.TemporaryDirectory() as scratch:
            todo = "-"
            if wanted is not None:
                todo = f"{scratch}/todo.json"
                Path(todo).write_text(json.dumps(wanted))
            log = Path(scratch) / "log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [
                        sys.executable,
                        str(HERE / "worker.py"),
                        str(self.tests / f"{file}.py"),
                        device,
                        self.machine,
                        str(writing),
                        todo,
                    ],
                    cwd=scratch,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(writing,),
                    start_new_session=True,
                    env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
                )
            os.close(writing)
            started = ""
            outcome = "crashed"
            try:
                for line in _lines(reading, self.limit, limits):
                    if line is None:
                        outcome = "timeout"
                        break
                    if "all" in line:
                        names = line["all"]
                    elif "start" in line:
                        started = line["start"]
                    else:
                        started = ""
                        ended.append(
                            Result(line["end"], line["outcome"], line["message"], line["seconds"])
                        )
                    if names is not None and time.monotonic() > self.until:
                        outcome = "not run"
                        break
            finally:
                os.close(reading)
                _end(process, outcome != "crashed")
            tail = log.read_bytes()[-4000:].decode(errors="replace")
        if names is None or (started and outcome != "not run"):
            code = process.returncode
            how = f"signal {-code}" if code < 0 else f"exit status {code}"
            limit = limits.get(started, self.limit)
            if outcome == "timeout":
                how = f"no end within {limit:g} s"
            ended.append(Result(started or "(import)", outcome, f"{how}\n{tail}", limit))
        return names, ended


def _lines(reading: int, limit: float, limits: dict[str, float]) -> Iterator[dict[str, Any] | None]:
    """Yields the worker's lines; None if one takes longer than its limit, or the first longer than five limits.

    A test in `limits` has its own limit there.
    """
    text = b""
    patience = 5 * limit
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while True:
            if not selector.select(patience):
                yield None
                return
            some = os.read(reading, 1 << 16)
            if not some:
                return
            *lines, text = (text + some).split(b"\n")
            for line in map(json.loads, lines):
                patience = limits.get(line.get("start", ""), limit)
                yield line


def _end(process: subprocess.Popen[bytes], hung: bool) -> None:
    """Waits for a process that has closed its report, and kills it and its children."""
    if not hung:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_reasons(path: Path) -> list[Reason]:
    """Reads lines `kind | pattern | reason`; a pattern in slashes is for the message, another one for the name."""
    reasons = []
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            kind, pattern, why = (part.strip() for part in line.split(" | ", 2))
            if kind not in KINDS:
                raise ValueError(f"{path.name}: unknown kind: {kind}")
            reasons.append(Reason(kind, pattern, why))
    return reasons


@dataclass
class Sorted:
    """The results of one file, sorted."""

    file: str
    counts: Counter[str]
    bad: list[tuple[Result, Reason | None]]


def sort(
    file: str, results: dict[str, Result], cpu: dict[str, Result], reasons: list[Reason]
) -> Sorted:
    """Counts a file's results; `bad` are those that fail only on the machine."""
    counts: Counter[str] = Counter()
    bad: list[tuple[Result, Reason | None]] = []
    for result in results.values():
        if result.outcome not in BAD:
            counts["passed" if result.outcome == "expected failure" else result.outcome] += 1
            continue
        local = cpu.get(result.name)
        if local and local.outcome in (*BAD, "expected failure") and result.outcome == "failed":
            counts["cpu"] += 1
            continue
        reason = next((r for r in reasons if r.fits(file, result)), None)
        if reason:
            reason.hits += 1
        counts[reason.kind if reason else "none"] += 1
        counts["ends"] += result.outcome in ("crashed", "lost", "timeout")
        bad.append((result, reason))
    return Sorted(file, counts, bad)


def last_line(message: str) -> str:
    """Returns the most informative line of a failure's message."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if lines and re.match("signal|exit status|no end", lines[0]):
        return lines[0]
    errors = [
        line for line in lines if re.match(r"[\w.]*(Error|Exception|Failure|Warning)\b", line)
    ]
    return (errors or lines or [""])[-1][:300]


def grouped(file: str, results: list[Result]) -> list[str]:
    """Returns a line for each test, with its dtypes and the last message."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.name.split("_DEVICE")[0], result.outcome), []).append(result)
    return [
        f"{outcome}: {file}::{name} ({len(some)}): {last_line(some[-1].message)}"
        for (name, outcome), some in groups.items()
    ]


def main() -> int:
    """Parses the command line, runs, and reports."""
    parser = argparse.ArgumentParser(prog="run", description=__doc__)
    parser.add_argument(
        "files",
        nargs="*",
        help="files, such as test_torch or nn/test_pooling; default: of the part",
    )
    parser.add_argument(
        "--part", choices=PARTS, default="all", help="a fixed set of files; default %(default)s"
    )
    parser.add_argument(
        "--machine",
        choices=("local", "gateway"),
        default="local",
        help="in the test's process (default), or behind a gateway (REMORA_GATEWAY_CLASSPATH)",
    )
    parser.add_argument(
        "--source", metavar="FOLDER", help="a checkout of PyTorch; default: Debian's source package"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=1e6,
        help="time limit of the run; --again runs the tests that have not run",
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=120,
        help="time limit of a test in seconds; default %(default)g",
    )
    parser.add_argument(
        "--only", metavar="PATTERN", help="only tests of the kept results whose Class::name matches"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="only tests that have failed or not run in the kept results",
    )
    parser.add_argument("--kept", action="store_true", help="run nothing, report the kept results")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"write docs/{DOCUMENT.name} from the kept results of all files",
    )
    options = parser.parse_args()
    try:
        runner = Runner(options)
    except sources.NotToBeHadError as e:
        print(f"SKIPPED: no tests: {e}", file=sys.stderr)
        return 77
    reasons = read_reasons(HERE / "reasons.txt")
    unexplained = 0
    done: list[Sorted] = []
    for file in options.files or PARTS[options.part]:
        begin = time.monotonic()
        results = runner.load(file, "remora")
        if options.kept and not runner.path(file, "remora").exists():
            print(f"{file}: no results are kept")
            results = {"(file)": Result("(file)", "not run")}
        if not options.kept:
            wanted = None
            if options.only:
                wanted = [n for n in results if fnmatch.fnmatchcase(n, options.only)]
            elif options.again:
                wanted = [r.name for r in results.values() if r.outcome in (*BAD, "not run")]
            new = runner.run(file, "remora", wanted)
            results = {**results, **new} if wanted is not None else new
            runner.save(file, "remora", results)
        cpu = runner.load(file, "cpu")
        missing = [r.name for r in results.values() if r.outcome in BAD and r.name not in cpu]
        if missing and not options.kept:
            local = runner.run(file, "cpu", missing)
            cpu.update((r.name, r) for r in local.values() if r.outcome != "not run")
            runner.save(file, "cpu", cpu)
            slow = [name for name in runner.limits(file, "remora") if name in missing]
            slow = [name for name in slow if results[name].outcome == "timeout"]
            results.update(runner.run(file, "remora", slow))
            runner.save(file, "remora", results)
        one = sort(file, results, cpu, reasons)
        done.append(one)
        c = one.counts
        print(
            f"{file}: {len(results)} tests, {c['passed']} passed, {c['skipped']} skipped, "
            + f"{c['cpu']} fail on the CPU too, "
            + ", ".join(f"{c[kind]} {kind}" for kind in KINDS)
            + f", {c['none']} without a reason, {c['ends']} ended the process; {time.monotonic() - begin:.0f} s",
            flush=True,
        )
        unlisted = [result for result, reason in one.bad if reason is None]
        unexplained += len(unlisted)
        for line in grouped(file, unlisted):
            print(f"  {line}")
    everything = not options.files and options.part == "all" and not options.only
    for reason in reasons if everything else ():
        if not reason.hits:
            print(
                f"reasons.txt: no test fails for this reason any more: {reason.pattern} | {reason.why}"
            )
    if options.write:
        DOCUMENT.write_text(document(done))
    return 1 if unexplained else 0


def document(done: list[Sorted]) -> str:
    """Returns the text of docs/upstream-tests.md: a template, the table, and each failure under its reason."""
    import torch

    rows = []
    total: Counter[str] = Counter()
    for one in done:
        if not one.counts:
            continue  # the file has no device tests
        total.update(one.counts)
        rows.append(row(one.file, one.counts))
    rows.append(row("**all**", total))
    left = [one.file for one in done if one.counts["not run"]]
    messages: dict[str, str] = {}
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in done:
        for result, reason in one.bad:
            name = f"{one.file}::{result.name.split('_DEVICE')[0]}"
            message = messages.setdefault(
                name, f"`{last_line(result.message)}`"
            )  # the message of one dtype
            key = (reason.kind, reason.why) if reason else ("ours", message)
            if reason and not reason.pattern.startswith("/"):
                name = reason.pattern.partition("_DEVICE")[0].removesuffix("_*")
            reasons.setdefault(key, []).append(name)
    lists = []
    for kind in KINDS:
        found = {why: names for (k, why), names in sorted(reasons.items()) if k == kind}
        lists.append(f"## {kind[0].upper()}{kind[1:]}: {sum(map(len, found.values()))}\n")
        for why, names in found.items():
            lists.append(f"- {why}: {len(names)}")
            lists.extend(
                f"  - `{name}`" + (f" ({count})" if count > 1 else "")
                for name, count in sorted(Counter(names).items())
            )
        lists.append("" if found else "None.\n")
    template = (HERE / "document.md.in").read_text().partition("-->\n")[2]
    return (
        template.replace("{torch}", torch.__version__.partition("+")[0])
        .replace("{tests}", sources.VERSION)
        .replace("{suite}", sources.SUITE)
        .replace("{table}", "\n".join(rows))
        .replace(
            "{left}", f"Not run to the end, for lack of time: {', '.join(left)}.\n" if left else ""
        )
        .replace("{lists}", "\n".join(lists).rstrip())
    )


def row(name: str, counts: Counter[str]) -> str:
    """Returns a line of the table."""
    skipped = counts["skipped"]
    ran = sum(counts[c] for c in ("passed", "cpu", "none", *KINDS))
    if not ran and counts["not run"]:
        return f"| {name} | not run | | | | | | |"
    ours = counts["ours"] + counts["none"]
    figures = (ran, counts["passed"], skipped, counts["cpu"], *(counts[k] for k in KINDS[:2]), ours)
    return "| " + " | ".join((name, *(f"{n:,}" for n in figures))) + " |"


if __name__ == "__main__":
    sys.exit(main())
