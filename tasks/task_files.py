"""Tasks of a user's own, from the files that define them.

A `.toml` file describes one task (`toml.tasks`); a `.py` file, or a module by
its dotted name, registers tasks and mixtures with seqio (`seqio.descriptions`).
"""

from collections.abc import Sequence
import os
import sys

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions
from hypergrid_jax.tasks.catalogue import mixtures
from hypergrid_jax.tasks.seqio import descriptions
from hypergrid_jax.tasks.toml import tasks


def load(
  names: Sequence[str], *, cache: str | os.PathLike[str] | None = None
) -> tuple[str, ...]:
  """Makes the tasks of files known to `definitions` and `mixtures`.

  Args:
    names: of TOML files, Python files, or modules.
    cache: directory that keeps what modules registered, best the token store's,
      so that a later call need not import them; None to import them every time.

  Returns:
    The names of the tasks they define.

  Raises:
    UserError: a file is missing or defines no valid task.
  """
  found: list[str] = []
  for name in names:
    if name.endswith('.toml'):
      found.append(_load_toml(name))
    else:
      found += descriptions.load(name, cache=cache)
  return tuple(dict.fromkeys(found))


def _load_toml(name: str) -> str:
  task = tasks.read(name)
  if mixtures.known(task.name) is not None:
    raise UserError(
      f'{name}: the name {task.name!r} belongs to a mixture. Choose another'
      ' name.'
    )
  registry = sys.modules.get('hypergrid_jax.tasks.seqio.registry')
  if registry is not None:  # otherwise it registers the task when imported
    registry.register_task(task)
  definitions.add(task)
  return task.name
