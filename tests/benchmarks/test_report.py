"""The arithmetic and the text of the benchmark's report, on figures made up here."""

from __future__ import annotations

import json

import pytest
from benchmarks.cases import Case, cases
from benchmarks.contestants import FILES, OBJECTS
from benchmarks.report import FIGURES, markdown
from benchmarks.results import Failure, Figures, Results, Summary
from benchmarks.targets import TARGETS, verdicts

LARGE = Case("large", variables=64, width=2048, batch=8, saves=2, steps_per_save=6)
TENSORFLOW = {"blocking": 0.5, "durable": 0.6, "lost": 0.5, "restore": 0.3, "extra_bytes": 2.0**23, "loop": 10.0}
CLIENT = {"durable": 1.0, "restore": 0.5, "save_cpu": 1.0, "save_server": 2.0, "save_bytes": 2.0**24}
HOLDFAST = {"blocking": 0.01, "durable": 0.2, "lost": 0.02, "restore": 0.3, "extra_bytes": 2.0**26, "loop": 10.0}


def results(**contestants: list[dict[str, float]]) -> Results:
    """A run on tmpfs in which each contestant measured these turns, the first of them its warm-up."""
    made = Results({"processor": "imaginary"}, [LARGE], {"tmpfs": "tmpfs"}, rounds=3)
    for name, turns in contestants.items():
        for number, values in enumerate(turns):
            made.turns.append(Figures("large", "tmpfs", name, number, values))
    return made


def results_on_s3(**contestants: dict[str, float]) -> Results:
    """A run on an object store, without PyTorch, in which each measured this in its warm-up and in one turn."""
    made = Results(
        {}, [LARGE], {"2 workers": "S3"}, rounds=1, contestants=OBJECTS, absent={"dcp": "not installed: it is large"}
    )
    for name, values in contestants.items():
        made.turns += [Figures("large", "2 workers", name, number, values) for number in (0, 1)]
    return made


def scaled(values: dict[str, float], factor: float) -> dict[str, float]:
    """The same figures, all of them so many times as large."""
    return {figure: value * factor for figure, value in values.items()}


def test_the_warm_up_is_in_no_median_of_times() -> None:
    """The warm-up is in no figure of time. Guards against a first save, with page faults and tracing, that passes for a
    typical one."""
    run = results(holdfast=[scaled(HOLDFAST, 100), scaled(HOLDFAST, 1), scaled(HOLDFAST, 3), scaled(HOLDFAST, 2)])

    assert run.summary("large", "tmpfs", "holdfast", "durable") == Summary(
        pytest.approx(0.4), pytest.approx(0.2), pytest.approx(0.6), 3
    )
    written = run.as_json()
    assert [turn["round"] for turn in written["warmup"]] == [0]
    assert [turn["round"] for turn in written["turns"]] == [1, 2, 3]


def test_a_figure_of_another_medium_or_case_is_not_mixed_in() -> None:
    """Figures of media and cases are not mixed. Guards against a disk's time that moves the median of tmpfs."""
    run = results(holdfast=[HOLDFAST, HOLDFAST])
    run.turns.append(Figures("large", "disk", "holdfast", 1, scaled(HOLDFAST, 9)))
    run.turns.append(Figures("small", "tmpfs", "holdfast", 1, scaled(HOLDFAST, 9)))

    summary = run.summary("large", "tmpfs", "holdfast", "restore")
    assert summary is not None
    assert (summary.count, summary.highest) == (1, 0.3)


def test_no_ratio_to_a_reference_that_lost_nothing() -> None:
    """There is no ratio to a reference that lost nothing. Guards against an infinite or negative ratio because of
    noise."""
    run = results(tensorflow=[TENSORFLOW, {**TENSORFLOW, "lost": -0.01}], holdfast=[HOLDFAST, HOLDFAST])

    assert run.ratio("large", "tmpfs", "lost", "holdfast", "tensorflow") is None
    assert run.ratio("large", "tmpfs", "durable", "holdfast", "tensorflow") == pytest.approx(1 / 3)


def test_noise_is_that_of_the_loop_without_saves() -> None:
    """The noise is that of the loop without saves. Guards against a lost time of a few milliseconds that is taken for a
    result."""
    loops = [{"loop": value} for value in (99.0, 10.0, 10.4, 10.8, 11.2)]

    assert results(raw=loops).lost_noise(LARGE, "tmpfs") == pytest.approx((11.2 - 10.4) / 2 / LARGE.saves)
    assert results(raw=loops[:3]).lost_noise(LARGE, "tmpfs") is None


def test_targets_are_judged_by_medians() -> None:
    """Targets are judged by medians, on the right side of the bound. Guards against a bound that is compared the wrong
    way round."""
    outcomes = {
        factor: {
            verdict.target.what: verdict.outcome
            for verdict in verdicts(
                results(
                    tensorflow=[TENSORFLOW, TENSORFLOW], holdfast=[scaled(HOLDFAST, factor), scaled(HOLDFAST, factor)]
                )
            )
        }
        for factor in (1, 5)
    }

    for target in TARGETS[FILES.name]:
        if target.case != "large":
            assert target.what not in outcomes[1], "a case that was not run has no verdict"
        elif "tensorflow_async" in target.others:
            assert outcomes[1][target.what] == "not measured", "without the peer it is neither met nor missed"
        else:
            assert (outcomes[1][target.what], outcomes[5][target.what]) == ("met", "missed")


def test_a_lost_time_within_the_noise_is_neither_met_nor_missed() -> None:
    """A lost time within the noise is neither met nor missed. Guards against a target that is met because the machine
    was busy."""
    rounds = [{**TENSORFLOW, "loop": value} for value in (9.0, 8.0, 9.5, 10.5, 11.0)]
    run = results(tensorflow=rounds, holdfast=[{**HOLDFAST, "lost": -0.1, "loop": 10.0}] * 2)
    outcomes = {
        verdict.target.figure: verdict.outcome for verdict in verdicts(run) if verdict.target.others == ("tensorflow",)
    }

    assert outcomes["lost"] == "within noise"
    assert outcomes["durable"] == "met"


def test_memory_is_that_of_the_fresh_process() -> None:
    """Memory is that of the fresh process. Guards against later turns that reuse what the allocator kept and
    show none."""
    run = results(holdfast=[HOLDFAST, {**HOLDFAST, "extra_bytes": 0.0}])
    summary = run.summary("large", "tmpfs", "holdfast", "extra_bytes")

    assert summary == Summary(2.0**26, 2.0**26, 2.0**26, 1)


def test_targets_speak_of_cases_and_figures_that_exist() -> None:
    """Targets name existing cases and figures. Guards against a renamed case that turns a target into "not measured"
    for ever."""
    for field in (FILES, OBJECTS):
        targets = TARGETS[field.name]
        assert {target.case for target in targets} == {case.name for case in cases(field.name, quick=False)}
        assert {target.figure for target in targets} <= set(FIGURES)
        assert {other for target in targets for other in target.others} <= set(field.labels)


def test_the_report_says_what_is_missing() -> None:
    """The report names a failed contestant and the reason. Guards against one that is only absent from a table."""
    run = results(tensorflow=[TENSORFLOW, TENSORFLOW])
    run.failures.append(Failure("large", "tmpfs", "holdfast", 0, "StorageError: no space left"))
    text = markdown(run)

    assert "- Holdfast, large, tmpfs, warm-up: StorageError: no space left" in text
    assert "not measured" in text
    assert "1 GiB in 64 variables of 16 MiB, tmpfs (tmpfs)" in text


def test_the_report_shows_median_extremes_ratio_and_throughput() -> None:
    """The report shows median, extremes, ratio and throughput. Guards against wrong units: 0.6 s of 1 GiB is 600 ms and
    1.79 GB/s."""
    text = markdown(results(tensorflow=[TENSORFLOW] * 3, holdfast=[HOLDFAST] * 3))

    assert "600 (600 - 600)<br>1.00 x, 1.79 GB/s" in text
    assert "200 (200 - 200)<br>0.33 x, 5.37 GB/s" in text
    assert "64.0<br>8.00 x" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {6, 7}


def test_results_can_be_written_as_json() -> None:
    """Results can be written as JSON. Guards against a run of many minutes that is lost at its very end."""
    json.dumps(results(tensorflow=[TENSORFLOW, TENSORFLOW]).as_json())


def test_on_an_object_store_the_fastest_raw_client_sets_the_bound() -> None:
    """On an object store the fastest raw client sets the bound. Guards against a bound by a slow client, which anybody
    meets."""
    run = results_on_s3(
        s3fs_open=scaled(CLIENT, 4), s3fs_pipe=scaled(CLIENT, 2), obstore=CLIENT, holdfast=scaled(CLIENT, 1.2)
    )
    outcomes = {(verdict.target.figure, verdict.target.at_most): verdict for verdict in verdicts(run)}

    assert {key: verdict.outcome for key, verdict in outcomes.items()} == {
        ("durable", 1 / 2.7): "met",
        ("durable", 1 / 0.8): "met",
        ("durable", 1 / 0.95): "missed",
        ("restore", 1 / 0.8): "met",
        ("restore", 1 / 0.95): "missed",
        ("save_bytes", 256 * 2**20): "met",
    }
    assert outcomes["durable", 1 / 0.8].bound == pytest.approx(1.25)
    assert outcomes["durable", 1 / 0.8].limit == 1.0


def test_without_one_of_the_raw_clients_nothing_is_met() -> None:
    """Without one of the raw clients nothing is met. Guards against winning because the fastest client failed."""
    run = results_on_s3(s3fs_open=scaled(CLIENT, 4), s3fs_pipe=scaled(CLIENT, 2), holdfast=CLIENT)
    outcomes = {(verdict.target.figure, verdict.target.at_most): verdict.outcome for verdict in verdicts(run)}

    assert outcomes["durable", 1 / 0.8] == outcomes["restore", 1 / 0.8] == "not measured"
    assert outcomes["durable", 1 / 2.7] == "met"


def test_the_report_says_who_could_not_run() -> None:
    """The report says who could not run. Guards against a peer that is left out silently."""
    text = markdown(results_on_s3(s3fs_open=CLIENT, holdfast=CLIENT))

    assert "- PyTorch DCP, `FsspecWriter`: not installed: it is large" in text
    rows = [line for line in text.splitlines() if line.startswith("| save to durable")]
    assert rows
    assert all("not in the race" in row for row in rows)
