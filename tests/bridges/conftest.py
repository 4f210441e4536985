"""Models, and runs to export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="package")
def trained_models() -> dict[str, Any]:
    from support.bridged import MODELS, trained

    return {name: trained(name) for name in MODELS}


@pytest.fixture(scope="package")
def runs(trained_models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """A run of each model, and what the model predicted when its last step was saved."""
    from holdfast import CheckpointManager
    from holdfast.keras import training_state
    from support.bridged import predictions

    made = {}
    for name, model in trained_models.items():
        run = tmp_path_factory.mktemp(name.replace(" ", "_"))
        with CheckpointManager(training_state(model), run) as manager:
            manager.save(1, blocking=True)
        made[name] = run, predictions(model)
    return made
