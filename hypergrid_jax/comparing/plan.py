"""Which runs a comparison consists of.

A method is a gin file that is read after those of the comparison, so that all
methods share everything which their own file does not change.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import pathlib
from typing import Any

from hypergrid_jax import errors
from hypergrid_jax.config import gin_files as gin_files_lib
from hypergrid_jax.config import registry, run_config
from hypergrid_jax.config.run_config import RunConfig
from hypergrid_jax.runs import datasets
from hypergrid_jax.tasks import definitions

PLAIN = 'plain'
SINGLE_TASK = 'single_task'
TOGETHER = '+'  # between methods that one run has at once
# What tells the runs of a comparison apart cannot be set for all of them.
_TAKEN = {
  'run.method': 'the methods are named by --methods',
  'train.seed': 'the seeds are named by --seeds',
}


@dataclasses.dataclass(frozen=True)
class PlannedRun:
  """One run of a comparison.

  Attributes:
    method: name of the method; of the column of the table.
    seed: of parameters, dropout and the order of the data.
    run: the configuration.
    directory: of the run.
    task: the one task that it is trained on; '' for all of the mixture.
  """

  method: str
  seed: int
  run: RunConfig
  directory: pathlib.Path
  task: str = ''

  @property
  def title(self) -> str:
    """What to call it."""
    task = f', {self.task}' if self.task else ''
    return f'{self.method}{task}, seed {self.seed}'


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is compared.

  Attributes:
    directory: of the comparison.
    plain: the run of a plain T5 on the same data; the measure of all others,
      also where it is not among them.
    methods: name -> its configuration, with the first seed.
    seeds: of every method but `single_task`.
    single_task_seeds: of `single_task`.
  """

  directory: pathlib.Path
  plain: RunConfig
  methods: dict[str, RunConfig]
  seeds: tuple[int, ...]
  single_task_seeds: tuple[int, ...]

  def seeds_of(self, method: str) -> tuple[int, ...]:
    """The seeds that a method is trained with."""
    return self.single_task_seeds if method == SINGLE_TASK else self.seeds

  def runs(self, trained_tasks: Sequence[str]) -> list[PlannedRun]:
    """All runs, seed by seed, so that early on every method has one.

    Args:
      trained_tasks: the tasks of the mixture that have a training set.
    """
    seeds = dict.fromkeys((*self.seeds, *self.single_task_seeds))
    return list(
      itertools.chain.from_iterable(
        self._runs_of(method, seed, trained_tasks)
        for seed in seeds
        for method in self.methods
        if seed in self.seeds_of(method)
      )
    )

  def _runs_of(self, method, seed, trained_tasks):
    run = with_seed(self.methods[method], seed)
    directory = self.directory / method / f'seed{seed}'
    if method != SINGLE_TASK:
      return [PlannedRun(method, seed, run, directory)]
    return [
      PlannedRun(method, seed, of_one_task(run, task), directory / task, task)
      for task in trained_tasks
    ]


def make(
  methods: Sequence[str],
  gin_files: Sequence[str],
  bindings: Sequence[str],
  flags: Mapping[str, Any],
  *,
  imports: Sequence[str] = (),
  directory: str,
  seeds: Sequence[int],
  single_task_seeds: Sequence[int] | None,
) -> Plan:
  """Reads the configuration of every method.

  Args:
    methods: names of files in gin/methods without '.gin', paths of gin files,
      or classes of a user's module, 'my_module.MyMethod'; 'A+B' for two
      methods in one run; 'single_task'.
    gin_files: of the data and the training that all have in common.
    bindings: 'NAME=VALUE' each; one of a method's own fields reaches only the
      methods that have it.
    flags: values by the names in `run_config.FLAGS`.
    imports: a user's modules, by name or as the path of a .py file.
    directory: of the comparison.
    seeds: of every method.
    single_task_seeds: of 'single_task'; None for the first of `seeds`.

  Raises:
    UserError: no such method; two of one name; a configuration is wrong, or
      sets what the comparison sets itself.
  """
  for binding in bindings:
    name = gin_files_lib.read_argument(binding).name
    if name in _TAKEN:
      raise errors.UserError(f'{binding}: {_TAKEN[name]}.')
  reader = _Reader(gin_files, bindings, flags, imports, directory)
  found: dict[str, RunConfig] = {}
  for text in methods:
    name = method_name(text)
    if name in found:
      raise errors.UserError(
        f'--methods: two methods are called {name!r}. Name each once, and give'
        ' the files of different methods different names.'
      )
    found[name] = with_seed(reader.method(text), seeds[0])
  reader.check_bindings()
  if single_task_seeds is None:
    single_task_seeds = seeds[:1]
  return Plan(
    directory=pathlib.Path(directory),
    plain=with_seed(reader.method(PLAIN), seeds[0]),
    methods=found,
    seeds=tuple(seeds),
    single_task_seeds=tuple(single_task_seeds),
  )


def method_name(text: str) -> str:
  """What the directory and the column of a method are called."""
  return TOGETHER.join(
    pathlib.PurePath(one).stem if one.endswith('.gin') else one
    for one in text.split(TOGETHER)
  )


def with_seed(run: RunConfig, seed: int) -> RunConfig:
  """The same run with another seed."""
  return dataclasses.replace(
    run, train=dataclasses.replace(run.train, seed=seed)
  )


def of_one_task(run: RunConfig, task: str) -> RunConfig:
  """The same run on one task of its mixture, and on what is evaluated with it.

  Args:
    run: on a mixture.
    task: one with a training set, such as 'glue_mnli', whose two validation
      sets come along as far as the mixture has them.
  """
  names = tuple(
    name
    for name in datasets.task_names(run.data.mixture)
    if definitions.definition(name).trained_as == task
  )
  data = dataclasses.replace(
    run.data,
    mixture=names if len(names) > 1 else names[0],
    weights=None,
    mixing='equal',
  )
  return dataclasses.replace(run, data=data)


class _Reader:
  """Reads the gin files of methods, each after those of the comparison."""

  def __init__(self, gin_files, bindings, flags, imports, directory):
    self._gin_files = tuple(gin_files)
    self._bindings = {
      b: registry.full_name(gin_files_lib.read_argument(b).owner)
      for b in bindings
    }
    self._flags = flags
    self._imports = tuple(imports)
    self._token_dir = str(pathlib.Path(directory, 'tokens'))
    self._used: set[str] = set()

  def method(self, text: str) -> RunConfig:
    """Returns the run of one of --methods."""
    if text == SINGLE_TASK:
      text = PLAIN
    methods = text.split(TOGETHER)
    run = self._read(methods)
    if len(methods) > 1:
      each = [self._read([method]).method for method in methods]
      run = dataclasses.replace(run, method=_together(text, each))
    if run.data.token_dir is None:
      data = dataclasses.replace(run.data, token_dir=self._token_dir)
      run = dataclasses.replace(run, data=data)
    return run

  def _read(self, methods):
    """Reads methods, with the bindings that concern their components."""
    files, bindings, imports = list(self._gin_files), [], list(self._imports)
    for method in methods:
      if _is_class(method):
        bindings.append(f'run.method={method}')
        imports.append(method.rpartition('.')[0])
      else:
        files.append(_file(method))

    def parse(more):
      return run_config.parse(
        files, [*bindings, *more], self._flags, imports=imports
      )

    common = [b for b, owner in self._bindings.items() if not _is_choice(owner)]
    run = parse(common)
    names = run_config.component_names(run)
    own = [
      b
      for b, owner in self._bindings.items()
      if b not in common and registry.full_name(owner) in names
    ]
    self._used |= {*common, *own}
    return parse([*common, *own]) if own else run

  def check_bindings(self):
    """Refuses a binding that no method takes."""
    for binding, owner in self._bindings.items():
      if binding not in self._used:
        raise errors.UserError(
          f'{binding}: {owner} is no component of any of --methods.'
        )


def _is_choice(owner: str) -> bool:
  """Returns whether runs may differ in having a component of this name."""
  return any(
    registry.full_name(owner) in choices
    for kind, choices in registry.COMPONENTS.items()
    if kind in registry.OPEN
  )


def _is_class(method: str) -> bool:
  """Returns whether a method is 'my_module.MyMethod'."""
  return '.' in method and not method.endswith('.gin')


def _file(name: str) -> str:
  """The gin file of a method."""
  if name.endswith('.gin'):
    return name
  folder = gin_files_lib.gin_directory() / 'methods'
  path = folder / f'{name}.gin'
  if path.is_file():
    return str(path)
  known = [*sorted(file.stem for file in folder.glob('*.gin')), SINGLE_TASK]
  raise errors.UserError(
    f'--methods: there is no method {name!r}.{errors.closest(name, known)}'
    f' There are {", ".join(known)}; or name a gin file, FILE.gin, or a class'
    ' of your own, MODULE.CLASS.'
  )


def _together(text: str, each: Sequence[Any]) -> tuple[Any, ...]:
  """The methods of several files as the one tuple of a run."""
  flat: list[Any] = []
  for method in each:
    flat += method if isinstance(method, tuple) else [method]
  if None in flat or len({type(method) for method in flat}) < len(flat):
    raise errors.UserError(
      f'--methods: {text}: expected different methods with {TOGETHER!r} between'
      ' them, each with parameters of its own.'
    )
  return tuple(flat)
