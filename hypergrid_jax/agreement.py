"""What the processes of a run tell each other, besides arrays.

One host sees a new file sooner than another, and a disk may be full on one of
them alone. So process 0 looks and tells the others what it saw, and where all
work a failure of one is a failure of all. The messages go through the key-value
store of `jax.distributed`: unlike collectives they need no device, they may be
sent from any thread, and nobody waits for them for ever.
"""

from collections.abc import Callable
import itertools
import json
import time
from typing import Any, TypeVar

import jax
from jax._src import distributed  # has no public name; Orbax takes it too

from hypergrid_jax.errors import UserError

T = TypeVar('T')

# For the slowest of all hosts to write its part of a large checkpoint. The
# death of a process is noticed sooner, by jax.distributed itself.
TIMEOUT_SECONDS = 1800
_SLICE_SECONDS = 1  # Ctrl-C is not noticed while one lasts

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
  """One question to which all processes have the same answer.

  Exchanges find each other by their order: every process makes as many of them
  before. Each is then used once, from any thread.
  """

  def __init__(self):
    self._key = f'hypergrid_jax/agreement/{next(_numbers)}'

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
    return self._hold(make, speakers=place()[1])

  def _hold(self, make: Callable[[], T], speakers: int) -> list[T]:
    index, count = place()
    if count == 1:
      return [make()]
    error, report = None, {}
    if index < speakers:
      error, report = _attempt(make)
    if index == 0:
      reports = [report]
      for number in range(1, speakers):
        heard = self._hear(f'reports/{number}', TIMEOUT_SECONDS)
        reports.append(heard or _unanswered(number))
      self._tell('answer', reports)
      _client().key_value_delete(f'{self._key}/reports/')
    else:
      if index < speakers:
        self._tell(f'reports/{index}', report)
      # Process 0 may come later than this one, and then waits for others.
      heard = self._hear('answer', 2 * TIMEOUT_SECONDS)
      reports = heard or [_unanswered(0)]
    if error is not None:
      raise error
    for number, report in enumerate(reports):
      if 'error' in report:
        alone = speakers == 1 or report['kind'] == 'unanswered'
        who = '' if alone else f'Process {number}: '
        raise _ERRORS[report['kind']](who + report['error'])
    return [report['value'] for report in reports]

  def _tell(self, name: str, content: Any) -> None:
    _client().key_value_set(f'{self._key}/{name}', json.dumps(content))

  def _hear(self, name: str, timeout_seconds: float) -> Any:
    """Returns what was told, or None when nothing was told in time."""
    deadline = time.monotonic() + timeout_seconds
    while (left := deadline - time.monotonic()) > 0:
      milliseconds = int(1000 * min(left, _SLICE_SECONDS)) + 1
      try:
        text = _client().blocking_key_value_get(
          f'{self._key}/{name}', milliseconds
        )
        return json.loads(text)
      except jax.errors.JaxRuntimeError as error:
        if 'DEADLINE_EXCEEDED' not in str(error):
          raise
    return None


def of_first(make: Callable[[], T]) -> T:
  """See `Exchange.of_first`."""
  return Exchange().of_first(make)


def of_all(make: Callable[[], T]) -> list[T]:
  """See `Exchange.of_all`."""
  return Exchange().of_all(make)


def place() -> tuple[int, int]:
  """Returns the index of this process, and how many there are."""
  return jax.process_index(), jax.process_count()


def _client() -> Any:
  return distributed.global_state.client


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
