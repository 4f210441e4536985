"""The report of a run, as Markdown. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.cases import Case
from benchmarks.results import Results, Summary
from benchmarks.targets import verdicts

# Figure -> (its row's name, unit, how many of the unit to a second or byte).
FIGURES = {
    "blocking": ("`save()` blocks for", "ms", 1e3),
    "durable": ("save to durable", "ms", 1e3),
    "lost": ("training time lost per save", "ms", 1e3),
    "restore": ("restore", "ms", 1e3),
    "extra_bytes": ("peak extra memory while saving", "MiB", 1 / 2**20),
    "extra_training_bytes": ("the same while training goes on (copy-on-write)", "MiB", 1 / 2**20),
    "save_cpu": ("processor time of a save, workers", "s", 1.0),
    "save_server": ("processor time of a save, store", "s", 1.0),
    "restore_cpu": ("processor time of a restore, workers", "s", 1.0),
    "restore_server": ("processor time of a restore, store", "s", 1.0),
    "save_bytes": ("peak extra memory of a worker while saving", "MiB", 1 / 2**20),
    "restore_bytes": ("the same while restoring", "MiB", 1 / 2**20),
}

_NOTHING = "-"
_ABSENT = "not in the race"

# Figures that move the whole state, for which a throughput says something.
_THROUGHPUT = ("durable", "restore")


def markdown(results: Results) -> str:
    """The whole report: one table a case and medium, the targets, what failed, and where it ran."""
    field = results.contestants
    lines = [
        "# Benchmark",
        "",
        f"Median (lowest - highest) of {results.rounds} interleaved rounds; below it the ratio of the medians to that "
        f"of {field.labels[field.reference]}: smaller is better. {field.remarks} "
        "One warm-up turn per contestant and case is not counted, except for memory, which only a fresh process shows.",
    ]
    if results.quick:
        lines += ["", "**A quick run: sizes and rounds far below those that the targets are about.**"]
    for case in results.cases:
        for medium, where in results.media.items():
            lines += ["", f"## {case.label}, {medium} ({where})", "", *_comparison(results, case, medium)]
    lines += ["", "## Targets", "", *_targets(results)]
    if results.absent:
        lines += ["", "## Not in the race", ""]
        lines += [f"- {field.labels[name]}: {reason}" for name, reason in results.absent.items()]
    if results.failures:
        lines += ["", "## Out of the race", ""]
        lines += [
            f"- {field.labels[failure.contestant]}, {failure.case}, {failure.medium}, "
            f"{f'round {failure.round}' if failure.round else 'warm-up'}: {failure.reason}"
            for failure in results.failures
        ]
    lines += ["", "## Where", "", *(f"- {key}: {value}" for key, value in results.environment.items())]
    return "\n".join(lines) + "\n"


def _comparison(results: Results, case: Case, medium: str) -> list[str]:
    rows = []
    field = results.contestants
    for figure, (name, unit, scale) in FIGURES.items():
        cells = []
        for contestant in field.labels:
            summary = results.summary(case.name, medium, contestant, figure)
            ratio = results.ratio(case.name, medium, figure, contestant, field.reference)
            cells.append(
                _cell(
                    summary, scale, ratio, case.state_bytes if figure in _THROUGHPUT and case.bound_by_bytes else None
                )
            )
        if any(cell != _NOTHING for cell in cells):
            cells = [
                _ABSENT if contestant in results.absent else cell
                for contestant, cell in zip(field.labels, cells, strict=True)
            ]
            rows.append([f"{name}, {unit}", *cells])
    lines = _table(["", *field.labels.values()], rows)
    noise = results.lost_noise(case, medium)
    if noise is not None:
        lines += [
            "",
            f"Lost times below {noise * 1e3:.3g} ms are not told from nothing (spread of the same loop without saves).",
        ]
    return lines


def _targets(results: Results) -> list[str]:
    rows = []
    for verdict in verdicts(results):
        _, unit, scale = FIGURES[verdict.target.figure]
        outcome = f"**{verdict.outcome}**" if verdict.outcome == "missed" else verdict.outcome
        ours, bound, limit = (
            _NOTHING if value is None else f"{_number(value * scale)} {unit}"
            for value in (verdict.ours, verdict.bound, verdict.limit)
        )
        rows.append([verdict.target.what, verdict.medium, ours, bound, limit, outcome])
    field = results.contestants
    return _table(["target", "medium", "Holdfast", "at most", field.labels[field.limit], ""], rows)


def _cell(summary: Summary | None, scale: float, ratio: float | None, size: int | None) -> str:
    if summary is None:
        return _NOTHING
    middle, lowest, highest = (_number(value * scale) for value in (summary.median, summary.lowest, summary.highest))
    notes = []
    if ratio is not None:
        notes.append(f"{_number(ratio)} x")
    if size is not None and summary.median > 0:
        notes.append(f"{_number(size / summary.median / 1e9)} GB/s")
    spread = f" ({lowest} - {highest})" if summary.count > 1 else ""
    return f"{middle}{spread}" + ("<br>" + ", ".join(notes) if notes else "")


def _number(value: float) -> str:
    """Three digits, never in powers of ten."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return [texts[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *texts[1:]]
