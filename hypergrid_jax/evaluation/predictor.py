"""Predictions for inputs: decode, turn into text, put in order.

Rows are decoded unpacked, in length buckets so that short examples do not pay
for long ones; the texts come back in input order, every example exactly once.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import math

import jax
import numpy as np

from hypergrid_jax import types
from hypergrid_jax.errors import UserError
from hypergrid_jax.model import Model, decoding
from hypergrid_jax.tasks.vocabularies import Vocabulary

# Added to the longest target for the tokens that are decoded, so that a model
# which says too much is seen to do so.
DECODE_MARGIN = 8


@dataclasses.dataclass(frozen=True)
class Predictor:
  """A model with parameters that turns inputs into texts.

  Attributes:
    model: the architecture.
    params: its parameters.
    vocabulary: turns ids into text.
    batch_size: rows decoded at once, the same for every length.
    max_decode_length: tokens of a text at most, end of sequence included.
    length_buckets: row lengths in tokens, increasing; each one that occurs is
      compiled once. Longer inputs get the next multiple of the last.
    batch_sharding: how the rows of a batch lie on the devices; None leaves that
      to the compiler.

  Raises:
    UserError: a batch cannot be laid evenly over the devices.
  """

  model: Model
  params: types.Params
  vocabulary: Vocabulary
  batch_size: int
  max_decode_length: int
  length_buckets: tuple[int, ...]
  batch_sharding: jax.sharding.NamedSharding | None = None

  def __post_init__(self):
    sharding = self.batch_sharding
    if sharding is None or not sharding.spec:
      return
    axes = sharding.spec[0]
    axes = axes if isinstance(axes, tuple) else (axes,)
    shards = math.prod(sharding.mesh.shape[axis] for axis in axes if axis)
    if self.batch_size % shards:
      raise UserError(
        f'evaluate.batch_size = {self.batch_size} rows cannot be laid evenly'
        f' over {shards} groups of devices; make it a multiple of {shards}.'
      )

  def texts(
    self,
    inputs: Sequence[np.ndarray],
    task_ids: np.ndarray | int,
    *,
    labels: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
  ) -> list[str]:
    """Predicts a text for every input.

    Args:
      inputs: ids of each example, [L] int32, with end of sequence.
      task_ids: task id of each example, [N] int32, or of all of them.
      labels: texts to choose the likeliest from; None decodes greedily.
      progress: called after every batch with the number of examples done.

    Returns:
      The texts, in the order of `inputs`.
    """
    texts = [''] * len(inputs)
    # Once, not for every batch.
    params = self.model.cast_kernels(self.params)
    all_ids = np.broadcast_to(np.int32(task_ids), len(inputs))
    done = 0
    for indices, tokens in padded_batches(
      inputs, self.batch_size, self.length_buckets
    ):
      ids = np.full(self.batch_size, all_ids[indices[0]])
      ids[: len(indices)] = all_ids[indices]
      placed = self._place(tokens), self._place(ids)
      if labels:
        decoded = self._rank(labels, params, *placed)
      else:
        decoded = self._greedy(params, *placed)
      # What fills up the last batch has no index.
      for index, text in zip(indices, decoded, strict=False):
        texts[index] = text
      done += len(indices)
      if progress:
        progress(done)
    return texts

  def _greedy(self, params, tokens, task_ids) -> list[str]:
    decode = compiled(
      decoding.greedy_decode,
      self.model,
      self.batch_sharding,
      max_decode_length=self.max_decode_length,
    )
    ids = np.asarray(decode(params, tokens, task_ids))
    return [self.vocabulary.decode(row) for row in ids.tolist()]

  def _rank(self, labels: Sequence[str], params, tokens, task_ids) -> list[str]:
    score = compiled(decoding.label_scores, self.model, self.batch_sharding)
    candidates = _label_ids(labels, self.vocabulary)
    scores = np.asarray(score(params, tokens, task_ids, candidates))
    return [labels[best] for best in scores.argmax(axis=1)]

  def _place(self, array: np.ndarray) -> jax.Array | np.ndarray:
    if self.batch_sharding is None:
      return array
    return jax.make_array_from_callback(
      array.shape, _of_rows(self.batch_sharding), array.__getitem__
    )


def padded_batches(
  inputs: Sequence[np.ndarray],
  batch_size: int,
  length_buckets: Sequence[int],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields inputs, one per row, in batches of few different shapes.

  Each input comes exactly once. Longer ones come first, and a batch has the
  shortest bucket that holds its longest: where a length's last batch would have
  empty rows, the next shorter inputs fill them.

  Args:
    inputs: ids of each example, [L] int32.
    batch_size: rows B of every batch.
    length_buckets: row lengths, ascending; longer inputs get the next multiple
      of the last.

  Yields:
    Indices of the inputs, [n] with n <= B, and tokens [B, L] int32, padded with
    0. Rows from n on, of the last batch, hold padding alone, which decoding
    takes as ended.
  """
  lengths = np.array([len(ids) for ids in inputs], np.int64)
  last = length_buckets[-1]
  longest = -(-lengths.max(initial=0) // last) * last
  buckets = np.array([*length_buckets, max(longest, last)])
  # The longest first; of one length in the given order.
  order = np.argsort(-np.searchsorted(buckets, lengths), kind='stable')
  for first in range(0, len(inputs), batch_size):
    indices = order[first : first + batch_size]
    length = buckets[np.searchsorted(buckets, lengths[indices].max())]
    tokens = np.zeros((batch_size, length), np.int32)
    for row, index in zip(tokens, indices, strict=False):
      row[: lengths[index]] = inputs[index]
    yield indices, tokens


def _of_rows(
  batch_sharding: jax.sharding.NamedSharding,
) -> jax.sharding.NamedSharding:
  """Returns the sharding of the first axis alone, for arrays of any rank."""
  first = jax.sharding.PartitionSpec(*batch_sharding.spec[:1])
  return jax.sharding.NamedSharding(batch_sharding.mesh, first)


# A model is evaluated many times in a run; what was compiled for it is kept.
@functools.lru_cache(maxsize=8)
def compiled(
  function: Callable[..., jax.Array],
  model: Model,
  batch_sharding: jax.sharding.NamedSharding | None,
  **options: int,
) -> Callable[..., jax.Array]:
  """Returns a jitted function of `decoding`.

  Args:
    function: `decoding.greedy_decode` or `decoding.label_scores`.
    model: the architecture.
    batch_sharding: sharding of the rows it takes; every process gets all the
      rows that it returns.
    **options: the function's keyword arguments.
  """
  everywhere = None
  if batch_sharding is not None:
    everywhere = jax.sharding.NamedSharding(
      batch_sharding.mesh, jax.sharding.PartitionSpec()
    )
  return jax.jit(
    functools.partial(function, model, **options), out_shardings=everywhere
  )


def _label_ids(labels: Sequence[str], vocabulary: Vocabulary) -> np.ndarray:
  """Returns [C, L] int32: labels with end of sequence, padded with 0."""
  ids = [[*vocabulary.encode(label), vocabulary.eos_id] for label in labels]
  rows = np.zeros((len(ids), max(map(len, ids))), np.int32)
  for row, label in zip(rows, ids, strict=True):
    row[: len(label)] = label
  return rows
