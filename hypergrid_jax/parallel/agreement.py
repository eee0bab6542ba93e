"""Questions to which all processes of a run get the same answer.

One host sees a new file sooner than another, and a disk may be full on one of
them alone. So process 0 looks and tells the others what it saw, and where all
work a failure of one is a failure of all. Unlike collective operations these
messages need no device, may be sent from any thread, and nobody waits for them
for ever.
"""

from collections.abc import Callable
import itertools
import json
from typing import Any, TypeVar

from hypergrid_jax.errors import UserError
from hypergrid_jax.parallel import processes

T = TypeVar('T')

# For the slowest of all hosts to write its part of a large checkpoint. The
# death of a process is noticed sooner, by JAX itself.
TIMEOUT_SECONDS = 1800

_numbers = itertools.count()


class UnansweredError(Exception):
  """A process did not take part in time; nothing more can be agreed on."""


class OtherProcessError(Exception):
  """Another process failed, not by a mistake of the user's."""


_ERRORS = {
  'user': UserError,
  'unanswered': UnansweredError,
  'other': OtherProcessError,
}


class Exchange:
  """One question, to be used once, from any thread.

  Exchanges find each other by their order: every process makes as many of them
  before.
  """

  def __init__(self):
    self._topic = f'agreement/{next(_numbers)}'

  def of_first(self, make: Callable[[], T]) -> T:
    """Returns what `make` returns in process 0; it is called there only.

    Args:
      make: returns JSON.

    Raises:
      UserError: `make` raised it.
      OtherProcessError: it raised something else, in process 0.
      UnansweredError: process 0 did not answer.
    """
    return self._hold(make, speakers=1)[0]

  def of_all(self, make: Callable[[], T]) -> list[T]:
    """Calls `make` in every process and returns all answers, by process.

    Args:
      make: returns JSON. Where it raises, its error is raised, and elsewhere
        one that tells which process it was.

    Raises:
      UserError: `make` raised it in some process.
      OtherProcessError: it raised something else in another process.
      UnansweredError: a process did not answer.
    """
    return self._hold(make, speakers=processes.count())

  def _hold(self, make: Callable[[], T], speakers: int) -> list[T]:
    if processes.count() == 1:
      return [make()]
    index = processes.index()
    error, report = None, {}
    if index < speakers:
      error, report = _attempt(make)
    if index == 0:
      reports = [report, *self._collect(speakers)]
      self._tell('answer', reports)
      processes.delete(f'{self._topic}/reports')
    else:
      if index < speakers:
        self._tell(f'reports/{index}', report)
      # Process 0 may come later than this one, and then waits for others.
      answer = self._hear('answer', 2 * TIMEOUT_SECONDS)
      reports = answer or [_unanswered(0)]
    if error is not None:
      raise error
    for number, report in enumerate(reports):
      if 'error' in report:
        alone = speakers == 1 or report['kind'] == 'unanswered'
        who = '' if alone else f'Process {number}: '
        raise _ERRORS[report['kind']](who + report['error'])
    return [report['value'] for report in reports]

  def _collect(self, speakers: int) -> list[dict[str, Any]]:
    return [
      self._hear(f'reports/{number}', TIMEOUT_SECONDS) or _unanswered(number)
      for number in range(1, speakers)
    ]

  def _tell(self, name: str, content: Any) -> None:
    processes.publish(f'{self._topic}/{name}', json.dumps(content))

  def _hear(self, name: str, timeout_seconds: float) -> Any:
    """Returns what was told, or None when nothing was told in time."""
    text = processes.wait_for(
      f'{self._topic}/{name}', timeout_seconds=timeout_seconds
    )
    return None if text is None else json.loads(text)


def of_first(make: Callable[[], T]) -> T:
  """See `Exchange.of_first`."""
  return Exchange().of_first(make)


def of_all(make: Callable[[], T]) -> list[T]:
  """See `Exchange.of_all`."""
  return Exchange().of_all(make)


def _attempt(
  make: Callable[[], T],
) -> tuple[Exception | None, dict[str, Any]]:
  """Returns the error, or None, and what to tell the others."""
  try:
    return None, {'value': make()}
  except UserError as error:
    return error, {'kind': 'user', 'error': str(error)}
  except Exception as error:
    text = f'{type(error).__name__}: {error}'
    return error, {'kind': 'other', 'error': text}


def _unanswered(process: int) -> dict[str, Any]:
  text = (
    f'Process {process} has not answered for {TIMEOUT_SECONDS:g} s. Look at its'
    ' log; started again, the run goes on from its last checkpoint.'
  )
  return {'kind': 'unanswered', 'error': text}
