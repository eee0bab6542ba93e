"""Named sets of tasks, without seqio.

A mixture only lists tasks: in which proportion they are drawn is the run's
choice. Tasks without a training split are listed too, so that they are
evaluated and predicted with the rest.
"""

from collections.abc import Iterable
import dataclasses

from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.tasks.definitions import (
  DEFINITIONS,
  GLUE,
  SUPER_GLUE,
  TaskDefinition,
)


@dataclasses.dataclass(frozen=True)
class MixtureDefinition:
  """Tasks that are trained and evaluated together.

  Attributes:
    name: the mixture's own name.
    tasks: names of tasks, in the order of tables and of task ids.
  """

  name: str
  tasks: tuple[str, ...]

  @property
  def trained(self) -> tuple[str, ...]:
    """The tasks that have a training split, in the mixture's order."""
    return tuple(
      name for name in self.tasks if DEFINITIONS[name].train_split is not None
    )


_WNLI = ('glue_wnli',)
_DIAGNOSTICS = ('glue_ax', 'super_glue_axb', 'super_glue_axg')


def _names(definitions: Iterable[TaskDefinition]) -> tuple[str, ...]:
  left_out = (*_WNLI, *_DIAGNOSTICS)
  return tuple(task.name for task in definitions if task.name not in left_out)


_GLUE, _SUPER_GLUE = _names(GLUE), _names(SUPER_GLUE)

# WNLI is left out of the averages and of T5's mixtures: its validation set
# contradicts its training set, so learning it costs accuracy. The diagnostic
# sets have only unlabelled test splits.
MIXTURES = {
  mixture.name: mixture
  for mixture in (
    MixtureDefinition('glue', _GLUE),
    MixtureDefinition('super_glue', _SUPER_GLUE),
    MixtureDefinition('glue_super_glue', _GLUE + _SUPER_GLUE),
    MixtureDefinition('glue_super_glue_wnli', _GLUE + _SUPER_GLUE + _WNLI),
    MixtureDefinition(
      'glue_super_glue_all', _GLUE + _SUPER_GLUE + _WNLI + _DIAGNOSTICS
    ),
  )
}


def mixture(name: str) -> MixtureDefinition:
  """Returns a mixture by its name, or the one that a single task makes.

  The mixture of a single task contains the tasks that are evaluated with its
  training as well: 'glue_mnli' brings both of its validation sets.

  Args:
    name: of a mixture or of a task.

  Raises:
    UserError: neither a mixture nor a task has this name.
  """
  if name in MIXTURES:
    return MIXTURES[name]
  if name in DEFINITIONS:
    partners = (
      task.name
      for task in DEFINITIONS.values()
      if task.trained_as == name and task.name != name and task.eval_splits
    )
    return MixtureDefinition(name, (name, *partners))
  known = (*MIXTURES, *DEFINITIONS)
  raise UserError(
    f'Unknown mixture or task {name!r}.{closest(name, known)} '
    f'Known mixtures: {", ".join(MIXTURES)}.'
  )
