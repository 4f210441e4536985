"""Support for Keras models, of Keras 3 and of tf_keras."""

from holdfast.keras.backup_and_restore import BackupAndRestore
from holdfast.keras.model_checkpoint import ModelCheckpoint
from holdfast.keras.strategy import MultiWorkerMirroredStrategy
from holdfast.keras.training_state import training_state

__all__ = ["BackupAndRestore", "ModelCheckpoint", "MultiWorkerMirroredStrategy", "training_state"]
