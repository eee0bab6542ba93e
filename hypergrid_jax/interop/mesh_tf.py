"""T5's original checkpoints, written by Mesh TensorFlow."""

import pathlib
import re

import numpy as np

from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import architectures, names
from hypergrid_jax.interop.sources import Tensor
from hypergrid_jax.tasks import tensorflow_guard

# State of the optimiser and the step, which no T5 needs.
_TRAINING = re.compile(r'.*_slot_\w+|.*/adam_[mv]|global_step')
# In the first releases; nothing ever read it.
_UNUSED = re.compile(
  r'decoder/block_000/layer_001/EncDecAttention/relative_attention_bias'
)
_SUFFIX = '.index'


def is_checkpoint(path: pathlib.Path) -> bool:
  """Tells whether this looks like one, or like a directory of some."""
  return bool(_prefixes(path))


def _prefixes(path: pathlib.Path) -> list[pathlib.Path]:
  """What TensorFlow calls a checkpoint: a path without its endings."""
  if path.suffix == _SUFFIX and path.is_file():
    return [path.with_suffix('')]
  if path.with_name(path.name + _SUFFIX).is_file():
    return [path]
  found = path.glob(f'*{_SUFFIX}') if path.is_dir() else ()
  return sorted(file.with_suffix('') for file in found)


class MeshTFCheckpoint:
  """An opened checkpoint; see `sources.Source`. Loads TensorFlow."""

  format: names.Format = 'mesh_tf'

  def __init__(self, path: pathlib.Path):
    """Reads names and shapes.

    Args:
      path: of the checkpoint, with or without `.index`, or its directory.

    Raises:
      UserError: there are several, or it is damaged or of another model.
    """
    prefixes = _prefixes(path)
    if len(prefixes) > 1:
      shown = ', '.join(prefix.name for prefix in prefixes[-5:])
      raise UserError(
        f'{path} has {len(prefixes)} checkpoints: {shown}. Name one of them.'
      )
    (prefix,) = prefixes
    self.place = str(prefix)
    with tensorflow_guard.loading_tensorflow():
      import tensorflow as tf

    # Of the many, none is this library's mistake: the files are not as written.
    self._errors = (tf.errors.OpError, ValueError, LookupError, RuntimeError)
    try:
      self._reader = tf.train.load_checkpoint(str(prefix))
      shapes = self._reader.get_variable_to_shape_map()
      dtypes = self._reader.get_variable_to_dtype_map()
    except self._errors as error:
      raise self._damaged(error) from error
    self._names: dict[str, str] = {}
    self.tensors: dict[str, Tensor] = {}
    left_out = 0
    for theirs in sorted(shapes):
      if _TRAINING.fullmatch(theirs) or _UNUSED.fullmatch(theirs):
        left_out += 1
        continue
      name = _usual(theirs)
      self._names[name] = theirs
      shape = tuple(shapes[theirs])
      self.tensors[name] = Tensor(dtypes[theirs].name, shape, prefix.name)
    self.ignored = (
      (f'{left_out} variables of the optimiser',) if left_out else ()
    )
    layout = {name: tensor.shape for name, tensor in self.tensors.items()}
    self.config = architectures.infer(layout, self.format)
    self.copies: dict[str, tuple[str, ...]] = {}

  def read(self, name: str) -> np.ndarray:
    """Reads one tensor, in its own dtype.

    Raises:
      UserError: its file is damaged.
    """
    try:
      return np.asarray(self._reader.get_tensor(self._names[name]))
    except self._errors as error:
      raise self._damaged(error) from error

  def _damaged(self, error: Exception) -> UserError:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(
      f'{self.place}: TensorFlow cannot read this checkpoint ({said[0][:300]}).'
      ' Fetch all of its files again.'
    )


def _usual(name: str) -> str:
  """Some checkpoints call a norm by what it does instead of what it is."""
  if name in ('encoder/rms_norm/scale', 'decoder/rms_norm/scale'):
    return name.replace('rms_norm', 'final_layer_norm')
  return name.replace('/rms_norm/', '/layer_norm/')
