"""Candidates as batches, for steps that choose what they train on."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hypergrid_jax.data import use
from hypergrid_jax.data.assembly import empty_batch
from hypergrid_jax.data.loader import Loader
from hypergrid_jax.errors import UserError
from hypergrid_jax.types import Batch


class CandidateLoader:
  """A loader whose batches hold equally many rows of every task.

  A step trains on some of them, see `loop.make_train_step`; which rows they
  are says `Loader.candidates`.

  Attributes:
    tasks: names of the tasks that are trained, in the order of the candidates.
    per_task: candidates of each.
  """

  def __init__(self, loader: Loader, per_task: int):
    """Keeps what batches follow from.

    Args:
      loader: has the rows; its rates play no part.
      per_task: candidates of every task.

    Raises:
      UserError: there are fewer candidates than rows to train on.
    """
    self.tasks = loader.tasks
    self.per_task = per_task
    self._loader = loader
    self._rows = len(loader.tasks) * per_task
    if self._rows < loader.batch_size:
      raise UserError(
        f'UncertaintySampling.candidates_per_task = {per_task} gives'
        f' {self._rows} candidates with {len(loader.tasks)} trained tasks, too'
        f' few for data.batch_size = {loader.batch_size}. Raise it to at least'
        f' {-(-loader.batch_size // len(loader.tasks))}.'
      )

  @property
  def trained_fraction(self) -> float:
    """The share of a batch's rows that a step trains on, in (0, 1]."""
    return self._loader.batch_size / self._rows

  def batch(self, n: int, host: int = 0, num_hosts: int = 1) -> Batch:
    """Returns this host's candidates of step n; see `Loader.candidates`."""
    return self._loader.candidates(n, self.per_task, host, num_hosts)

  def data_use(self, saved: Mapping[str, Any]) -> use.DataUse:
    """Returns what measures the use of the data, going on from `saved`."""
    return use.DataUse(
      self._loader.packed,
      lambda step: self._loader.candidate_rows(step, self.per_task),
      saved,
    )

  def shapes(self) -> list[Batch]:
    """Returns batches of padding, one of each shape that `batch` may have."""
    loader = self._loader
    return [empty_batch(self._rows, loader.row_lengths, loader.max_segments)]

  def summary(self, num_steps: int) -> dict[str, Any]:
    """Returns what a run of `num_steps` steps looks at; see `Loader.summary`.

    What a task's examples, rates and epochs are counted of are the candidates;
    what is trained on depends on the model.

    Returns:
      As of a loader, and `candidates`: the `rows` and `tokens` that a step
      looks at, and the rows `per_task`. The tokens per batch are those of as
      many candidates on average.
    """
    count = len(self.tasks)
    drawn = np.full(count, num_steps * self.per_task)
    said = self._loader.described(
      dict.fromkeys(self.tasks, 1 / count),
      self._loader.example_shares(drawn),
      num_steps=num_steps,
      batch_size=self._rows,
    )
    tokens = said['tokens_per_batch']
    return {
      **said,
      'rows_per_batch': self._loader.batch_size,
      'tokens_per_batch': tokens * self.trained_fraction,
      'candidates': {
        'rows': self._rows,
        'per_task': self.per_task,
        'tokens': tokens,
      },
    }
