"""Values in a form that a test can compare: digests of their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def digest(value: Any) -> str:
    """Of dtype, shape and every bit."""
    array = np.asarray(value)
    content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
    return f"{array.dtype}{list(array.shape)}:{hashlib.sha256(content).hexdigest()[:16]}"


def digests(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: digest(value) for name, value in values.items()}
