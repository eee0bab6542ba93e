"""Which tasks there are, by name, without seqio.

Everything that has to be known before text is turned into tokens is known
here, so that listing tasks or planning a run loads neither seqio nor
TensorFlow. The tasks of this package stand in `benchmarks`; tasks of a user's
own come from `task_files`.
"""

import sys

from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.tasks.catalogue.benchmarks import GLUE, SUPER_GLUE
from hypergrid_jax.tasks.task_definition import TaskDefinition

# Of this package, and those that `add` has brought.
DEFINITIONS = {task.name: task for task in (*GLUE, *SUPER_GLUE)}
# Name -> (what registered it, why it cannot be used).
REFUSED: dict[str, tuple[str | None, str]] = {}


def add(task: TaskDefinition) -> None:
  """Makes a task known under its name, for this process.

  A task file that is loaded again replaces what it defined before.

  Raises:
    UserError: another file, or this package, has a task of this name.
  """
  _check_free(task.name, task.task_file)
  DEFINITIONS[task.name] = task
  REFUSED.pop(task.name, None)


def refuse(name: str, task_file: str | None, reason: str) -> None:
  """Makes the name of a task known that cannot be used.

  Args:
    name: of the task.
    task_file: the file or module that defines it, None for this process.
    reason: what `definition` says about it.

  Raises:
    UserError: another file, or this package, has a task of this name.
  """
  if name in REFUSED and REFUSED[name][1] == reason:
    return  # of a module that several task files import
  _check_free(name, task_file)
  DEFINITIONS.pop(name, None)
  REFUSED[name] = task_file, reason


def find(name: str) -> TaskDefinition | None:
  """Returns the definition of a task, None where no task has this name.

  Raises:
    UserError: there is such a task, but it cannot be used.
  """
  known = DEFINITIONS.get(name)
  if known is None or (known.rows is not None and known.task_file is None):
    _adopt(name)
  if name in REFUSED:
    raise UserError(REFUSED[name][1])
  return DEFINITIONS.get(name)


def definition(name: str) -> TaskDefinition:
  """Returns the definition of a task.

  Args:
    name: such as 'glue_sst2', or of a task that this process has registered
      with seqio.

  Raises:
    UserError: no task has this name, and the message gives the closest ones;
      or it cannot be used.
  """
  task = find(name)
  if task is None:
    raise UserError(
      f'Unknown task {name!r}.{closest(name, (*DEFINITIONS, *REFUSED))} '
      f'Known tasks: {", ".join(DEFINITIONS)}. A task of your own is named by'
      ' --task_file or data.task_files.'
    )
  return task


def _check_free(name: str, task_file: str | None) -> None:
  owner = task_file
  if name in DEFINITIONS:
    known = DEFINITIONS[name]
    owner = known.task_file if known.rows is not None else 'this package'
  elif name in REFUSED:
    owner = REFUSED[name][0]
  if owner != task_file:
    raise UserError(
      f'{task_file or "seqio"}: the name {name!r} belongs to a task of'
      f' {owner or "this process"}. Choose another name.'
    )


def _adopt(name: str) -> None:
  """Makes a task known that this process has registered with seqio, if so."""
  by_module = name in REFUSED and REFUSED[name][0] is not None
  if 'seqio' in sys.modules and not by_module:
    from hypergrid_jax.tasks.seqio import facts

    facts.adopt_task(name)
