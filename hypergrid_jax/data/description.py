"""What a run reads: rates, epochs, and how full its rows are."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hypergrid_jax.data.packing import PackedRows
from hypergrid_jax.data.sampling import RowSampler
from hypergrid_jax.data.tokens import TokenStore


def example_shares(
  packed: Mapping[str, PackedRows], order: RowSampler, drawn: np.ndarray
) -> dict[str, float]:
  """Returns each task's share of the examples in rows drawn, counted.

  Args:
    packed: rows per task, in the order of `order.tasks`.
    order: in which the rows of each task come.
    drawn: [T] int, how many rows of each task.
  """
  counts = {}
  for task, (name, rows) in enumerate(packed.items()):
    count = int(drawn[task])
    if rows.num_rows == len(rows.examples):
      counts[name] = count
      continue
    epochs, rest = divmod(count, rows.num_rows)
    some = order.task_rows(task, count - rest + np.arange(rest))
    segments = rows.offsets[some + 1] - rows.offsets[some]
    counts[name] = epochs * len(rows.examples) + int(segments.sum())
  total = sum(counts.values())
  return {name: count / total for name, count in counts.items()}


def described(
  stores: Mapping[str, TokenStore],
  packed: Mapping[str, PackedRows],
  shares: Mapping[str, float],
  measured: Mapping[str, float],
  *,
  num_steps: int,
  batch_size: int,
  row_lengths: tuple[int, int],
) -> dict[str, Any]:
  """Returns what `Loader.summary` says.

  Args:
    stores: examples per task.
    packed: their rows.
    shares: of rows per task, summing to 1.
    measured: shares of examples, counted.
    num_steps: number of batches.
    batch_size: rows of a batch.
    row_lengths: tokens of an encoder and of a decoder row.
  """
  tasks, tokens = [], np.zeros(2)
  per_row = {n: shares[n] * packed[n].segments_per_row for n in shares}
  for name, rows in packed.items():
    store, per_step = stores[name], batch_size * per_row[name]
    tasks.append(
      {
        'task': name,
        'examples': store.num_examples,
        'rate': per_row[name] / sum(per_row.values()),
        'measured_rate': measured[name],
        'rows': rows.num_rows,
        'segments_per_row': rows.segments_per_row,
        'examples_per_step': per_step,
        'epochs': per_step * num_steps / store.num_examples,
      }
    )
    lengths = len(store.input_tokens), len(store.target_tokens)
    tokens += np.array(lengths) * shares[name] / rows.num_rows
  padding = 1 - tokens / row_lengths
  return {
    'tasks': tasks,
    'rows_per_batch': batch_size,
    'tokens_per_batch': float(tokens.sum() * batch_size),
    'encoder_padding_fraction': float(padding[0]),
    'decoder_padding_fraction': float(padding[1]),
  }
