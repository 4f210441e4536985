"""Check the Dockerfiles, manifests and compose file here with the tools made for them; status 1 if one objects.

The tools are those of the Python environment that runs this (extra `dev`). A tool that is missing is a failure.
"""

import shutil
import subprocess
import sys
from pathlib import Path

# The oldest Kubernetes whose fields the manifests use, and the newest that was tried.
KUBERNETES_VERSIONS = ("1.33.0", "1.37.0")


def commands(folder: Path) -> list[list[str]]:
    """What to run on the files of `folder`. A ValueError if it lacks one of the three kinds of file."""
    dockerfiles = _found(folder, "*.Dockerfile")
    # A kustomization is read by kubectl and never sent to a cluster: no schema of Kubernetes describes it.
    manifests = [path for path in _found(folder, "kubernetes/*.yaml") if not path.endswith("/kustomization.yaml")]
    compose = _found(folder, "compose.yaml")
    return [
        ["hadolint", *dockerfiles],
        *(["kubernetes-validate", "--strict", "-k", version, *manifests] for version in KUBERNETES_VERSIONS),
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", *compose],
    ]


def main(folder: Path) -> int:
    failed = 0
    for command in commands(folder):
        beside_python = str(Path(sys.executable).parent)
        tool = shutil.which(command[0], path=beside_python)
        if tool is None:
            print(f"{command[0]} is not in {beside_python}: install the extra `dev`", file=sys.stderr)
            failed += 1
        elif subprocess.run([tool, *command[1:]], check=False).returncode != 0:
            print(f"failed: {' '.join(command)}", file=sys.stderr)
            failed += 1
    return int(failed > 0)


def _found(folder: Path, pattern: str) -> list[str]:
    paths = sorted(str(path) for path in folder.glob(pattern))
    if not paths:
        raise ValueError(f"no {pattern} in {folder}: nothing would be checked")
    return paths


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
