"""Checks that what was restored fits the program.

TensorFlow gives each value of a checkpoint to the object of the same name, at once or when it is created, and says
nothing about values and objects without a counterpart. A warm start wants that. But it also happens if an attribute was
renamed between two runs: nothing is restored, training starts from scratch, and soon the last real checkpoint is gone.
So it is an error if no trained variable has got a value, and nothing is saved, unless the program says that this is
intended. If some variables have got values, what is left over is logged once, by name, on both sides. See
docs/design/010-fit.md.
"""

from __future__ import annotations

import weakref
from typing import Any

import tensorflow as tf

from holdfast.tensorflow_internals import Load, first_part, has_values
from holdfast.trackables import can_be_trained, children, few, is_trained, variable_of, walk
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.logger import logger

_log = logger("holdfast")

_COUNTER = "save_counter"
_NAMED, _LISTED = 5, 20
"""How many names an error and a warning have."""


class Fit:
    """The fit between a checkpoint and a `tf.train.Checkpoint`, judged by the objects that exist at the moment.

    All workers have the same objects and the same checkpoint, so all come to the same judgement.
    """

    def __init__(self, load: Load, root: Any, prefix: str, what: str = "this program") -> None:
        """
        load: the restore.
        root: the `tf.train.Checkpoint` that was restored.
        prefix: the name for the checkpoint in messages.
        what: the name for the program's objects in messages.
        """
        self._load = load
        self._root = root
        self._prefix = prefix
        self._what = what
        self._told = False
        self._complained = False

    def judge_when_let_go(self, status: Any) -> None:
        """Tell what does not fit when the program lets go of a load status: until then it may say what is intended."""
        weakref.finalize(status, self.tell, so_far=True).atexit = False

    def tell(self, so_far: bool = False) -> None:
        """Log what does not fit, once: that nothing does, or what is left over."""
        known = self._complained
        complaint = self.complaint(so_far)
        if complaint is None:
            self.warn(so_far)
        elif not known:
            _log.warning("%s", complaint)

    def complaint(self, so_far: bool = False) -> InvalidRequest | None:
        """Return an error if nothing fits and the program has not said that this is intended.

        so_far: do not judge yet if trained variables may still be created.
        """
        complaint = self._judge(so_far)
        self._complained = self._complained or complaint is not None
        return complaint

    def _judge(self, so_far: bool) -> InvalidRequest | None:
        if self._load.failures:
            return InvalidRequest(
                f"{self._prefix} was not restored: {'; '.join(self._load.failures[:_NAMED])}",
                phase="restore",
                object=self._prefix,
            )
        if self._told:
            return None  # it fits at least in part, and will go on to
        left, here = self._left(), self._here()
        trained = {name: each for name, each in here.items() if _is_trained(each)}
        weights = [key for key in left if self._load.may_be_trained(key)]
        to_come = self._is_to_come(without_optimizers=True)
        if self._load.expects_partial or (so_far and (to_come or not here)):
            return None
        if weights and not trained and to_come:
            return InvalidRequest(
                f"{self._prefix} has {len(weights)} values ({few(weights)}) for objects of {self._what} that are "
                "still to be built: a save would lose them. Build the model, for example by calling it, and then "
                "save. If this is intended, say so with manager.restore().expect_partial()",
                phase="restore",
                object=self._prefix,
            )
        found = list(here.values())
        if trained:
            here, left, found = trained, weights, [*trained.values(), *self._of_models()]
        if not left or any(map(self._load.has_reached, found)):
            return None
        return InvalidRequest(
            f"nothing of {self._prefix} fits {self._what}: {len(left)} of its values found no object "
            f"({few(left)}), and none of the {len(here)} {'trained variables' if trained else 'objects'} here got a "
            f"value ({few(list(here))}). Has something been renamed since the save? Give it its old name, or use "
            "another directory: nothing is saved over this checkpoint. If this is intended, say so with "
            "manager.restore().expect_partial()",
            phase="restore",
            object=self._prefix,
        )

    def warn(self, so_far: bool = False) -> None:
        """Log what is left over, once, unless the program expects it.

        so_far: do not judge yet if objects may still be created.
        """
        if self._told or (so_far and self._is_to_come()):
            return
        self._told = True
        left = self._left()
        lacking = [name for name, each in self._here().items() if not self._load.has_reached(each)]
        if (left or lacking) and not self._load.expects_partial:
            _log.warning(
                "%s fits %s in part: %d of its values found no object (%s), and %d objects here got no value (%s). "
                "If this is intended, say so with manager.restore().expect_partial()",
                self._prefix,
                self._what,
                len(left),
                few(left, _LISTED),
                len(lacking),
                few(lacking, _LISTED),
            )

    def _is_to_come(self, without_optimizers: bool = False) -> bool:
        """Return whether values wait for something that an object makes when it is built."""
        found = list(self._load.objects.values())
        left_out = [each for each in found if without_optimizers and callable(getattr(each, "apply_gradients", None))]
        left_out += [child for each in left_out for child in children(each).values()]
        identities = set(map(id, left_out))
        return any(self._is_unbuilt(each) for each in found if id(each) not in identities)

    def _is_unbuilt(self, found: Any) -> bool:
        if found is self._root or isinstance(found, tf.train.Checkpoint) or not self._load.is_waited_for_at(found):
            return False
        if hasattr(found, "built"):
            return not found.built
        # If the object does not say so itself: one that already has variables has been built.
        return not any(map(_is_trained, children(found).values()))

    def _of_models(self) -> list[Any]:
        """Return what is or was trained: all variables, frozen ones too, except those of optimizers and metrics."""
        found = [each for _, each in walk(self._root, past=_has_no_weights)]
        variables = [(each, variable_of(first_part(each))) for each in found]
        return [each for each, variable in variables if variable is not None and can_be_trained(variable.dtype)]

    def _left(self) -> list[str]:
        return [key for key in self._load.left_over if key.split("/")[0] != _COUNTER]

    def _here(self) -> dict[str, Any]:
        """Return the objects that have their own values, by the names with which their keys begin."""
        return {name: each for name, each in walk(self._root) if name != _COUNTER and has_values(each)}


def _has_no_weights(name: str, found: Any) -> bool:
    return "metric-" in name or any(
        callable(getattr(found, each, None)) for each in ("apply_gradients", "update_state")
    )


def _is_trained(found: Any) -> bool:
    part = first_part(found)
    variable = variable_of(part)
    return variable is not None and is_trained(part, variable.dtype)
