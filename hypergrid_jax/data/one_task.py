"""Batches of one task each, for runs that do not mix tasks within a batch.

HyperFormer's sampling (Karimi Mahabadi et al. 2021, arXiv:2106.04489): for
every batch a task is drawn at the mixture's rates, and fills it.
"""

import numpy as np

from hypergrid_jax.data.sampling import RowSampler


class OneTaskSampler:
  """Gives whole batches to tasks, as a `RowSampler` gives them rows.

  Batches take the places of that sampler's rows: within a block of M batches
  every task has a whole number of them, which in the first b blocks differs
  from b M p_t by less than 1, p_t being the task's share of rows. The batches
  of a task walk through its epochs in the order of the rows' own sampler, so
  that in an epoch every row comes exactly once. Any batch is a pure function of
  (seed, step).
  """

  def __init__(self, sampler: RowSampler, *, batch_size: int, seed: int):
    """Lays out the blocks.

    Args:
      sampler: has the shares of rows and the order of each task's rows.
      batch_size: rows of a global batch.
      seed: of the shuffle of batches.
    """
    self._sampler = sampler
    self._batch_size = batch_size
    self._batches = RowSampler(
      sampler.shares, dict.fromkeys(sampler.tasks, 1), batch_size=1, seed=seed
    )

  def rows(
    self, step: int, start: int = 0, stop: int | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns what fills rows [start, stop) of a batch; as `RowSampler`."""
    stop = self._batch_size if stop is None else stop
    tasks, batches = self._batches.numbered(step, step + 1)
    task, first = int(tasks[0]), int(batches[0]) * self._batch_size
    numbers = first + np.arange(start, stop, dtype=np.int64)
    return (
      np.full(len(numbers), task, np.int64),
      self._sampler.task_rows(task, numbers),
    )

  def drawn(self, num_steps: int) -> np.ndarray:
    """Returns how many rows of each task the first batches have, [T] int64."""
    return self._batches.drawn(num_steps) * self._batch_size
