"""check.py finds what it is there to find: a check that cannot fail proves nothing."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"

pytestmark = pytest.mark.processes


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEPLOY, tmp_path / "deploy"))


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "check.py")], capture_output=True, text=True, timeout=60, check=False
    )


def test_what_is_here_passes() -> None:
    """The deployment files pass the check. Guards against files that drift away from their schemas."""
    done = check(DEPLOY)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_mistake_of_each_kind_is_reported(copy: Path) -> None:
    """Each kind of mistake is reported. Guards against a misspelt field that Kubernetes silently drops."""
    for name, right, wrong in [
        ("coordinator.Dockerfile", "WORKDIR /source", "WORKDIR source"),
        ("kubernetes/workers.yaml", "backoffLimit:", "backofLimit:"),
        ("compose.yaml", "restart: on-failure", "restarts: on-failure"),
    ]:
        text = (copy / name).read_text()
        assert right in text
        (copy / name).write_text(text.replace(right, wrong))
    done = check(copy)
    assert done.returncode == 1
    failed = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert failed == ["hadolint", "kubernetes-validate", "kubernetes-validate", "check-jsonschema"]


@pytest.mark.parametrize("lost", ["coordinator.Dockerfile", "compose.yaml", "kubernetes"])
def test_nothing_to_check_is_a_failure(copy: Path, lost: str) -> None:
    """Nothing to check is a failure. Guards against files that were moved and go unchecked."""
    if lost == "kubernetes":
        shutil.rmtree(copy / lost)
    else:
        for path in copy.glob(f"*{Path(lost).suffix}"):
            path.unlink()
    assert check(copy).returncode != 0


def test_a_missing_tool_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing linter is a failure. Guards against an environment that passes everything."""
    spec = importlib.util.spec_from_file_location("deploy_check", DEPLOY / "check.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert module.main(DEPLOY) == 1
    assert "hadolint is not in /nowhere" in capsys.readouterr().err
