"""Token stores of rows that a program holds, without files or a run.

For notebooks and scripts; `Loader.from_rows` is the way in.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from hypergrid_jax.data.tokens import TokenStore, memory_store
from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.tasks.vocabularies import Vocabulary

FIELDS = ('inputs', 'targets')


def stores(
  rows: Mapping[str, Sequence[Mapping[str, str]]],
  vocabulary: Vocabulary,
  *,
  lengths: tuple[int, int],
) -> dict[str, TokenStore]:
  """Tokenises the rows of every task, as seqio does.

  Args:
    rows: by task, mappings with the texts 'inputs' and 'targets'.
    vocabulary: from `load_vocabulary`.
    lengths: tokens that inputs and targets are cut to, with the
      end-of-sequence id that each of them gets.

  Returns:
    A token store in memory for each task.

  Raises:
    UserError: a task has no rows, or a row lacks one of the two texts.
  """
  by_task = {}
  for task, task_rows in rows.items():
    if not task_rows:
      raise UserError(f'{task}: there are no rows; a task needs at least one.')
    for number, row in enumerate(task_rows):
      _check(row, f'{task}, row {number}')
    tokens = [
      [_ids(row[field], vocabulary, length) for row in task_rows]
      for field, length in zip(FIELDS, lengths, strict=True)
    ]
    by_task[task] = memory_store(task, 'train', *tokens, task_rows)
  return by_task


def padded_tokens(
  texts: Sequence[str], vocabulary: Vocabulary, *, length: int
) -> np.ndarray:
  """Tokenises inputs for `greedy_decode`: one text per row, padded with 0.

  Args:
    texts: inputs, cut to `length` tokens with the end-of-sequence id.
    vocabulary: from `load_vocabulary`.
    length: tokens of a row, L.

  Returns:
    [B, L] int32.
  """
  tokens = np.zeros((len(texts), length), np.int32)
  for row, text in zip(tokens, texts, strict=True):
    ids = _ids(text, vocabulary, length)
    row[: len(ids)] = ids
  return tokens


def _ids(text: str, vocabulary: Vocabulary, length: int) -> list[int]:
  return [*vocabulary.encode(text)[: length - 1], vocabulary.eos_id]


def _check(row: Mapping[str, str], where: str) -> None:
  for field in FIELDS:
    if not isinstance(row.get(field), str):
      raise UserError(
        f'{where}: expected a text under {field!r}, got {row.get(field)!r}.'
        f'{closest(field, [str(name) for name in row])}'
      )
