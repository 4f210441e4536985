"""Which tests stay together where several processes run them (`make test`): a pytest plugin.

A group is what one process runs in one go. Tests of one file stay together; so do those of a folder that share what is
dear to start: worlds of TensorFlow processes, or object stores. What takes long comes first, so that at the end all
processes are done at about the same time.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

TOGETHER = ("tests/training/", "tests/cloud/")
LONGEST = (
    *TOGETHER,
    "tests/worker/test_training_state.py",
    "tests/proof/",
    "tests/worker/",
    "tests/processes/",
    "tests/storage/test_store_contract.py",
    "tests/storage/test_object_clients.py",
    "tests/demo/",
    "tests/deploy/",
    "tests/simulation/",
)
"""Those that take long, by how long they do. The others, of seconds each, fill up the end."""


def group_of(nodeid: str) -> str:
    path = nodeid.partition("::")[0]
    return next((folder for folder in TOGETHER if path.startswith(folder)), path)


class ByGroup(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def remove_node(self, node: WorkerController) -> str | None:
        """Take back what a process has left over, and return the test during which it died: that one has failed.

        pytest-xdist (3.8) would run that test again, and give out groups of which nothing is left: a process that is
        given one waits for ever.
        """
        groups = self.assigned_work.pop(node)
        left = [(name, test) for name, tests in groups.items() for test, done in tests.items() if not done]
        if not left:
            return None
        name, died_in = left[0]
        groups[name][died_in] = True
        self.workqueue.update({name: groups[name] for name, test in left if test != died_in})
        for other in self.assigned_work:
            self._reschedule(other)
        return died_in

    def schedule(self) -> None:
        super().schedule()
        # A process begins a test when it knows of the next one, or that there is none. One that comes later needs two.
        for node in self.nodes:
            self._reschedule(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    config.option.loadscopereorder = False  # by the number of tests, which says little
    return ByGroup(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes
        items.sort(key=lambda item: _rank(item.nodeid))


def _rank(nodeid: str) -> int:
    return next((rank for rank, start in enumerate(LONGEST) if nodeid.startswith(start)), len(LONGEST))
