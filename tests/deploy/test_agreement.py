"""What one deployment file says and another relies on: ports, names, paths, users, command lines."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import pytest
import yaml

from holdfast.cli.coordinator import command as coordinator_command
from holdfast_protos import settings
from holdfast_protos.v1 import coordinator_pb2

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
COORDINATOR_SERVICE = coordinator_pb2.DESCRIPTOR.services_by_name["Coordinator"].full_name
DOCKERFILES = {"holdfast-coordinator": "coordinator.Dockerfile", "holdfast-worker": "worker.Dockerfile"}


def resource(kind: str, name: str) -> dict[str, Any]:
    found = [
        document
        for path in KUBERNETES.glob("*.yaml")
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] == kind and document["metadata"]["name"] == name
    ]
    assert len(found) == 1, f"{len(found)} resources {kind}/{name}"
    return dict(found[0])


def pod(kind: str, name: str) -> dict[str, Any]:
    return dict(resource(kind, name)["spec"]["template"]["spec"])


def container(kind: str, name: str) -> dict[str, Any]:
    (only,) = pod(kind, name)["containers"]
    return dict(only)


def environment(kind: str, name: str) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(kind, name)["env"]}


def instructions(image: str, name: str) -> list[str]:
    """What follows the word `name` in the final stage of an image's Dockerfile, continued lines joined."""
    text = (DEPLOY / DOCKERFILES[image]).read_text().replace("\\\n", " ")
    stage = text[text.rindex("\nFROM ") :]
    return [line.removeprefix(name).strip() for line in stage.splitlines() if line.startswith(f"{name} ")]


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"deploy_{name}", DEPLOY / f"{name}.py")
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


COORDINATOR_COMMANDS = {
    "Dockerfile": lambda: json.loads(instructions("holdfast-coordinator", "CMD")[0]),
    "compose": lambda: COMPOSE["services"]["coordinator"]["command"],
    "kubernetes": lambda: container("Deployment", "holdfast-coordinator")["args"],
}


@pytest.mark.processes
def test_the_command_line_knows_every_option_used() -> None:
    """The command line knows every option that the files use. Guards against a renamed option, and coordinators that
    end with a usage error."""
    shown = subprocess.run(
        [sys.executable, "-c", "from holdfast.cli import main; main()", "coordinator", "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    for place, command in COORDINATOR_COMMANDS.items():
        name, *arguments = command()
        assert name == "coordinator", place
        for word in arguments[::2]:
            assert re.search(rf"^\s+{word}\b", shown, re.MULTILINE), f"{place}: {word}"


@pytest.mark.parametrize("place", COORDINATOR_COMMANDS)
def test_the_coordinator_listens_where_it_is_looked_for(place: str) -> None:
    """The coordinator listens where others look for it. Guards against another port, or loopback alone, and workers
    that wait in vain."""
    listen = option(COORDINATOR_COMMANDS[place](), "--listen")
    assert listen == "0.0.0.0:7070"
    assert instructions("holdfast-coordinator", "EXPOSE") == ["7070"]
    assert '"127.0.0.1:7070"' in instructions("holdfast-coordinator", "HEALTHCHECK")[0]


def test_workers_find_the_coordinator() -> None:
    """HOLDFAST_COORDINATOR names the service. Guards against a renamed service under an old name."""
    for name, service in COMPOSE["services"].items():
        if name != "coordinator":
            assert service["environment"]["HOLDFAST_COORDINATOR"] == "coordinator:7070"
    service = resource("Service", "holdfast-coordinator")
    (port,) = service["spec"]["ports"]
    assert environment("Job", "holdfast-worker")["HOLDFAST_COORDINATOR"] == f"holdfast-coordinator:{port['port']}"
    assert container("Deployment", "holdfast-coordinator")["ports"] == [
        {"name": port["targetPort"], "containerPort": port["port"]}
    ]


def test_probes_ask_the_health_service_of_the_coordinator() -> None:
    """Probes ask the coordinator's health service, by TLS. Guards against a probe that the coordinator does not
    understand, and a pod that never becomes ready."""
    coordinator = container("Deployment", "holdfast-coordinator")
    (healthcheck,) = instructions("holdfast-coordinator", "HEALTHCHECK")
    command = json.loads(healthcheck[healthcheck.index("[") :])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert coordinator[probe]["exec"] == {"command": command}
        # Starting Python and importing gRPC takes seconds on a busy node.
        assert coordinator[probe]["timeoutSeconds"] >= 5
    assert module("healthcheck").SERVICE == COORDINATOR_SERVICE


def test_only_workers_reach_the_coordinator_and_each_other() -> None:
    """Network policies let in workers alone. Guards against labels that were changed on one side: a policy that selects
    nobody protects nobody, and one that lets in nobody stops the training."""
    labels = {
        name: resource(kind, name)["spec"]["template"]["metadata"]["labels"]
        for kind, name in [("Deployment", "holdfast-coordinator"), ("Job", "holdfast-worker")]
    }
    for name in labels:
        policy = resource("NetworkPolicy", name)["spec"]
        assert policy["policyTypes"] == ["Ingress"]
        assert [other for other in labels if policy["podSelector"]["matchLabels"].items() <= labels[other].items()] == [
            name
        ]
        (rule,) = policy["ingress"]
        (peer,) = rule["from"]
        assert peer.keys() == {"podSelector"}  # of this namespace
        admitted = peer["podSelector"]["matchLabels"]
        assert [other for other in labels if admitted.items() <= labels[other].items()] == ["holdfast-worker"]
    (port,) = container("Deployment", "holdfast-coordinator")["ports"]
    (rule,) = resource("NetworkPolicy", "holdfast-coordinator")["spec"]["ingress"]
    assert rule["ports"] == [{"port": port["name"], "protocol": "TCP"}]


def with_tls(kind: str, name: str) -> dict[str, Any]:
    """The pod of kubernetes-tls: its patches do nothing but add to lists."""
    patched = resource(kind, name)
    overlay = yaml.safe_load((DEPLOY / "kubernetes-tls" / "kustomization.yaml").read_text())
    assert overlay["resources"] == ["../kubernetes"]
    (patch,) = [patch["patch"] for patch in overlay["patches"] if patch["target"] == {"kind": kind, "name": name}]
    for step in yaml.safe_load(patch):
        assert step.keys() == {"op", "path", "value"}
        assert step["op"] == "add"
        *way, last = step["path"].split("/")[1:]
        assert last == "-"
        at: Any = patched
        for part in way:
            at = at[int(part) if part.isdigit() else part]
        at.append(step["value"])
    return dict(patched["spec"]["template"]["spec"])


def test_certificates_and_tokens_are_where_they_are_looked_for() -> None:
    """With certificates and tokens, each path lies in a Secret that the pod has, read-only, not for others. Guards
    against pods that never start, a worker that is given the coordinator's private key, and a file that the kubelet
    does not replace when its Secret changes."""
    secrets = {}
    for kind, name in [("Deployment", "holdfast-coordinator"), ("Job", "holdfast-worker")]:
        spec = with_tls(kind, name)
        (only,) = spec["containers"]
        words = [*only["args"], *(variable["value"] for variable in only.get("env", []))]
        paths = [PurePosixPath(word) for word in words if word.startswith("/etc/")]
        volumes = {volume["name"]: volume["secret"] for volume in spec["volumes"] if "secret" in volume}
        mounts = {mount["name"]: mount for mount in only["volumeMounts"] if mount["name"] in volumes}
        assert {PurePosixPath(mount["mountPath"]) for mount in mounts.values()} == {path.parent for path in paths}
        assert all(mount["readOnly"] and "subPath" not in mount for mount in mounts.values())
        assert volumes.keys() == mounts.keys()
        assert {secret["defaultMode"] for secret in volumes.values()} == {0o440}
        secrets[name] = {secret["secretName"] for secret in volumes.values()}
    assert secrets["holdfast-coordinator"].isdisjoint(secrets["holdfast-worker"])
    page = (DEPLOY / "README.md").read_text()
    assert all(f"secret generic {name} " in page for names in secrets.values() for name in names)

    shown = {variable["name"] for variable in with_tls("Job", "holdfast-worker")["containers"][0]["env"]}
    assert {settings.CA, settings.TOKEN_FILE} <= shown
    (coordinator,) = with_tls("Deployment", "holdfast-coordinator")["containers"]
    options = [word for word in coordinator["args"] if word.startswith("--")]
    assert set(options) <= {option for parameter in coordinator_command.params for option in parameter.opts}


def test_status_in_the_coordinators_container_asks_it() -> None:
    """`holdfast status RUN` asks the coordinator of its container. Guards against a status that finds nobody until the
    log names the coordinator, with the first save."""
    (environment,) = instructions("holdfast-coordinator", "ENV")
    assert "HOLDFAST_COORDINATOR=127.0.0.1:7070" in environment.split()


@pytest.mark.parametrize("image", DOCKERFILES)
def test_the_base_image_can_be_pinned(image: str) -> None:
    """One argument names the base image of all stages, and packages have the versions of the tests. Guards against a
    stage that is built from something else than what was pinned."""
    text = (DEPLOY / DOCKERFILES[image]).read_text()
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${PYTHON}", "${PYTHON}"]
    assert re.findall(r"^ARG PYTHON=(\S+)", text, re.MULTILINE) == ["python:3.11-slim-bookworm"]
    installs = re.findall(r"pip install .*", text)
    assert installs
    assert all("--constraint" in install for install in installs)


def test_compose_workers_form_one_world() -> None:
    """Compose's workers form one world. Guards against two workers with one index, or an address that is no service."""
    workers = sorted(name for name in COMPOSE["services"] if name.startswith("worker-"))
    for index, name in enumerate(workers):
        assert json.loads(COMPOSE["services"][name]["environment"]["TF_CONFIG"]) == {
            "cluster": {"worker": [f"{worker}:2222" for worker in workers]},
            "task": {"type": "worker", "index": index},
        }
        assert COMPOSE["services"][name]["restart"] == "on-failure"


def test_the_jobs_workers_form_one_world() -> None:
    """The Job's workers form one world. Guards against a number that was changed in one place of three, and names that
    are not those of the pods."""
    job, service = resource("Job", "holdfast-worker"), resource("Service", "holdfast-workers")
    workers = job["spec"]["completions"]
    assert job["spec"]["parallelism"] == workers
    assert job["spec"]["completionMode"] == "Indexed"
    (port,) = service["spec"]["ports"]
    for index in range(workers):
        config = module("launch").tf_config(
            {**environment("Job", "holdfast-worker"), "JOB_COMPLETION_INDEX": str(index)}
        )
        # What Kubernetes calls the pods of an Indexed Job whose template names a subdomain.
        subdomain = job["spec"]["template"]["spec"]["subdomain"]
        names = [f"{job['metadata']['name']}-{task}.{subdomain}:{port['port']}" for task in range(workers)]
        assert json.loads(config) == {"cluster": {"worker": names}, "task": {"type": "worker", "index": index}}
    assert container("Job", "holdfast-worker")["ports"] == [{"name": port["targetPort"], "containerPort": port["port"]}]
    assert instructions("holdfast-worker", "EXPOSE") == [str(port["port"])]


def test_the_workers_have_names_before_they_are_ready() -> None:
    """Workers have names before they are ready. Guards against a subdomain that is no headless service of these
    pods."""
    service, job = resource("Service", "holdfast-workers"), resource("Job", "holdfast-worker")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()


def test_a_lost_worker_restarts_the_world() -> None:
    """The Job restarts lost workers often enough. Guards against a Job that is over after a few losses, with `Never` or
    the default limit of 6."""
    job = resource("Job", "holdfast-worker")["spec"]
    assert job["template"]["spec"]["restartPolicy"] == "OnFailure"
    assert job["backoffLimit"] >= 100 * job["completions"]
    # The API server refuses these two together with OnFailure; the schemas do not say so.
    assert not {"podFailurePolicy", "backoffLimitPerIndex"} & job.keys()


def test_the_coordinators_service_selects_its_pods() -> None:
    """The coordinator's service selects its pods. Guards against labels that were changed on one side."""
    deployment = resource("Deployment", "holdfast-coordinator")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert resource("Service", "holdfast-coordinator")["spec"]["selector"].items() <= labels.items()
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    # Two at a time would take the lead of the run from each other.
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")


def test_all_see_one_folder_and_train_below_the_root() -> None:
    """All see one folder and train below the root. Guards against a directory that the coordinator does not serve, or a
    volume of a worker's own."""
    root = option(COORDINATOR_COMMANDS["kubernetes"](), "--root")
    assert all(option(command(), "--root") == root for command in COORDINATOR_COMMANDS.values())
    training = [
        json.loads(instructions("holdfast-worker", "CMD")[0]),
        container("Job", "holdfast-worker")["args"],
    ]
    for command in training:
        assert PurePosixPath(root) in PurePosixPath(command[-1]).parents
    assert not any("command" in service for name, service in COMPOSE["services"].items() if name != "coordinator")

    for service in COMPOSE["services"].values():
        assert service["volumes"] == [f"checkpoints:{root}"]
    assert set(COMPOSE["volumes"]) == {"checkpoints"}
    claim = resource("PersistentVolumeClaim", "holdfast-checkpoints")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for kind, name in [("Deployment", "holdfast-coordinator"), ("Job", "holdfast-worker")]:
        (mount,) = [mount for mount in container(kind, name)["volumeMounts"] if mount["mountPath"] == root]
        (volume,) = [volume for volume in pod(kind, name)["volumes"] if volume["name"] == mount["name"]]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


@pytest.mark.parametrize(
    ("image", "kind", "name"),
    [("holdfast-coordinator", "Deployment", "holdfast-coordinator"), ("holdfast-worker", "Job", "holdfast-worker")],
)
def test_nobody_is_root_and_all_are_one_user(image: str, kind: str, name: str) -> None:
    """All containers run as one user, not root. Guards against users who cannot write to each other's folders, and
    clusters that refuse root."""
    assert instructions(image, "USER") == ["10001:10001"]
    (setup,) = [run for run in instructions(image, "RUN") if "useradd" in run]
    assert "groupadd --gid 10001 holdfast" in setup
    assert "--uid 10001 --gid 10001" in setup
    assert "install -d -o holdfast -g holdfast /checkpoints" in setup
    security = pod(kind, name)["securityContext"]
    assert {security[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {10001}
    assert security["runAsNonRoot"] is True
    assert container(kind, name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_commands_name_files_that_the_images_have() -> None:
    """Commands name files that the images have. Guards against a renamed script, and a container that ends at its
    start."""
    used = {
        "holdfast-coordinator": instructions("holdfast-coordinator", "HEALTHCHECK"),
        "holdfast-worker": [
            *instructions("holdfast-worker", "ENTRYPOINT"),
            *instructions("holdfast-worker", "CMD"),
            *container("Job", "holdfast-worker")["args"],
        ],
    }
    for image, commands in used.items():
        copied = {
            PurePosixPath(target) / PurePosixPath(source).name
            for copy in instructions(image, "COPY")
            if not copy.startswith("--from")
            for *sources, target in [copy.split()]
            for source in sources
        }
        scripts = {
            PurePosixPath(path) for command in commands for path in re.findall(r"/opt/holdfast/\w+\.py", command)
        }
        assert scripts
        assert scripts <= copied, image
        assert all((DEPLOY / script.name).exists() for script in scripts)


def test_images_have_one_name_everywhere() -> None:
    """Images have one name everywhere. Guards against pods that pull an image that does not exist."""
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert {image["name"] for image in kustomization["images"]} == set(DOCKERFILES)
    assert {service["image"] for service in COMPOSE["services"].values()} == set(DOCKERFILES)
    for service in COMPOSE["services"].values():
        assert service["build"]["dockerfile"] == f"deploy/{DOCKERFILES[service['image']]}"
    assert container("Deployment", "holdfast-coordinator")["image"] == "holdfast-coordinator"
    assert container("Job", "holdfast-worker")["image"] == "holdfast-worker"


def test_the_kustomization_has_every_manifest() -> None:
    """The kustomization has every manifest. Guards against a manifest that is never applied."""
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    there = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == there


def test_both_images_build_the_same_wheel_from_all_it_needs() -> None:
    """Both images build the same wheel from all that it needs. Guards against a new source root that is not copied into
    the build."""
    stages = {(DEPLOY / name).read_text().split("\nFROM ")[1] for name in DOCKERFILES.values()}
    (stage,) = stages
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    for path in re.findall(r'"(\w+)/holdfast\w*"', project):
        assert f"COPY {path} ./{path}\n" in stage
