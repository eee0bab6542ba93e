"""What a user did wrong, said once and clearly.

`UserError` is the only exception the command line turns into a message with
exit code 2. Raise it with what happened, where (file and line, or field), what
was expected and the way out; anything else that escapes is our own bug and
keeps its traceback.
"""

from collections.abc import Iterable, Iterator
import difflib
import errno


class UserError(Exception):
  """A mistake that the person running the program can correct."""


def closest(name: str, known: Iterable[str], *, limit: int = 3) -> str:
  """Returns " Did you mean 'a' or 'b'?" for the known names nearest to `name`.

  Capital letters are no difference.

  Args:
    name: what was asked for.
    known: the names that exist.
    limit: how many suggestions to make at most.

  Returns:
    A sentence that begins with a space, or the empty string when no known name
    is similar, so that it can be appended to any message.
  """
  by_lower = {each.lower(): each for each in known}
  matches = difflib.get_close_matches(
    name.lower(), by_lower, n=limit, cutoff=0.5
  )
  if not matches:
    return ''
  return f' Did you mean {" or ".join(repr(by_lower[m]) for m in matches)}?'


def check_choice(field: str, value: object, choices: Iterable[object]) -> None:
  """Checks that a field has one of the values it may have.

  Raises:
    UserError: it has not; names the field, the choices and the nearest one.
  """
  choices = tuple(choices)
  if value not in choices:
    raise UserError(
      f'{field}: got {value!r}, expected one of {choices}.'
      f'{closest(str(value), map(str, choices))}'
    )


def user_message(error: BaseException) -> str | None:
  """What to say about a mistake or an obstacle that the user can remove.

  Args:
    error: anything that was raised.

  Returns:
    The message; None when it is a mistake of the program.
  """
  for cause in _chain(error):
    if isinstance(cause, UserError):
      return str(cause)
    if not isinstance(cause, OSError):
      continue
    where = f'{cause.filename}: ' if cause.filename else ''
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
      return (
        f'{where}no space left on the disk. What was being written is not'
        ' used; free some space and run the same command again.'
      )
    if cause.errno in (errno.EACCES, errno.EROFS):
      return f'{where}{cause.strerror}. Choose a directory you can write to.'
  return None


def _chain(error: BaseException) -> Iterator[BaseException]:
  """The exception and those it was raised from."""
  current: BaseException | None = error
  while current is not None:
    yield current
    current = current.__cause__
