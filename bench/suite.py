"""The measurements, and their table. One method for everything that is compared, in turns, so that a noisy machine is noisy for all."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig import Subject, run

PACES = ("0", "20000")
"""Microseconds between the events of the mock engines: at once, and as a real engine would."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int = 3
    whole: int = 20_000
    streams: int = 6_000
    single: int = 2_000
    paced_parallel: int = 1_000
    paced: int = 4_000
    seconds: float = 30.0


QUICK = Size(rounds=1, whole=1_000, streams=300, single=200, paced_parallel=100, paced=200, seconds=10.0)


def measure(subjects: Sequence[Subject], size: Size, *, on: Sequence[int], progress: bool = True) -> None:
    """Fill in the results of all subjects, round by round in turns."""
    kinds = (
        ("whole", False, False, 64, size.whole),
        ("streams", True, False, 64, size.streams),
        ("single", False, False, 1, size.single),
        ("paced", True, True, size.paced_parallel, size.paced),
    )
    for kind, stream, paced, parallel, requests in kinds:
        for turn in range(size.rounds):
            for subject in subjects:
                if progress:
                    print(f"\r{kind}, round {turn + 1} of {size.rounds}: {subject.name:<24}", end="", flush=True)
                port = subject.paced if paced else subject.at_once
                pid = subject.pid_paced if paced else subject.pid_at_once
                cost = run(
                    port, key=subject.key, model=subject.model, parallel=parallel, requests=requests, stream=stream,
                    seconds=size.seconds, on=on, pid=pid,
                )  # fmt: skip
                subject.results.setdefault(kind, []).append(cost)
    if progress:
        print("\r" + " " * 60 + "\r", end="")


ROWS = (
    ("whole answers/s, 64 parallel", "whole", "per_second", "{:,.0f}", True),
    ("  CPU us per answer", "whole", "cpu", "{:,.0f}", False),
    ("streams/s, 64 parallel", "streams", "per_second", "{:,.0f}", True),
    ("  events/s", "streams", "events_per_second", "{:,.0f}", True),
    ("  CPU us per stream", "streams", "cpu", "{:,.0f}", False),
    ("paced: events/s", "paced", "events_per_second", "{:,.0f}", True),
    ("  TTFT p50 ms", "paced", "first_p50", "{:,.1f}", False),
    ("  TTFT p99 ms", "paced", "first_p99", "{:,.1f}", False),
    ("  CPU us per stream", "paced", "cpu", "{:,.0f}", False),
    ("  memory MB, at its highest", "paced", "memory", "{:,.0f}", False),
    ("p50 ms, 1 parallel", "single", "whole_p50", "{:.3f}", False),
)


def table(subjects: Sequence[Subject], *, base: Subject | None = None, ours: Subject | None = None) -> str:
    """The figures side by side. With `base` and `ours`, the last column is what ours is worth against base: 1.00 is as good."""
    head = ["", *(subject.name for subject in subjects)]
    if base is not None and ours is not None:
        head.append(f"{ours.name} / {base.name}")
    lines = [head]
    for label, kind, value, shape, more_is_better in ROWS:
        line = [label]
        for subject in subjects:
            figure = subject.middle(kind, value)
            hidden = subject.pid_at_once is None and value in {"cpu", "memory"}
            line.append("-" if figure is None or hidden else shape.format(figure))
        if base is not None and ours is not None:
            one, other = ours.middle(kind, value), base.middle(kind, value)
            line.append("-" if not one or not other else f"{one / other if more_is_better else other / one:.2f}")
        lines.append(line)
    lines.append(["errors", *(str(subject.errors) for subject in subjects), *([""] if base is not None else [])])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = [
        " | ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join(
        ["| " + rows[0] + " |", "|" + "|".join("-" * (width + 2) for width in widths) + "|", *(f"| {row} |" for row in rows[1:])]
    )


@dataclass(frozen=True)
class Asked:
    """What is asked of this gateway: a figure, worth so much against that of a peer (None: an absolute bound)."""

    label: str
    kind: str
    value: str
    against: str | None
    bound: float
    more_is_better: bool = True


ASKED = (
    Asked("whole answers/s", "whole", "per_second", "vllm-router", 1.0),
    Asked("whole answers/s", "whole", "per_second", "litellm", 80.0),
    Asked("streams/s", "streams", "per_second", "vllm-router", 4.0),
    Asked("paced events/s", "paced", "events_per_second", "smg", 1.0),
    Asked("paced TTFT p99", "paced", "first_p99", "smg", 1.0, more_is_better=False),
    Asked("p50 ms added at 1 parallel", "single", "whole_p50", "engine", 0.5, more_is_better=False),
    Asked("memory MB with the paced streams", "paced", "memory", None, 120.0, more_is_better=False),
)


def verdicts(subjects: Sequence[Subject], ours: Subject) -> str:
    """What is asked, and what was measured, for every peer that took part."""
    by_name = {subject.name: subject for subject in subjects}
    lines = ["| asked | measured |    |", "|---|---|---|"]
    for asked in ASKED:
        mine = ours.middle(asked.kind, asked.value)
        peer = by_name.get(asked.against) if asked.against is not None else None
        other = peer.middle(asked.kind, asked.value) if peer is not None else None
        if mine is None or (asked.against is not None and not other):
            continue
        if asked.against == "engine" or other is None:
            found = mine - (other or 0.0)
            text, shown = f"{asked.label} <= {asked.bound:g}", f"{found:.3g}"
        else:
            found = mine / other
            sign = ">=" if asked.more_is_better else "<="
            text, shown = f"{asked.label} {sign} {asked.bound:g} x {asked.against}", f"{found:.2f} x"
        met = found >= asked.bound if asked.more_is_better else found <= asked.bound
        lines.append(f"| {text} | {shown} | {'met' if met else 'not met'} |")
    return "\n".join(lines)


def machine(rounds: int) -> str:
    """Where this was measured."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.machine(),
    ) if Path("/proc/cpuinfo").exists() else platform.machine()  # fmt: skip
    count = os.cpu_count() or "?"
    return f"{model}, {count} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}, medians of {rounds} rounds"
