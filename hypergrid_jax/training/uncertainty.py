"""Uncertainty sampling: a step trains on what the model is least certain of.

Multi-task uncertainty sampling, MT-Uncertainty, of CA-MTL (Pilault et al. 2021,
arXiv:2009.09139) for a text-to-text model. Every task offers candidates; one
forward pass in evaluation mode gives the entropy over the task's label strings,
and the rows with the highest scores become the batch. The choice is part of the
compiled step and a function of the parameters and the candidates alone.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from hypergrid_jax import errors, types
from hypergrid_jax.model import losses
from hypergrid_jax.training import uncertainty_labels
from hypergrid_jax.training.uncertainty_labels import TaskLabels

# Added to log C by the authors' code.
_CODE_EPSILON = 1e-5
# In place of a largest mean that has underflowed: then all scores are 0.
_LEAST_MEAN = 1e-30

Selector = Callable[[types.Params, types.Batch, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class UncertaintySampling:
  """MT-Uncertainty sampling.

  The log-probability of a label is the sum over its tokens, end of sequence
  included; a softmax over the C labels of the task gives p, and H is its
  entropy. A packed row has the mean of its segments' entropies: rows are drawn,
  not examples, which is our departure; with data.pack = False a row is an
  example, as in the paper. Rows with equal scores are taken in the order of the
  candidates, which takes the tasks in turn. Dropout is off, which it is not in
  the authors' code, so that the choice can be repeated.

  Attributes:
    candidates_per_task: rows that each task offers to a step, at most the
      `data.batch_size` rows that a step trains on; None is as many, as in the
      paper. Fewer cost less and choose less.
    score: 'paper' is H / (log C max_t mean_t), mean_t being the mean entropy of
      the candidates of task t: one divisor for all. 'code' is what the authors'
      code computes, h mean_t(h) / max_t mean_t(h) with h = H / (log C + 1e-5),
      which prefers tasks that are uncertain as a whole.
    numbers: what tasks with numbers as labels are scored by, such as STS-B:
      'labels' is the entropy over all of them, 26 for STS-B; 'copy' takes the
      scores of another task's candidates, as the authors' code does; 'spread'
      and 'mean' are as for `free_text`.
    copied_task: the task whose scores 'copy' takes; MRPC in the authors' code.
    free_text: what tasks without a list of labels are scored by, of which the
      paper has none: 'spread' spreads their candidates evenly over the scores
      of the tasks with labels, so that they have their share of every batch;
      'mean' gives all of them the mean of these scores, so that they are in no
      batch of few among many candidates; 'zero' takes them for certain.

  Raises:
    UserError: a field has a value that cannot be used.
  """

  candidates_per_task: int | None = None
  score: Literal['paper', 'code'] = 'paper'
  numbers: Literal['labels', 'copy', 'spread', 'mean'] = 'labels'
  copied_task: str = 'glue_mrpc'
  free_text: Literal['spread', 'mean', 'zero'] = 'spread'

  def __post_init__(self):
    count = self.candidates_per_task
    if count is not None and count < 1:
      raise errors.UserError(
        f'UncertaintySampling.candidates_per_task: got {count}, expected at'
        ' least 1, or None for data.batch_size.'
      )
    for name, choices in (
      ('score', ('paper', 'code')),
      ('numbers', ('labels', 'copy', 'spread', 'mean')),
      ('free_text', ('spread', 'mean', 'zero')),
    ):
      errors.check_choice(
        f'UncertaintySampling.{name}', getattr(self, name), choices
      )

  def per_task(self, batch_size: int) -> int:
    """Returns the candidates of each task.

    Raises:
      UserError: they are more than the rows of a batch.
    """
    count = self.candidates_per_task
    if count is None:
      return batch_size
    if count > batch_size:
      raise errors.UserError(
        f'UncertaintySampling.candidates_per_task = {count} is more than'
        f' data.batch_size = {batch_size}: one task could offer more rows than'
        f' a step trains on. Lower it to {batch_size} or less, or leave it out.'
      )
    return count

  def labels(
    self,
    tasks: Mapping[str, uncertainty_labels.Definition],
    vocabulary: uncertainty_labels.Encoder,
    *,
    targets_length: int,
  ) -> TaskLabels:
    """Finds what the tasks are scored by; see `task_labels`."""
    return uncertainty_labels.task_labels(
      tasks,
      vocabulary,
      targets_length=targets_length,
      numbers=self.numbers,
      copied_task=self.copied_task,
      free_text=self.free_text,
    )

  def selector(
    self, model: Any, labels: TaskLabels, *, batch_size: int, most_rows: int
  ) -> Selector:
    """Makes the choice of rows, for `loop.make_train_step`.

    Args:
      model: has `bind(params)`, a `t5.T5`.
      labels: of the tasks, in the order of the candidates.
      batch_size: rows to choose.
      most_rows: rows that go through the model at once, at most; as many
        candidates of one task do in any case.

    Returns:
      `(params, candidates, key) -> [batch_size] int32`, best first.
    """

    def select(params, candidates, key):
      del key
      logs = label_log_probabilities(
        model, params, candidates, labels, most_rows=most_rows
      )
      present = _by_task(_present(candidates), len(labels.rules))
      entropies = row_entropies(logs, present[:, labels.scored], labels)
      scores = row_scores(entropies, labels, score=self.score)
      return jax.lax.top_k(scores.reshape(-1), batch_size)[1]

    return select


def label_log_probabilities(
  model: Any,
  params: types.Params,
  candidates: types.Batch,
  labels: TaskLabels,
  *,
  most_rows: int,
) -> Float[Array, 'P K S']:
  """Log-probability of each label as the whole target of every segment.

  The encoder reads each row once. Then all labels go through the decoder, each
  with the rows of its task alone and once per segment, packed as targets are.

  Args:
    model: has `bind(params)`, a `t5.T5`.
    params: its parameters.
    candidates: [P T] rows, those of the T tasks in turn.
    labels: see `TaskLabels`.
    most_rows: see `UncertaintySampling.selector`.

  Returns:
    In nats, for label K of segment S in row P of the label's task; whatever for
    segments that a row does not have.
  """
  rows = jax.tree.map(lambda x: _by_task(x, len(labels.rules)), candidates)
  rows = jax.tree.map(lambda x: x[:, labels.scored], rows)
  per_task, segments = rows.encoder_segment_starts.shape[::2]
  length = labels.tokens.shape[1]

  def encode(columns):
    some = _some(rows, columns)
    encoded = model.bind(params).encode(
      some.encoder_input_tokens, _segments(some), some.task_ids
    )
    return _by_task(encoded, len(columns))

  width = _divisor(len(labels.scored), most_rows // per_task)
  blocks = np.arange(len(labels.scored)).reshape(-1, width)
  encoded = jnp.moveaxis(jax.lax.map(encode, blocks), 0, 1)  # [P, blocks, ...]
  encoded = encoded.reshape(per_task, -1, *encoded.shape[3:])

  def score(block):
    columns, tokens = block
    some = _some(rows, columns)
    targets = jnp.broadcast_to(
      tokens[None, :, None], (per_task, len(tokens), segments, length)
    )
    logits = model.bind(params).decode(
      _flat(jnp.pad(targets[..., :-1], ((0, 0),) * 3 + ((1, 0),))),
      _label_segments(some, length),
      _merged(encoded[:, columns]),
      _segments(some),
      some.task_ids,
    )
    logs = -losses.token_losses(logits, _flat(targets))
    logs = logs.reshape(targets.shape)
    return jnp.sum(jnp.where(targets > 0, logs, 0), axis=-1)

  # No more logits at once than those of as many rows of targets.
  target_rows = most_rows * rows.decoder_target_tokens.shape[-1]
  width = max(target_rows // (segments * length) // per_task, 1)
  found = jax.lax.map(
    score, (_blocks(labels.owners, width), _blocks(labels.tokens, width))
  )
  found = jnp.moveaxis(found, 0, 1).reshape(per_task, -1, segments)
  return found[:, : len(labels.owners)]


def row_entropies(
  logs: Float[Array, 'P K S'], present: Any, labels: TaskLabels
) -> Float[Array, 'P U']:
  """Entropy over the labels of each row's task, in nats.

  Args:
    logs: from `label_log_probabilities`.
    present: [P, U, S] bool, which segments a row has.
    labels: see `TaskLabels`.

  Returns:
    The mean over the row's segments.
  """
  counts = labels.counts
  place = np.arange(len(labels.owners)) - np.repeat(
    np.cumsum(counts) - counts, counts
  )
  shape = (len(logs), len(counts), counts.max(), logs.shape[-1])
  table = jnp.full(shape, -jnp.inf, logs.dtype)
  table = jax.nn.log_softmax(table.at[:, labels.owners, place].set(logs), 2)
  p = jnp.exp(table)
  entropies = -jnp.sum(jnp.where(p > 0, p * table, 0), axis=2)
  summed = jnp.sum(jnp.where(present, entropies, 0), axis=-1)
  return summed / jnp.maximum(jnp.sum(present, axis=-1), 1)


def row_scores(
  entropies: Float[Array, 'P U'],
  labels: TaskLabels,
  *,
  score: Literal['paper', 'code'],
) -> Float[Array, 'P T']:
  """What rows are ranked by; see `UncertaintySampling.score`.

  Args:
    entropies: of the rows of the tasks with labels.
    labels: the rules of all tasks.
    score: 'paper' or 'code'.
  """
  most = np.log(labels.counts).astype(entropies.dtype)
  if score == 'paper':
    largest = jnp.maximum(entropies.mean(axis=0).max(), _LEAST_MEAN)
    scores = entropies / (most * largest)[None]
  else:
    shares = entropies / (most + _CODE_EPSILON)[None]
    means = shares.mean(axis=0)
    scores = shares * (means / jnp.maximum(means.max(), _LEAST_MEAN))[None]
  middles = (np.arange(len(scores)) + 0.5) / len(scores)
  columns = {
    'spread': jnp.quantile(scores, middles.astype(scores.dtype)),
    'mean': jnp.broadcast_to(scores.mean(), len(scores)),
    'zero': jnp.zeros(len(scores), scores.dtype),
  }
  if labels.copied is not None:
    columns['copy'] = scores[:, labels.copied]
  place = {task: n for n, task in enumerate(labels.scored.tolist())}
  return jnp.stack(
    [
      scores[:, place[task]] if rule == 'labels' else columns[rule]
      for task, rule in enumerate(labels.rules)
    ],
    axis=1,
  )


def _by_task(leaf, tasks: int):
  """[P T, ...] -> [P, T, ...]."""
  return leaf.reshape(-1, tasks, *leaf.shape[1:])


def _merged(leaf):
  """[P, G, ...] -> [P G, ...]."""
  return leaf.reshape(-1, *leaf.shape[2:])


def _flat(leaf: Int[Array, 'P G S Ll']) -> Int[Array, 'P_G S_Ll']:
  return leaf.reshape(leaf.shape[0] * leaf.shape[1], -1)


def _some(rows: types.Batch, columns) -> types.Batch:
  """The rows of some tasks, [P G, ...], those of the G tasks in turn."""
  return jax.tree.map(lambda leaf: _merged(leaf[:, columns]), rows)


def _segments(rows: types.Batch) -> types.Segments:
  return types.Segments(
    rows.encoder_segment_ids,
    rows.encoder_segment_starts,
    rows.encoder_positions,
  )


def _present(rows: types.Batch):
  """[B, S] bool: which segments a row has."""
  last = rows.encoder_segment_ids.max(axis=-1, keepdims=True)
  return jnp.arange(rows.encoder_segment_starts.shape[1])[None] < last


def _label_segments(rows: types.Batch, length: int) -> types.Segments:
  """One label in the decoder for every segment of the encoder."""
  present = _present(rows)
  ids = jnp.where(present, jnp.arange(1, present.shape[1] + 1)[None], 0)
  ids = jnp.repeat(ids.astype(jnp.int32), length, axis=1)
  positions = jnp.tile(jnp.arange(length, dtype=jnp.int32), present.shape[1])
  return types.Segments(
    ids,
    rows.encoder_segment_starts,
    jnp.broadcast_to(positions[None], ids.shape),
  )


def _divisor(number: int, most: int) -> int:
  """The largest divisor of a number that is at most `most`, and at least 1."""
  return max(
    n for n in range(1, number + 1) if number % n == 0 and n <= max(most, 1)
  )


def _blocks(array: np.ndarray, width: int) -> np.ndarray:
  """[K, ...] -> [blocks, G, ...] with about equal G <= width, the last padded.

  Padding repeats the last entry.
  """
  count = -(-len(array) // width)
  width = -(-len(array) // count)
  index = np.minimum(np.arange(count * width), len(array) - 1)
  return array[index].reshape(count, width, *array.shape[1:])
