"""Rows that are handed in, made into inputs by a task's own preprocessors.

Imports seqio, hence TensorFlow.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.tasks import definitions, vocabularies
from hypergrid_jax.tasks.rows import fields
from hypergrid_jax.tasks.seqio import registry, sources

_SPLIT = 'given'
# What stands for a field that a row without a target does not have.
_ABSENT = {tf.string: '', tf.bool: False}


class Inputs(NamedTuple):
  """What a model is given.

  Attributes:
    text: before it is tokenised.
    ids: [L] int32, with end of sequence.
  """

  text: str
  ids: np.ndarray


def inputs(
  name: str,
  rows: Sequence[Mapping[str, Any]],
  *,
  vocabulary: str,
  lengths: tuple[int, int],
  task_prefix: bool = True,
) -> list[Inputs]:
  """Returns the inputs that a task makes of rows.

  Args:
    name: of the task.
    rows: with the fields of the task's definition, checked; of a task that is
      registered with seqio, with the fields of its source, where those that a
      row leaves out are empty or -1.
    vocabulary: 'sample', 'bytes' or the path of a SentencePiece model.
    lengths: tokens that inputs and targets are cut to.
    task_prefix: whether texts begin with the name of their data set.

  Returns:
    The inputs, one per row, in order.

  Raises:
    UserError: a row does not fit the source of a registered task, or its
      preprocessors fail or do not make one example of each row.
  """
  definition = definitions.definition(name)
  task = registry.seqio_task(
    name, source='sample', vocabulary=vocabulary, task_prefix=task_prefix
  )
  if definition.fields:
    tensors = sources.tensors(rows, definition)
    dataset = tf.data.Dataset.from_tensor_slices(tensors)
  else:
    dataset = _dataset(task.source, rows, name)
  source = seqio.FunctionDataSource(
    lambda split, shuffle_files, seed=None: dataset, splits=(_SPLIT,)
  )
  try:
    examples = list(
      task.replace(source=source)
      .get_dataset(
        sequence_length=dict(zip(('inputs', 'targets'), lengths, strict=True)),
        split=_SPLIT,
        use_cached=False,
        shuffle=False,
        num_epochs=1,
        try_in_mem_cache=False,
      )
      .as_numpy_iterator()
    )
  except Exception as error:
    if definition.fields:
      raise
    reason = str(error).partition('\n')[0]  # TensorFlow adds its own traceback
    raise UserError(
      f'{name}: its preprocessors in {definition.task_file} fail on the fields:'
      f' {type(error).__name__}: {reason}. Give "inputs", the formatted text,'
      ' in place of "fields".'
    ) from error
  if len(examples) != len(rows):
    raise UserError(
      f'{name}: its preprocessors make {len(examples)} examples of'
      f' {len(rows)} rows without targets, so that it is not known which'
      ' prediction is whose. Give "inputs", the formatted text, in place of'
      ' "fields".'
    )
  vocab = vocabularies.load_vocabulary(vocabulary)
  return [_inputs(example, vocab) for example in examples]


def _inputs(example: Mapping[str, Any], vocabulary: Any) -> Inputs:
  ids = np.asarray(example['inputs'], np.int32)
  text = example.get('inputs_pretokenized')
  if not isinstance(text, bytes):
    return Inputs(vocabulary.decode(ids.tolist()), ids)
  return Inputs(text.decode('utf-8', 'surrogateescape'), ids)


def _dataset(
  source: seqio.DataSource, rows: Sequence[Mapping[str, Any]], name: str
) -> tf.data.Dataset:
  """Returns rows as a dataset of the element type that a source gives."""
  split = next(iter(source.splits))
  spec = source.get_dataset(split=split, shuffle=False).element_spec
  if not isinstance(spec, Mapping):
    raise UserError(
      f'{name}: the rows of its source have no named fields. Give "inputs", the'
      ' formatted text, in place of "fields".'
    )
  filled = [_filled(row, spec, name) for row in rows]
  signature = tf.nest.map_structure(_of_any_length, spec)
  return tf.data.Dataset.from_generator(
    lambda: iter(filled), output_signature=signature
  )


def _of_any_length(spec: Any) -> Any:
  if not isinstance(spec, tf.TensorSpec):
    return spec
  return tf.TensorSpec([None] * spec.shape.rank, spec.dtype)


def _filled(row: Any, spec: Any, here: str) -> Any:
  """A row's values as tensors, with what stands for those that are missing."""
  if isinstance(spec, Mapping):
    row = {} if row is None else row
    if not isinstance(row, Mapping):
      raise fields.wrong(here, 'an object', row)
    for field in row:
      if field not in spec:
        raise UserError(
          f'{here}: there is no field {field!r}.{closest(field, spec)} There'
          f' are {", ".join(spec)}.'
        )
    return {
      field: _filled(row.get(field), inner, f'{here}, field {field!r}')
      for field, inner in spec.items()
    }
  value = row
  if value is None:
    value = _ABSENT.get(spec.dtype, -1) if spec.shape.rank == 0 else []
  try:
    if isinstance(spec, tf.RaggedTensorSpec):
      return tf.ragged.constant(value, spec.dtype)
    tensor = tf.constant(value, spec.dtype)
    if tensor.shape.rank == spec.shape.rank:
      return tensor
    raise ValueError(f'{tensor.shape.rank} dimensions')
  except (TypeError, ValueError) as error:
    raise fields.wrong(
      here, f'{spec.dtype.name} of {spec.shape.rank} dimensions', row
    ) from error
