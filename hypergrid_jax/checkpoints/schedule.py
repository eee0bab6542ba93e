"""When to save: every so many steps, and every so many minutes."""

from collections.abc import Callable
import time

from hypergrid_jax.parallel import agreement


def told_by_first(value: int) -> int:
  """Returns the value that process 0 has."""
  return agreement.of_first(lambda: value)


class CheckpointTimes:
  """Tells after which steps to save; every process gets the same answers.

  Minutes are those of process 0's clock. The others do not ask it in every
  step: it tells them how many steps to make before they ask again, from half of
  the time that is left, and at most as many as since the last save. So there
  are a few dozen questions between two saves, and a save is late by not much
  more than the steps that the host is ahead of its devices.
  """

  def __init__(
    self,
    start: int,
    *,
    steps: int,
    minutes: float | None = None,
    agree: Callable[[int], int] = told_by_first,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Begins to count.

    Args:
      start: steps made before; a save of this step is taken for granted.
      steps: save when the step's number is a multiple.
      minutes: save when this time is over since the last save; None for never.
      agree: returns what process 0 calls it with; all call it together.
      clock: seconds.
    """
    self._steps = steps
    self._seconds = None if minutes is None else 60.0 * minutes
    self._agree = agree
    self._clock = clock
    self._count_from(start)

  def due(self, step: int) -> bool:
    """Whether to save now; to be called after every step, in order."""
    due = step % self._steps == 0
    if not due and self._seconds is not None and step == self._question:
      steps = self._agree(self._steps_to_wait(step))
      self._question = step + steps
      due = steps == 0
    if due:
      self._count_from(step)
    return due

  def _count_from(self, step: int) -> None:
    self._saved, self._time = step, self._clock()
    self._question = step + 1

  def _steps_to_wait(self, step: int) -> int:
    passed = self._clock() - self._time
    left = self._seconds - passed
    if left <= 0:
      return 0
    made = step - self._saved
    if left >= 2 * passed:
      return made
    return max(1, int(made * left / passed / 2))
