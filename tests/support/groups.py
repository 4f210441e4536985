"""Which tests stay together where several processes run them (`make test`): a pytest plugin.

A group is what one process runs in one go. Tests of one file stay together; so do those of files that share what is
dear to start. What takes long comes first, so that at the end all processes are done at about the same time.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

TOGETHER = (
    "tests/training/",
    "tests/cloud/",
)
"""Folders that are one group each, the longest first."""


def group_of(nodeid: str) -> str:
    path = nodeid.partition("::")[0]
    return next((folder for folder in TOGETHER if path.startswith(folder)), path)


class ByGroup(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    config.option.loadscopereorder = False  # by the number of tests, which says little
    return ByGroup(config, log)
