"""Predictions for the rows of a token store: decode, detokenise, put in order.

Rows are decoded unpacked, in length buckets so that short examples do not pay
for long ones; the texts come back in input order, every example exactly once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any, Protocol

import jax
import numpy as np

from hypergrid_jax import types
from hypergrid_jax.data import loader
from hypergrid_jax.errors import UserError
from hypergrid_jax.model import Model, decoding


class Store(Protocol):
  """The part of a token store that is predicted from and scored.

  Attributes:
    num_examples: rows of the split.
    input_lengths: [num_examples], tokens with end of sequence.
    target_lengths: [num_examples], the same.
  """

  num_examples: int
  input_lengths: np.ndarray
  target_lengths: np.ndarray

  def inputs(self, index: int) -> np.ndarray:
    """Input ids of one example, int32, with end of sequence."""

  def targets(self, index: int) -> np.ndarray:
    """Target ids of one example, int32, with end of sequence."""

  def example(self, index: int) -> Mapping[str, Any]:
    """Python values of one example."""


class TextVocabulary(Protocol):
  """The part of a vocabulary that predictions need."""

  eos_id: int

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without end of sequence."""

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids` up to the first end of sequence."""


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
      compiled once. A store with longer rows gets the next multiple of the
      last.
    batch_sharding: how the rows of a batch lie on the devices; None leaves that
      to the compiler.

  Raises:
    UserError: a batch cannot be laid evenly over the devices.
  """

  model: Model
  params: types.Params
  vocabulary: TextVocabulary
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
    store: Store,
    *,
    count: int,
    task_id: int | np.ndarray,
    labels: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
  ) -> list[str]:
    """Predicts the first rows of a store.

    Args:
      store: the rows.
      count: how many of them.
      task_id: of all of them, or of each, [count] int32.
      labels: texts to choose the likeliest from; None decodes greedily.
      progress: called after every batch with the number of rows done.

    Returns:
      The texts of examples 0, 1, ..., count - 1.

    Raises:
      RuntimeError: an example was decoded twice or not at all.
    """
    texts: list[str | None] = [None] * count
    # Once, not for every batch.
    params = self.model.cast_kernels(self.params)
    task_ids = np.broadcast_to(np.int32(task_id), (count,))
    done = 0
    for indices, tokens in loader.eval_batches(
      store,
      batch_size=self.batch_size,
      length_buckets=self._buckets(store),
      limit=count,
    ):
      # A row that fills up a batch takes any id.
      ids = task_ids[np.maximum(indices, 0)]
      placed = self._place(np.asarray(tokens)), self._place(ids)
      if labels:
        decoded = self._rank(labels, params, *placed)
      else:
        decoded = self._greedy(params, *placed)
      for index, text in zip(indices, decoded, strict=True):
        if index < 0:  # fills up the last batch of a length
          continue
        if texts[index] is not None:
          raise RuntimeError(f'example {index} was decoded twice')
        texts[index] = text
        done += 1
      if progress:
        progress(done)
    if done < len(texts):
      raise RuntimeError(
        f'{len(texts) - done} of {len(texts)} examples were not decoded, the'
        f' first is {texts.index(None)}'
      )
    return texts

  def _buckets(self, store: Store) -> tuple[int, ...]:
    longest, last = int(store.input_lengths.max()), self.length_buckets[-1]
    if longest <= last:
      return self.length_buckets
    return (*self.length_buckets, -(-longest // last) * last)

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
      array.shape, _rows(self.batch_sharding), array.__getitem__
    )


def _rows(
  batch_sharding: jax.sharding.NamedSharding,
) -> jax.sharding.NamedSharding:
  """The sharding of the leading axis alone, for arrays of any rank."""
  leading = jax.sharding.PartitionSpec(*batch_sharding.spec[:1])
  return jax.sharding.NamedSharding(batch_sharding.mesh, leading)


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
    batch_sharding: of the rows it is given; every process gets all the rows
      that it returns.
    **options: of the function.
  """
  everywhere = None
  if batch_sharding is not None:
    everywhere = jax.sharding.NamedSharding(
      batch_sharding.mesh, jax.sharding.PartitionSpec()
    )
  return jax.jit(
    functools.partial(function, model, **options), out_shardings=everywhere
  )


def _label_ids(labels: Sequence[str], vocabulary: TextVocabulary) -> np.ndarray:
  """Returns [C, Ll] int32: labels with end of sequence, padded with 0."""
  ids = [[*vocabulary.encode(label), vocabulary.eos_id] for label in labels]
  result = np.zeros((len(ids), max(map(len, ids))), np.int32)
  for row, label in zip(result, ids, strict=True):
    row[: len(label)] = label
  return result
