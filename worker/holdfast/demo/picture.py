"""The picture of the demo: the loss curves of both runs, with the kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.demo.progress import Life, final_losses
from holdfast.demo.sabotage import Kill

_QUIET, _LOUD, _LOST, _KILL = "#9db8d9", "#1f4e8c", "#d98c00", "#c0392b"


def draw(path: Path, interrupted: list[Life], uninterrupted: list[Life], victim: str, kill: Kill) -> None:
    """Write a PNG. The upper half is by step: the curves must coincide. The lower half is by time: the gap shows.

    victim: who was killed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_step, by_time) = pyplot.subplots(2, 1, figsize=(9, 7.5), layout="constrained")
    before, after = interrupted[0], interrupted[-1]
    lost = [s for s in before.steps if s.number > after.restored]

    whole = sorted(final_losses(uninterrupted).items())
    by_step.plot(*zip(*whole, strict=True), color=_QUIET, linewidth=5, label="uninterrupted run")
    kept = sorted(final_losses(interrupted).items())
    by_step.plot(*zip(*kept, strict=True), color=_LOUD, linewidth=1.2, label="killed and resumed run")
    by_step.axvspan(after.restored, before.reached, color=_LOST, alpha=0.2, label=f"{len(lost)} steps lost, done again")
    by_step.axvline(kill.step, color=_KILL, linestyle="--", label=f"{victim} killed in the save of step {kill.step}")
    by_step.set(xlabel="training step", ylabel="loss", title="By step: the same curve")

    start = before.began
    end = uninterrupted[0].began
    _over_time(by_time, uninterrupted[0], end, color=_QUIET, linewidth=5, label="uninterrupted run")
    _over_time(by_time, before, start, color=_LOUD, linewidth=1.2, label="killed and resumed run")
    _over_time(by_time, after, start, color=_LOUD, linewidth=1.2)
    by_time.axvline(kill.time - start, color=_KILL, linestyle="--", label="kill")
    by_time.axvspan(kill.time - start, after.began - start, color=_KILL, alpha=0.08, label="until all were back")
    by_time.set(xlabel="seconds since the first step could begin", ylabel="loss", title="By time: what the kill cost")

    for axes in (by_step, by_time):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _over_time(axes: Any, life: Life, start: float, **style: Any) -> None:
    axes.plot([s.time - start for s in life.steps], [s.loss for s in life.steps], **style)
