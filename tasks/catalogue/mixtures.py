"""Named sets of tasks, without seqio.

A mixture of this package only lists tasks: in which proportion they are drawn
is the run's choice. One that somebody else registered with seqio has rates too,
which a run takes unless it chooses others. Tasks without a training split are
listed as well, so that they are evaluated and predicted with the rest.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import sys

from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.tasks import definitions
from hypergrid_jax.tasks.catalogue.benchmarks import GLUE, SUPER_GLUE
from hypergrid_jax.tasks.definitions import DEFINITIONS
from hypergrid_jax.tasks.task_definition import TaskDefinition


@dataclasses.dataclass(frozen=True)
class MixtureDefinition:
  """Tasks that are trained and evaluated together.

  Attributes:
    name: the mixture's own name.
    tasks: names of tasks, in the order of tables and of task ids.
    rates: returns the rate of every task, given the training examples per task;
      None for a mixture of this package.
    task_file: the module that registers the mixture; None for those of this
      package, and for those that are only known to this process.
    place: file and line of the registration, empty where it is not known.
  """

  name: str
  tasks: tuple[str, ...]
  rates: Callable[[Mapping[str, int]], Mapping[str, float]] | None = None
  task_file: str | None = None
  place: str = ''

  @property
  def trained(self) -> tuple[str, ...]:
    """The tasks that have a training split, in the mixture's order."""
    return tuple(
      name
      for name in self.tasks
      if definitions.definition(name).train_split is not None
    )


_WNLI = ('glue_wnli',)
_DIAGNOSTICS = ('glue_ax', 'super_glue_axb', 'super_glue_axg')


def _names(tasks: Iterable[TaskDefinition]) -> tuple[str, ...]:
  left_out = (*_WNLI, *_DIAGNOSTICS)
  return tuple(task.name for task in tasks if task.name not in left_out)


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


def add(mixture: MixtureDefinition) -> None:
  """Makes a mixture known under its name, for this process.

  A module that is loaded again replaces what it defined before.

  Raises:
    UserError: another module, or this package, has a mixture of this name.
  """
  before = MIXTURES.get(mixture.name, mixture)
  if before.task_file != mixture.task_file:
    if before.place and before.place == mixture.place:
      return  # of a module that both task files import
    raise UserError(
      f'{mixture.task_file or "seqio"}: the name {mixture.name!r} belongs to a'
      f' mixture of {before.task_file or "this package"}. Choose another name.'
    )
  MIXTURES[mixture.name] = mixture


def known(name: str) -> MixtureDefinition | None:
  """Returns the mixture of a name, None where no mixture has it."""
  found = MIXTURES.get(name)
  adopted = found is not None and found.rates and found.task_file is None
  if (found is None or adopted) and 'seqio' in sys.modules:
    from hypergrid_jax.tasks.seqio import facts

    facts.adopt_mixture(name)
  return MIXTURES.get(name)


def mixture(name: str) -> MixtureDefinition:
  """Returns a mixture by its name, or the one that a single task makes.

  The mixture of a single task contains the tasks that are evaluated with its
  training as well: 'glue_mnli' brings both of its validation sets.

  Args:
    name: of a mixture or of a task.

  Raises:
    UserError: neither a mixture nor a task has this name, or the task cannot be
      used.
  """
  found = known(name)
  if found is not None:
    return found
  if definitions.find(name) is None:
    names = (*MIXTURES, *DEFINITIONS)
    raise UserError(
      f'Unknown mixture or task {name!r}.{closest(name, names)} '
      f'Known mixtures: {", ".join(MIXTURES)}. Tasks and mixtures of your own'
      ' are named by --task_file or data.task_files.'
    )
  partners = (
    task.name
    for task in DEFINITIONS.values()
    if task.trained_as == name and task.name != name and task.eval_splits
  )
  return MixtureDefinition(name, (name, *partners))
