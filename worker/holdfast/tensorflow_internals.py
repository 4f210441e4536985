"""The door to TensorFlow's internals. With `keras_internals`, it holds every use of what they do not document.

Any release may drop such a name. `check` looks for all of them, and tries out the restore that is built on them, before
anything changes. See docs/design/012-tensorflow-internals.md.

- `Load` asks TensorFlow's load status which values of a checkpoint have found their object, and which have not yet.
- `serve` makes TensorFlow's restore take tensors from memory instead of files.
- What layers compute from their restored values follows them.
- Keras 3 variables that are made after a restore are restored as soon as they are initialized, and show themselves to
  TensorFlow as they are, in whatever precision Keras computes. docs/design/004-restore.md says why.

This module is longer than others: its tables and its check cover Keras's internals, too.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial, wraps
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import tensorflow as tf

from holdfast.trackables import can_be_trained, variable_of
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.internals import Internals
from holdfast_storage.layout import OBJECT_GRAPH_KEY
from holdfast_storage.logger import logger

_log = logger("holdfast")

TENSORFLOW = Internals(
    "tensorflow",
    "tensorflow>=2.18,<2.22",
    """
    tensorflow.core.protobuf.trackable_object_graph_pb2 TrackableObjectGraph
    tensorflow.python.checkpoint.checkpoint:CheckpointLoadStatus _checkpoint
    tensorflow.python.checkpoint.checkpoint:_CheckpointRestoreCoordinator deferred_slot_restorations slot_restorations
    tensorflow.python.checkpoint.checkpoint:_CheckpointRestoreCoordinator object_graph_proto object_by_proto_id
    tensorflow.python.checkpoint.checkpoint:_CheckpointRestoreCoordinator matched_proto_ids unused_attributes
    tensorflow.python.checkpoint.checkpoint:_CheckpointRestoreCoordinator dtype_map expect_partial restore_uid
    tensorflow.python.checkpoint.checkpoint:_CheckpointRestoreCoordinator restore_saveables
    tensorflow.python.checkpoint.restore:CheckpointPosition checkpoint restore_uid trackable value_tensors()
    tensorflow.python.checkpoint.restore:CheckpointPosition _restore_descendants(reader) _single_restore()
    tensorflow.python.checkpoint.tensor_callable:Callable tensor
    tensorflow.python.distribute.parameter_server_strategy_v2:ParameterServerStrategyV2 _cluster_coordinator
    tensorflow.python.distribute.sharded_variable:ShardedVariableMixin variables
    tensorflow.python.eager.context context()
    tensorflow.python.eager.context:Context device_name
    tensorflow.python.ops.gen_io_ops restore_v2(prefix,tensor_names,shape_and_slices,dtypes,name)
    tensorflow.python.ops.script_ops _py_funcs
    tensorflow.python.ops.script_ops:FuncRegistry _funcs
    tensorflow.python.ops.resource_variable_ops:BaseResourceVariable _distribute_strategy
    tensorflow.python.ops.io_ops restore_v2(prefix,tensor_names,shape_and_slices,dtypes,name)
    tensorflow.python.trackable.base:Trackable _deferred_dependencies _maybe_initialize_trackable() _update_uid
    tensorflow.python.trackable.base:Trackable _track_trackable(trackable,name,overwrite)
    tensorflow.python.trackable.base:Trackable _restore_from_tensors(restored_tensors) _serialize_to_tensors()
    tensorflow.python.trackable.base:Trackable _trackable_children(save_type)
    tensorflow.python.training.saving.saveable_object_util saveable_objects_from_trackable(obj)
    """,
)
KERAS = Internals(
    "keras",
    "keras>=3.8,<3.16",
    """
    keras.src.backend AutocastScope(dtype)
    keras.src.backend.common.variables:Variable _deferred_initialize() _value
    keras.src.layers.layer:Layer _flatten_layers(include_self) _layers _metrics _seed_generators
    keras.src.layers.layer:Layer _non_trainable_variables _trainable_variables
    keras.src.layers.preprocessing.index_lookup:IndexLookup _has_input_vocabulary
    keras.src.layers.preprocessing.normalization:Normalization finalize_state()
    keras.src.random.seed_generator:SeedGenerator state
    keras.src.trainers.compile_utils:CompileLoss build built metrics
    keras.src.trainers.compile_utils:CompileMetrics build built metrics
    keras.src.trainers.trainer:Trainer _compile_loss _compile_metrics _loss_tracker
    keras.src.utils.tracking DotNotTrackScope()
    """,
)
TF_KERAS = Internals(
    "tf_keras",
    "tf_keras>=2.18,<2.22",
    """
    tf_keras.src.backend:RandomGenerator RNG_LEGACY_STATEFUL _rng_type
    tf_keras.src.engine.base_layer:BaseRandomLayer _random_generator
    tf_keras.src.engine.base_layer:Layer _flatten_layers(recursive,include_self) finalize_state()
    tf_keras.src.engine.compile_utils:LossesContainer build built metrics
    tf_keras.src.engine.compile_utils:MetricsContainer build built metrics
    tf_keras.src.engine.training:Model compiled_loss compiled_metrics
    tf_keras.src.layers.preprocessing.index_lookup:IndexLookup _has_input_vocabulary
    """,
)
TABLES = (TENSORFLOW, KERAS, TF_KERAS)

VARIABLE_VALUE = "VARIABLE_VALUE"
VALUE_SUFFIX = f"/.ATTRIBUTES/{VARIABLE_VALUE}"
"""The end of the key of a variable's value. Nothing else that TensorFlow saves by itself has it."""

_serving: dict[int, Any] = {}  # a lock by process: whoever held one at a fork is not there
_is_tried = threading.Event()  # whether a restore has been tried out, and was as it should be
_called: set[str] = set()  # what TensorFlow has called of what stands for a method of its own


# -- whether it is all there --


def check() -> None:
    """Check that TensorFlow, and each imported Keras, has what is used here.

    A function may still exist and not be called any more, so a restore of two numbers is tried out, too. This is done
    once in a process, in a few milliseconds. From then on, Keras 3 variables are restored as described above.

    Raises InvalidRequest, which says what is missing and which versions work, before anything has changed.
    """
    for table in TABLES:
        if imported(table.library):
            table.check()
    if _is_tried.is_set():
        return
    with tf.init_scope():
        if tf.executing_eagerly():  # not in a graph of TensorFlow 1: nobody restores there
            _stand_in()
            try:
                _try_restore()
            except Exception as error:
                why = f"a restore that was tried out failed: {type(error).__name__}: {error}"
                raise TENSORFLOW.refusal(why) from error
            _is_tried.set()


def imported(library: str) -> Any:
    """Return a library if the program has imported it, and not another module that goes by its name."""
    module = sys.modules.get(library)
    return module if getattr(module, "__name__", "") == library and hasattr(module, "__path__") else None


def _try_restore() -> None:
    """Restore two objects, one that exists and one that is created later. Raises if anything is not as expected."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph
    from tensorflow.python.trackable.base import Trackable

    class Probe(Trackable):  # type: ignore[misc]
        """Stands for a variable. A real one, made in the scope of a strategy, would be distributed."""

        value = 0

        def _serialize_to_tensors(self) -> dict[str, Any]:
            return {VARIABLE_VALUE: tf.constant([0])}

        def _restore_from_tensors(self, restored_tensors: Mapping[str, Any]) -> None:
            self.value = int(restored_tensors[VARIABLE_VALUE][0])

    keys = [f"now{VALUE_SUFFIX}", f"late{VALUE_SUFFIX}"]
    graph = TrackableObjectGraph()
    root = graph.nodes.add()
    for number, key in enumerate(keys, 1):
        root.children.add(node_id=number, local_name=key.partition("/")[0])
        graph.nodes.add().attributes.add(name=VARIABLE_VALUE, checkpoint_key=key)
    folder = f"ram://holdfast-{secrets.token_hex(8)}"
    prefix, now, late, told = f"{folder}/probe", Probe(), Probe(), list[Any]()
    with tf.device("CPU:0"):
        in_files, served = tf.constant([1]), tf.raw_ops.Empty(shape=[1], dtype=tf.int32)
        memory_of(served)[:] = np.array([2], np.int32).view(np.uint8)
        names, tensors = [OBJECT_GRAPH_KEY, *keys], [graph.SerializeToString(), in_files, in_files]
        tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * 3, tensors=tensors)
        tf.identity(
            in_files
        ).numpy()  # which is computed after it: a program may have TensorFlow execute asynchronously
        try:
            serve({prefix: dict.fromkeys(keys, served)})
            checkpoint = tf.train.Checkpoint(now=now)
            load = Load(checkpoint.read(prefix).expect_partial())
            load.on_restored(told.extend)
            reached, left = load.objects, load.left_over
            is_waited_for = load.is_waited_for_at(checkpoint)
            [created] = [int(each.value_tensors()[VARIABLE_VALUE][0]) for each in waiting_at(checkpoint)["late"]]
            checkpoint.late = late
        finally:
            stop_serving([prefix])
            tf.io.gfile.rmtree(folder)
    for what, found, expected in (
        ("objects that were reached", reached, {0: checkpoint, 1: now}),
        ("keys that were left over", left, keys[1:]),
        ("whether these were waited for", is_waited_for, True),
        ("what restore_saveables was called for", told, [late]),
        ("whether all was restored then", load.is_spent, True),
        ("_update_uid", (load.has_reached(late), load.has_changed(late)), (True, False)),
        ("values by io_ops.restore_v2", (now.value, created, late.value), (2, 2, 2)),
        ("methods of CheckpointPosition that were called", _called, _STAND_INS.keys()),
    ):
        if found != expected:
            raise ValueError(f"{what}: {found} instead of {expected}")


# -- what a load status knows --


class Load:
    """The contents of a load status. It keeps no object alive."""

    def __init__(self, status: Any) -> None:
        self._load = status._checkpoint

    @classmethod
    def of(cls, status: Any) -> Load | None:
        """Return None if nothing is known: nothing was restored, or a name-based checkpoint of TensorFlow 1."""
        from tensorflow.python.checkpoint.checkpoint import CheckpointLoadStatus

        return cls(status) if isinstance(status, CheckpointLoadStatus) else None

    @property
    def graph(self) -> Any:
        """The checkpoint's object graph. A node is an index of its nodes."""
        return self._load.object_graph_proto

    @property
    def objects(self) -> dict[int, Any]:
        """The live objects that have been reached so far, by their node."""
        return dict(self._load.object_by_proto_id)

    @property
    def is_spent(self) -> bool:
        """Whether everything in the checkpoint has found its object, so that nothing is left to read."""
        load = self._load
        waiting = load.deferred_slot_restorations or load.slot_restorations or load.unused_attributes
        return not waiting and len(load.matched_proto_ids) == len(self.graph.nodes)

    @property
    def left_over(self) -> list[str]:
        """The keys of values that have found no object so far."""
        load = self._load
        return [
            attribute.checkpoint_key
            for node, proto in enumerate(self.graph.nodes)
            for attribute in proto.attributes
            if node not in load.matched_proto_ids or attribute.name in load.unused_attributes.get(node, ())
        ]

    @property
    def failures(self) -> list[str]:
        """What could not be restored when it was created, by name, and why."""
        return list(_failures.get(self._load, ()))

    @property
    def expects_partial(self) -> bool:
        """Whether the program has said that leftovers are intended."""
        return bool(self._load.expect_partial)

    def may_be_trained(self, key: str) -> bool:
        """Return whether the value could be a weight."""
        dtype = self._load.dtype_map.get(key)  # which leaves out what is no tensor of numbers or texts
        return dtype is not None and can_be_trained(dtype)

    def is_waited_for_at(self, trackable: Any) -> bool:
        """Return whether values of this checkpoint wait for children that an object does not have yet."""
        return any(each.checkpoint is self._load for waiting in waiting_at(trackable).values() for each in waiting)

    def has_reached(self, trackable: Any) -> bool:
        """Return whether an object has got its value from here, or another one since."""
        trackable._maybe_initialize_trackable()
        return bool(trackable._update_uid >= self._load.restore_uid)

    def has_changed(self, trackable: Any) -> bool:
        """Return whether an object that was reached has got another value since."""
        return bool(trackable._update_uid > self._load.restore_uid)

    def on_restored(self, then: Callable[[Iterable[Any]], None]) -> None:
        """Call `then`, each time after some objects have been restored, with the objects that were reached.

        TensorFlow has no hook for this. Every restoration, of objects that exist and of those that are created later,
        ends in `restore_saveables` of the object to which a load status refers.
        """
        load = self._load
        restore_saveables = load.restore_saveables
        seen = set(load.matched_proto_ids)

        def restore_and_tell(*args: Any, **kwargs: Any) -> Any:
            operations = restore_saveables(*args, **kwargs)
            new = load.matched_proto_ids - seen
            seen.update(new)  # before the call: what it attaches is restored in its turn
            then([load.object_by_proto_id[node] for node in new if node in load.object_by_proto_id])
            return operations

        load.restore_saveables = restore_and_tell


# -- the objects of a checkpoint --


class AskedCheckpoint(tf.train.Checkpoint):  # type: ignore[misc]
    """A checkpoint that is notified before TensorFlow looks at its contents, in a save and in a restore."""

    def before_it_is_looked_at(self) -> None:
        raise NotImplementedError

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        if save_type == "checkpoint":
            self.before_it_is_looked_at()
        return super()._trackable_children(save_type, **kwargs)


def object_graph(serialized: bytes) -> Any:
    """Parse the object graph of a checkpoint."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    return TrackableObjectGraph.FromString(serialized)


def has_values(trackable: Any) -> bool:
    """Return whether an object has its own values in a checkpoint."""
    from tensorflow.python.training.saving.saveable_object_util import saveable_objects_from_trackable

    return bool(saveable_objects_from_trackable(trackable))


def tensors_of(trackable: Any) -> dict[str, Any]:
    """Return what an object saves, by the object's own names. Raises what TensorFlow raises if it cannot be saved."""
    from tensorflow.python.checkpoint.tensor_callable import Callable as Late

    tensors = trackable._serialize_to_tensors()
    return {name: each.tensor if isinstance(each, Late) else each for name, each in tensors.items()}


def strategies_of(checkpoint: Any) -> Iterator[Any]:
    """Yield the distribution strategy of each variable of a `tf.train.Checkpoint` that has one."""
    for trackable in tf.train.TrackableView(checkpoint).descendants():
        variable = variable_of(trackable)
        # Those of parameter servers, and those that lie in parts there, have no public name for it.
        strategy = getattr(trackable if variable is None else variable, "_distribute_strategy", None)
        if isinstance(strategy, tf.distribute.Strategy):
            yield strategy


def first_part(trackable: Any) -> Any:
    """Return the first of the variables in which one lies on parameter servers; any other object as it is."""
    from tensorflow.python.distribute.sharded_variable import ShardedVariableMixin

    return trackable.variables[0] if isinstance(trackable, ShardedVariableMixin) else trackable


def waiting_at(trackable: Any) -> dict[str, Any]:
    """Return what restores have for children that an object does not have yet: by name, positions in checkpoints."""
    trackable._maybe_initialize_trackable()
    waiting: dict[str, Any] = trackable._deferred_dependencies
    return waiting


def mark_as_changed(trackable: Any, position: Any) -> None:
    """Let TensorFlow believe that an object was restored from such a position and has changed since."""
    trackable._maybe_initialize_trackable()
    trackable._update_uid = position.restore_uid + 0.5


# -- tensors from memory --

Reading = Callable[[Sequence[Any], Sequence[Any], Sequence[Any]], Sequence[Any]]
"""Returns the tensors that RestoreV2 should read, by names, slice specifications and dtypes. None in place of one:
TensorFlow has it in the files, or has an error for it."""

_served: dict[str, Reading] = {}  # by prefix


def serve(tensors: Mapping[str, Mapping[str, Any]]) -> None:
    """Give TensorFlow these tensors, by prefix and key, instead of the contents of these checkpoints' files."""
    serve_by({prefix: partial(_from_memory, found) for prefix, found in tensors.items()})


def serve_by(readings: Mapping[str, Reading]) -> None:
    """Have TensorFlow read these checkpoints, by prefix, by functions instead of from files.

    TensorFlow reads values in `io_ops.restore_v2`, now and for what is created later; those of name-based checkpoints
    in the same function of `gen_io_ops`. They are replaced until `stop_serving`, since only the restores of these
    checkpoints need it. `placed` tells where TensorFlow wants the values.
    """
    with _serving.setdefault(os.getpid(), threading.RLock()):
        _served.update(readings)
        for module in _readers():
            if (module.__name__, "restore_v2") not in _originals:
                _originals[module.__name__, "restore_v2"], module.restore_v2 = module.restore_v2, restore_v2


def stop_serving(prefixes: Iterable[str]) -> None:
    """Let TensorFlow read the files of these checkpoints again."""
    with _serving.setdefault(os.getpid(), threading.RLock()):
        for prefix in prefixes:
            _served.pop(prefix, None)
        for module in _readers():
            # Where somebody has replaced it since, theirs may lead to ours, which reads files when nothing is served.
            if not _served and module.restore_v2 is restore_v2:
                module.restore_v2 = _originals.pop((module.__name__, "restore_v2"))


def _readers() -> tuple[Any, ...]:
    from tensorflow.python.ops import gen_io_ops, io_ops

    return io_ops, gen_io_ops


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def restore_v2(
    prefix: Any, tensor_names: Any, shape_and_slices: Any, dtypes: Any, name: str | None = None
) -> list[Any]:
    """Do what `tf.raw_ops.RestoreV2` does, with what is served."""

    def read_files(names: Any, specs: Any, dtypes: Any) -> list[Any]:
        return list(
            tf.raw_ops.RestoreV2(prefix=prefix, tensor_names=names, shape_and_slices=specs, dtypes=dtypes, name=name)
        )

    reading = _served.get(_text(prefix) or "") if _served else None
    if reading is None or not isinstance(tensor_names, Sequence):
        return read_files(tensor_names, shape_and_slices, dtypes)
    wanted = list(zip(tensor_names, shape_and_slices, dtypes, strict=True))
    found = reading([_text(each) for each in tensor_names], [_text(each) for each in shape_and_slices], dtypes)
    others = [each for each, tensor in zip(wanted, found, strict=True) if tensor is None]
    read = iter(read_files(*map(list, zip(*others, strict=True))) if others else ())
    return [next(read) if tensor is None else _as_read(tensor) for tensor in found]


def _as_read(tensor: Any) -> Any:
    """Return a tensor as RestoreV2 does: in a graph, of unknown shape. The restore of a DenseHashTable relies on it,
    whose keys have another shape than TensorFlow's own inference allows."""
    if tf.executing_eagerly() or tensor.shape.rank is None:
        return tensor
    return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=tf.TensorShape(None))


def placed() -> Any:
    """Return the device on which TensorFlow would place an operation now, as a tf.DeviceSpec."""
    from tensorflow.python.eager import context

    name = context.context().device_name if tf.executing_eagerly() else tf.no_op().device
    return tf.DeviceSpec.from_string(name or "")


def _from_memory(tensors: Mapping[str, Any], names: Sequence[Any], specs: Sequence[Any], dtypes: Sequence[Any]) -> Any:
    return [_found(tensors, *each) for each in zip(names, specs, dtypes, strict=True)]


def _found(tensors: Mapping[str, Any], name: str | None, spec: str | None, dtype: Any) -> Any:
    """Return the tensor, or its part, that RestoreV2 should read; None if it is not there."""
    tensor = tensors.get(name or "")
    if spec is None or tensor is None or tensor.dtype != tf.as_dtype(dtype).base_dtype:
        return None
    if not spec:
        return tensor
    # `6 4 0,3:-` is the first three of six rows of four.
    *shape, extents = spec.split()
    if shape != [str(size) for size in tensor.shape]:
        return None
    parts = [(0, -1) if each == "-" else tuple(map(int, each.split(","))) for each in extents.split(":")]
    return tf.slice(tensor, *zip(*parts, strict=True)) if all(length for _, length in parts) else None


def _text(value: Any) -> str | None:
    """Return the text of a string that may be a tensor; None if it has no value yet."""
    if not isinstance(value, str | bytes):
        value = tf.get_static_value(value)
    return None if value is None else os.fsdecode(np.asarray(value).item())


def memory_of(tensor: Any) -> Any:
    """Return the memory of a tensor on a CPU as an array of bytes, to be written before anybody uses the tensor."""
    readable = np.frombuffer(memoryview(tensor), np.uint8)
    memory: Any = (ctypes.c_uint8 * len(readable)).from_address(readable.ctypes.data)
    memory.tensor = tensor  # it lives for as long as an array on its memory
    return np.frombuffer(memory, np.uint8)


# -- variables of Keras 3 that are made after a restore --

_failures: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()
_originals: dict[Any, Callable[..., Any]] = {}  # what was replaced, by name


def has_value(trackable: Any) -> bool:
    """Return False for a Keras 3 variable that is still to be initialized, True for anything else."""
    keras = imported("keras")
    return keras is None or not isinstance(trackable, keras.Variable) or trackable._value is not None


def _stand_in() -> None:
    """Replace TensorFlow's own methods from now on."""
    from tensorflow.python.checkpoint.restore import CheckpointPosition

    for name, ours in _STAND_INS.items():
        if name not in _originals:
            _originals[name] = getattr(CheckpointPosition, name)
            setattr(CheckpointPosition, name, ours)


def _restore_with_value(position: Any) -> Any:
    """Replaces the method that gives one object its value."""
    _called.add("_single_restore")
    trackable = position.trackable
    if has_value(trackable):
        return _originals["_single_restore"](position)
    trackable._maybe_initialize_trackable()
    initialize = trackable._deferred_initialize

    def initialize_and_restore() -> None:
        initialize()
        vars(trackable).pop("_deferred_initialize", None)
        try:
            with tf.init_scope():
                position._restore_descendants()
        except BaseException as error:
            _note_failure(position.checkpoint, trackable.path, error)
            # Keras would take it for an error of the model, and leave the variables that come after without values.
            if not isinstance(error, Exception):
                raise

    trackable._deferred_initialize = initialize_and_restore
    return (), {}, (), {}


def _restore_uncast(position: Any, reader: Any = None) -> Any:
    """Replaces the method that restores an object and what is below it."""
    _called.add("_restore_descendants")
    keras = imported("keras")
    with keras.src.backend.AutocastScope(None) if keras else nullcontext():
        operations = _originals["_restore_descendants"](position, reader)
    if tf.executing_eagerly():
        _settle(position.checkpoint)
    return operations


def _note_failure(load: Any, what: str, error: BaseException) -> None:
    failure = f"{what}: {str(error) or repr(error)}"
    _failures.setdefault(load, []).append(failure)
    _log.error("could not be restored: %s", failure)


_STAND_INS = {"_single_restore": _restore_with_value, "_restore_descendants": _restore_uncast}


# -- what follows from restored values --


class Held(tf.Module):  # type: ignore[misc]
    """Something that is no variable, in a checkpoint, as tensors.

    `tensors` returns them; they always have the same names and dtypes. What is restored is in `restored`. After that,
    and again whenever something else of the same checkpoint has been restored, `settle` is called. What these raise
    becomes an error of the save, or keeps the checkpoint from being saved over (`Load.failures`).
    """

    restored: Mapping[str, Any] | None = None

    def __init__(self, what: str) -> None:
        """what: the name for it in messages."""
        super().__init__()
        self.what = what

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # TensorFlow would save what is set, as a part of this

    def tensors(self) -> dict[str, Any]:
        raise NotImplementedError

    def settle(self) -> None:
        raise NotImplementedError

    def _serialize_to_tensors(self) -> dict[str, Any]:
        try:
            with tf.init_scope():
                tensors = self.tensors()
            if tf.executing_eagerly():
                return tensors
            return {name: tf.constant(each.numpy(), each.dtype) for name, each in tensors.items()}  # for a SavedModel
        except Exception as error:
            raise InvalidRequest(f"{self.what} cannot be saved: {str(error) or repr(error)}") from error

    def _restore_from_tensors(self, restored_tensors: Mapping[str, Any]) -> None:
        if tf.executing_eagerly():  # what exports a model traces this, too
            self.restored = dict(restored_tensors)


class _Following:
    """What follows the values of one restore."""

    def __init__(self) -> None:
        self.seen: set[int] = set()  # nodes of its object graph
        self.objects: WeakSet[Any] = WeakSet()


_following: WeakKeyDictionary[Any, _Following] = WeakKeyDictionary()  # by restore


def _settle(load: Any) -> None:
    """Have objects follow what a restore has just given to some of them."""
    following = _following.setdefault(load, _Following())
    new = load.matched_proto_ids - following.seen
    following.seen |= new
    for found in [load.object_by_proto_id.get(node) for node in new]:
        if not _settles(found):
            continue
        if getattr(found, "built", True):
            following.objects.add(found)
        else:  # in the midst of its `build`, it need not expect this
            after_next(found, "build", partial(_settle_built, load, found))
    for found in list(following.objects):
        _try_to_settle(load, found)


def _settle_built(load: Any, layer: Any) -> None:
    _following[load].objects.add(layer)
    _try_to_settle(load, layer)


def _try_to_settle(load: Any, found: Any) -> None:
    try:
        if settle := _settles(found):
            settle()
    except Exception as error:
        _note_failure(load, found.what if isinstance(found, Held) else found.name, error)


def _settles(found: Any) -> Callable[[], Any] | None:
    """Return what to call when something of a checkpoint has been restored; None for most objects."""
    keras, tf_keras = imported("keras"), imported("tf_keras")
    settle: Callable[[], Any] | None = None
    if isinstance(found, Held):
        settle = found.settle
    elif tf_keras and isinstance(found, tf_keras.layers.Layer):
        if type(found).finalize_state is not tf_keras.layers.Layer.finalize_state:
            settle = found.finalize_state  # tf_keras documents that it is called when weights were loaded
    elif keras and isinstance(found, keras.layers.Normalization):
        settle = found.finalize_state
    return settle


def after_next(owner: Any, name: str, then: Callable[[], None]) -> None:
    """Call `then` once, after the next call of a method of an object. Only one such call waits for each method."""
    attributes, method = vars(owner), getattr(owner, name)
    before = attributes.get(name)  # Keras 3 gives each layer a `build` of its own
    if hasattr(before, "then"):
        return

    @wraps(method)
    def call_and_tell(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        if before is None:
            del attributes[name]
        else:
            attributes[name] = before
        then()
        return result

    attributes[name] = call_and_tell
    vars(call_and_tell)["then"] = then


# -- what runs on other tasks --

TOKEN = "holdfast"
"""The name under which a parameter server answers calls of the chief."""

_answering: list[Any] = []  # TensorFlow keeps no reference


def answer_calls(answer: Callable[..., Any]) -> None:
    """Have `call_on` in any process of the cluster, if it names a device of this one, call `answer` here.

    TensorFlow's own way to register a function gives it a name that other processes cannot know.
    """
    TENSORFLOW.check()
    from tensorflow.python.ops import script_ops

    echo = b"holdfast"
    script_ops._py_funcs._funcs[TOKEN] = bytes
    if script_ops._py_funcs(TOKEN, None, (echo,)) != [echo]:
        raise TENSORFLOW.refusal("a call by a chosen token was not answered")
    _answering.append(answer)
    script_ops._py_funcs._funcs[TOKEN] = answer


def call_on(device: str, request: Any, values: Sequence[Any] = (), result: Sequence[Any] = (tf.string,)) -> list[Any]:
    """Call, in the process of a device, what answers there, with values that lie there. In eager mode and in graphs.

    Nothing is copied. A result that nothing depends on may be left out by TensorFlow, and the call with it.
    """
    with tf.device(device):
        return list(tf.raw_ops.PyFunc(input=[request, *values], token=TOKEN, Tout=list(result)))


def await_scheduled(strategy: Any) -> None:
    """Wait until everything that the program has scheduled on a ClusterCoordinator is done. Raises its errors."""
    coordinator = getattr(strategy, "_cluster_coordinator", None)
    if coordinator is not None:
        coordinator.join()
