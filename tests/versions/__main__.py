"""`make versions`: which TensorFlow on which Python passes. Each pair gets an environment of its own, made by uv.

    table       every TensorFlow of the range with the newest of all else that it takes, on every Python, as Markdown
    oldest      the lowest versions that pyproject.toml allows, on the oldest Python
    upstream    the newest of everything, whatever pyproject.toml allows, on the newest Python

It needs Python 3.11 for itself, and takes the interpreters that are on the PATH or that pyenv has installed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tomllib

ENVIRONMENTS = Path(".venv-versions")
UV = ENVIRONMENTS / "tools/bin/uv"
INSTALLED_WITHIN, TESTED_WITHIN = 900.0, 1800.0

TOOLS = ("hypothesis>=6.100", "psutil>=6", "pytest>=9", "pytest-xdist>=3.8")

TESTS = (
    # What depends on TensorFlow and Keras: real training, killed and resumed; the worker; the format. One test of the
    # format is left out, which starts a process for each number of dimensions.
    "tests/training/test_resume.py::test_a_killed_run_ends_bit_equal[2 workers, the chief in mid-save]",
    "tests/training/test_fitting.py",
    "tests/training/test_keras_on_several_workers.py",
    *(
        f"tests/worker/test_{name}.py"
        for name in (
            "tensorflow_internals",
            "training_state",
            "model_checkpoint",
            "apply",
            "large_tensors",
            "staging",
            "capture",
            "fit",
        )
    ),
    "tests/worker/test_backup_and_restore.py",
    "tests/worker/test_beside_variables.py",
    "tests/worker/test_every_layer.py",
    "tests/worker/test_iterators.py",
    "tests/worker/test_manager.py",
    "tests/bundle/test_against_tensorflow.py",
    "--deselect=tests/bundle/test_against_tensorflow.py::test_how_many_dimensions_tensorflow_joins",
    # What depends on protobuf, gRPC and cryptography, and on the libraries of the object stores.
    "tests/service/test_protocol.py",
    "tests/service/test_certificates.py",
    "tests/storage/test_internals.py",
    "tests/storage/test_object_clients.py",
    "tests/storage/test_s3_wire.py",
)


def _project() -> dict[str, Any]:
    return tomllib.loads(Path("pyproject.toml").read_text())["project"]


PROJECT = _project()
EXTRAS = ("tensorflow", "s3", "gcs", "azure")
TF_KERAS = next(each for each in PROJECT["optional-dependencies"]["demo"] if each.startswith("tf_keras"))


def tensorflows() -> list[str]:
    """The releases that the extra allows, such as 2.21, oldest first."""
    (allowed,) = (each for each in PROJECT["optional-dependencies"]["tensorflow"] if each.startswith("tensorflow"))
    lowest, end = map(int, re.findall(r"2\.(\d+)", allowed))
    return [f"2.{minor}" for minor in range(lowest, end)]


def pythons() -> list[str]:
    """The versions that the classifiers name, oldest first."""
    return [found[1] for each in PROJECT["classifiers"] if (found := re.search(r"Python :: (3\.\d+)", each))]


def interpreter(version: str) -> Path | None:
    """A Python of that version. What stands on the PATH may be a stand-in of pyenv's for one that is not active."""
    on_path = shutil.which(f"python{version}")
    of_pyenv = (Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python{version}")
    for python in [*([Path(on_path)] if on_path else []), *sorted(of_pyenv)]:
        if subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return python
    return None


class Outcome(NamedTuple):
    passed: bool
    told: str
    """As a cell of the table: how many tests passed or failed, or why none ran."""


def try_out(name: str, python: Path, *installs: Sequence[str]) -> Outcome:
    """Make an environment, with one `uv pip install` after the other, and run the tests in it."""
    directory = ENVIRONMENTS / name
    began = time.monotonic()
    try:
        _uv("venv", "--clear", "--python", str(python), str(directory))
        for install in installs:
            _uv("pip", "install", "--python", str(directory), *install)
        print(f"== {name}: installed after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return _test(directory)
    except _NotInstalled as refused:
        return Outcome(False, str(refused))
    except subprocess.TimeoutExpired as late:
        return Outcome(False, f"not done in {late.timeout:.0f} s")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _NotInstalled(Exception):
    pass


def _uv(*arguments: str) -> None:
    told = subprocess.run(
        [UV, "--no-progress", *arguments], capture_output=True, text=True, check=False, timeout=INSTALLED_WITHIN
    )
    if told.returncode:
        print(told.stderr, file=sys.stderr, flush=True)
        if "no wheels with a matching Python" in told.stderr:
            raise _NotInstalled("no wheel")
        raise _NotInstalled("cannot be installed")


def _test(directory: Path) -> Outcome:
    log = directory.with_name(f"{directory.name}.log")
    began = time.monotonic()
    with log.open("w") as output:
        status = subprocess.run(
            [directory / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses=2", *TESTS],
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=TESTED_WITHIN,
        ).returncode
    lines = log.read_text(errors="replace").splitlines()
    counts = {
        word: int(number)
        for line in lines
        if re.search(r"\d+ (passed|failed|errors?)\b.* in [\d.]+s", line)
        for number, word in re.findall(r"(\d+) (passed|failed|errors?)\b", line)
    }
    print(f"== {directory.name}: tested in {time.monotonic() - began:.0f} s: {counts}", file=sys.stderr, flush=True)
    if status == 0 and counts.get("passed"):
        return Outcome(True, f"{counts['passed']} pass")
    print("\n".join([*lines[-60:], f"all of it: {log}"]), file=sys.stderr, flush=True)
    bad = sum(number for word, number in counts.items() if word != "passed")
    return Outcome(False, f"{bad} of {sum(counts.values())} fail" if bad else "no test ran")


def table() -> bool:
    """Print the table. True if no pair fails that has an interpreter and a wheel."""
    columns = {version: interpreter(version) for version in pythons()}
    print("| TensorFlow |", *(f"Python {version} |" for version in columns))
    print("| --- |", *("--- |" for _ in columns), flush=True)
    fine = True
    for release in tensorflows():
        cells = []
        for version, python in columns.items():
            if python is None:
                cells.append("no interpreter here")
                continue
            outcome = try_out(
                f"tensorflow-{release}-python-{version}",
                python,
                ["--editable", f".[{','.join(EXTRAS)}]", f"tensorflow=={release}.*", TF_KERAS, *TOOLS],
            )
            fine &= outcome.passed or outcome.told == "no wheel"
            cells.append(outcome.told)
        print(f"| {release} |", *(f"{cell} |" for cell in cells), flush=True)
    return fine


def oldest() -> bool:
    version, python = _first_here(pythons())
    every = f".[{','.join(EXTRAS)}]"
    install = ["--resolution", "lowest-direct", "--editable", every, TF_KERAS, *TOOLS]
    return _alone(f"oldest-python-{version}", python, install)


def upstream() -> bool:
    version, python = _first_here(reversed(pythons()))
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(each for extra in EXTRAS for each in extras[extra]), TF_KERAS, *TOOLS]
    unbounded = {name[0] for each in wanted if (name := re.match(r"[\w.-]+", each))}
    return _alone(
        f"upstream-python-{version}", python, ["--upgrade", *sorted(unbounded)], ["--no-deps", "--editable", "."]
    )


def _first_here(versions: Iterable[str]) -> tuple[str, Path]:
    here = ((version, python) for version in versions if (python := interpreter(version)))
    return next(here, None) or sys.exit(f"no Python of {', '.join(pythons())} is here")


def _alone(name: str, python: Path, *installs: Sequence[str]) -> bool:
    outcome = try_out(name, python, *installs)
    print(f"{name}: {outcome.told}")
    return outcome.passed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="versions", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("table", "oldest", "upstream"))
    return 0 if {"table": table, "oldest": oldest, "upstream": upstream}[parser.parse_args(arguments).what]() else 1


if __name__ == "__main__":
    sys.exit(main())
