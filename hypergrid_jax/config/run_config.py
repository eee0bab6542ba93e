"""gin files and `NAME=VALUE` bindings to one `RunConfig`, and back.

gin_files.py reads the text. What a name means, which values it takes and what
is said about a mistake come from the dataclasses of the library here, so that
nothing reaches training that they do not declare. There is no global state: the
same files and bindings always give an equal configuration.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import pathlib
import re
import typing
from typing import Any

from hypergrid_jax import errors
from hypergrid_jax.config import field_types, gin_files, registry

if typing.TYPE_CHECKING:
  from hypergrid_jax.data.config import DataConfig
  from hypergrid_jax.evaluation.evaluate import EvaluateConfig
  from hypergrid_jax.model.config import T5Config
  from hypergrid_jax.parallel.partitioning import MeshConfig
  from hypergrid_jax.training.loop import TrainConfig
  from hypergrid_jax.training.optimizers import AnyOptimizer, AnySchedule
  from hypergrid_jax.training.uncertainty import UncertaintySampling

# Command-line flags that are short for a binding; their values are strings, or
# lists of strings for a flag that may be repeated.
FLAGS = {
  'task_file': 'data.task_files',
  'data_source': 'data.source',
  'vocab': 'data.vocabulary',
  'token_dir': 'data.token_dir',
}


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """Everything that makes a run what it is, except where it is written.

  Attributes:
    model: sizes of the T5.
    method: a method's configuration, a tuple of those of several methods that
      are used together, or None for a plain T5.
    sampler: chooses what a step trains on by what the model is uncertain of;
      None draws rows at the rates of `data`.
    data: the mixture, and how its rows are made.
    optimizer: the update rule.
    schedule: the learning rate.
    train: how long and how to train.
    evaluate: how to evaluate.
    mesh: the devices.
    imports: a user's modules that the configuration needs, as their names or
      the paths of their files.
  """

  model: 'T5Config'
  method: Any
  sampler: 'UncertaintySampling | None'
  data: 'DataConfig'
  optimizer: 'AnyOptimizer'
  schedule: 'AnySchedule'
  train: 'TrainConfig'
  evaluate: 'EvaluateConfig'
  mesh: 'MeshConfig'
  imports: tuple[str, ...] = ()


def parse(
  files: Sequence[str] = (),
  bindings: Sequence[str] = (),
  flags: Mapping[str, str | Sequence[str] | None] | None = None,
  *,
  imports: Sequence[str] = (),
) -> RunConfig:
  """Reads gin files, then bindings, then flags; the last value wins.

  Args:
    files: paths of gin files, looked for in the working directory and then in
      the installed gin/; `include` looks in the same places.
    bindings: 'NAME=VALUE' each. A value that is not gin is a string.
    flags: values by the names in `FLAGS`; None values are left out.
    imports: a user's modules, by name or as the path of a .py file, imported
      before those that gin files import.

  Raises:
    UserError: a file is missing or is not gin; a module cannot be imported; a
      name is unknown; a value has the wrong type or is missing; a binding on
      the command line changes nothing. With file and line, what was expected,
      and the nearest names.
  """
  modules = _Modules()
  for name in imports:
    modules.add(name)
  read = []
  for name in files:
    for statement in gin_files.read_file(name):
      if isinstance(statement, gin_files.Import):
        modules.add(statement.module, statement.file.parent, statement.where)
      else:
        read.append(statement)
  read += [gin_files.read_argument(argument) for argument in bindings]
  read += [
    _from_flag(flag, value)
    for flag, value in (flags or {}).items()
    if value is not None
  ]
  macros = _Macros(read)
  # The components first: fields of a user's class have names from then on.
  ordered = sorted(read, key=lambda binding: binding.owner != 'run')
  bound = {}
  for binding in ordered:
    if binding.owner:
      owner = registry.full_name(binding.owner)
      binding = dataclasses.replace(binding, owner=owner)
      value = _check(binding, macros, modules.by_name)
      bound[binding.name] = dataclasses.replace(binding, value=value)
  macros.check_all_used()
  return _build_run(bound, tuple(modules.specs))


def operative_config(run: RunConfig) -> str:
  """The gin text that gives `run` when it is parsed, every field included."""
  lines = ['# Every value of this run: hypergrid train --gin_file=THIS_FILE']
  lines += [f'import {module_name(spec)}' for spec in run.imports]
  for part in registry.COMPONENTS:
    value = getattr(run, part)
    if value is None:
      lines += ['', f'run.{part} = None']
      continue
    values = value if isinstance(value, tuple) else (value,)
    names = [registry.name_of(part, each) for each in values]
    shown = ', '.join(f'@{name}()' for name in names)
    lines += ['', f'run.{part} = {shown if len(names) == 1 else f"({shown})"}']
    lines += [
      f'{name}.{field.name} = {getattr(each, field.name)!r}'
      for name, each in zip(names, values, strict=True)
      for field in dataclasses.fields(each)
    ]
  return '\n'.join(lines) + '\n'


def component_names(run: RunConfig) -> list[str]:
  """Returns the names that fields of `run` can be set on."""
  names = ['run']
  for kind in registry.COMPONENTS:
    value = getattr(run, kind)
    values = value if isinstance(value, tuple) else (value,)
    names += [registry.name_of(kind, v) for v in values if v is not None]
  return names


def module_name(spec: str) -> str:
  """Returns the name that a module of `RunConfig.imports` is imported by."""
  return pathlib.PurePath(spec).stem if spec.endswith('.py') else spec


class _Modules:
  """The user's modules that a configuration imports."""

  def __init__(self):
    self.by_name: dict[str, Any] = {}
    self.specs: dict[str, None] = {}

  def add(self, name: str, beside: pathlib.Path | None = None, where: str = ''):
    """Imports a module; the path of its file stands for one that is a file."""
    place = f'{where}: ' if where else ''
    module = registry.import_module(name, beside=beside, where=place)
    self.by_name[module.__name__] = module
    is_own = '.' not in module.__name__ and module.__spec__.has_location
    path = registry.file_of(name, beside) if is_own else None
    self.specs[name if path is None else str(path)] = None


def _from_flag(flag: str, value: str | Sequence[str]) -> gin_files.Binding:
  owner, field = FLAGS[flag].split('.')
  values = [value] if isinstance(value, str) else value
  shown = ' '.join(f'--{flag}={each}' for each in values)
  return gin_files.Binding(owner, field, value, shown, from_command_line=True)


class _Macros:
  """The definitions `NAME = value`, and which of them are used."""

  def __init__(self, read: Iterable[gin_files.Binding]):
    self.definitions = {b.field: b for b in read if not b.owner}
    self.used: set[str] = set()

  def resolve(self, value: Any, where: str, above: tuple[str, ...] = ()) -> Any:
    """Replaces macros by their values, inside containers too."""
    if isinstance(value, list | tuple):
      return type(value)(self.resolve(item, where, above) for item in value)
    if isinstance(value, dict):
      return {k: self.resolve(v, where, above) for k, v in value.items()}
    if not isinstance(value, gin_files.Macro) or value == gin_files.REQUIRED:
      return value
    if value.name in above:
      raise errors.UserError(f'{where}: {value} is defined by itself.')
    if value.name not in self.definitions:
      raise errors.UserError(
        f'{where}: {value} is not defined.'
        f'{errors.closest(value.name, self.definitions)}'
      )
    self.used.add(value.name)
    inner = self.definitions[value.name].value
    return self.resolve(inner, where, (*above, value.name))

  def check_all_used(self):
    """Refuses a definition without use: most likely a mistyped name."""
    for name, binding in self.definitions.items():
      if name not in self.used:
        raise errors.UserError(
          f'{binding.where}: {name} is not used anywhere.'
          f'{errors.closest(name, [*self.used, *_field_names()])}'
        )


@functools.cache
def _annotations(cls: type) -> dict[str, Any]:
  return typing.get_type_hints(cls)


def _classes() -> dict[str, str | type]:
  return {'run': RunConfig, **registry.classes()}


def _field_names() -> list[str]:
  return [
    f'{name}.{field.name}'
    for name, target in _classes().items()
    for field in dataclasses.fields(registry.load(target))
  ]


def _check(
  binding: gin_files.Binding, macros: _Macros, modules: Mapping[str, Any]
) -> Any:
  """Returns the binding's value, resolved and of the field's type."""
  classes = _classes()
  if binding.owner not in classes:
    hint = errors.closest(binding.owner, classes)
    raise errors.UserError(
      f'{binding.where}: {binding.name}: there is no {binding.owner!r}.'
      f'{hint or errors.closest(binding.name, _field_names())}'
      f' There are {", ".join(classes)}.'
    )
  if binding.owner == 'run':
    annotations = dict.fromkeys(registry.COMPONENTS)
  else:
    annotations = _annotations(registry.load(classes[binding.owner]))
  if binding.field not in annotations:
    raise errors.UserError(
      f'{binding.where}: {binding.owner} has no field {binding.field!r}.'
      f'{errors.closest(binding.field, annotations)}'
      f' It has {", ".join(annotations)}.'
    )
  value = macros.resolve(binding.value, binding.where)
  if binding.owner == 'run':
    return _check_component(binding, value, modules)
  if value == gin_files.REQUIRED:
    return value
  try:
    return field_types.convert(value, annotations[binding.field])
  except field_types.WrongTypeError as error:
    shown = value if isinstance(value, gin_files.Reference) else repr(value)
    raise errors.UserError(
      f'{binding.where}: {binding.name}: got {shown}, {error}'
    ) from error


def _check_component(
  binding: gin_files.Binding, value: Any, modules: Mapping[str, Any]
) -> str | tuple[str, ...] | None:
  """Returns what fills a component of the run: one name or several."""
  kind = binding.field
  choices = registry.COMPONENTS[kind]
  if value is None and kind in registry.OPTIONAL:
    return None
  is_several = kind in registry.SEVERAL and isinstance(value, tuple | list)
  # On the command line, @Name() would need quotes: the bare name will do.
  written = [
    item.name if isinstance(item, gin_files.Reference) and item.called else item
    for item in (value if is_several else (value,))
  ]
  try:
    names = [
      registry.find(kind, name, modules) if isinstance(name, str) else None
      for name in written
    ]
  except errors.UserError as error:
    raise errors.UserError(f'{binding.where}: {error}') from error
  if names and None not in names and len(set(names)) == len(names):
    return tuple(names) if len(names) > 1 else names[0]
  expected = [f'@{name}()' for name in choices]
  expected += ['None'] * (kind in registry.OPTIONAL)
  more = ', or a tuple of different methods' if kind in registry.SEVERAL else ''
  unknown = [w for w, name in zip(written, names, strict=True) if name is None]
  hint = errors.closest(str(unknown[0]), expected) if unknown else ''
  if unknown and '.' in str(unknown[0]) and not hint:
    module = str(unknown[0]).rpartition('.')[0]
    hint = f' A class of your own needs its module: --import={module}.'
  raise errors.UserError(
    f'{binding.where}: run.{kind}: got {_shown(value)}, expected'
    f' {" or ".join(expected)}{more}.{hint}'
  )


def _shown(value: Any) -> str:
  """A value as it is written in a gin file."""
  if isinstance(value, tuple | list):
    return f'({", ".join(map(str, value))})'
  return str(value)


def _build_run(
  bound: Mapping[str, gin_files.Binding], imports: tuple[str, ...]
) -> RunConfig:
  """Builds the components and refuses bindings that reached none."""
  components = {}
  used = ['run']
  for kind, choices in registry.COMPONENTS.items():
    name = None if kind in registry.OPTIONAL else next(iter(choices))
    if f'run.{kind}' in bound:
      name = bound[f'run.{kind}'].value
    names = name if isinstance(name, tuple) else (name,) if name else ()
    used += names
    built = tuple(
      _build(
        registry.load(choices[name]),
        name,
        [binding for binding in bound.values() if binding.owner == name],
      )
      for name in names
    )
    components[kind] = built if len(built) > 1 else next(iter(built), None)
  for binding in bound.values():
    if binding.from_command_line and binding.owner not in used:
      raise errors.UserError(
        f'{binding.where}: {binding.owner} is no component of this run, which'
        f' has {", ".join(used)}.'
      )
  return RunConfig(**components, imports=imports)


def _build(cls: type, name: str, bindings: list[gin_files.Binding]) -> Any:
  """Builds one component; what it refuses is given its file and line."""
  given = {binding.field: binding for binding in bindings}
  for field in dataclasses.fields(cls):
    binding = given.get(field.name)
    if binding is None and _has_default(field):
      continue
    if binding is None or binding.value == gin_files.REQUIRED:
      expected = field_types.describe(_annotations(cls)[field.name])
      raise errors.UserError(
        f'{binding.where + ": " if binding else ""}{name}.{field.name} has no'
        f' value; expected {expected}. Set it in a gin file or as'
        f' {" or ".join(_spellings(name, field.name))}.'
      )
  try:
    return cls(**{field: binding.value for field, binding in given.items()})
  except errors.UserError as error:
    where = _culprit(str(error), cls, bindings)
    raise errors.UserError(f'{where}{error}') from error


def _spellings(name: str, field: str) -> list[str]:
  """How a field is set on the command line."""
  full = f'{name}.{field}'
  flags = [f'--{flag}=VALUE' for flag, to in FLAGS.items() if to == full]
  return [f'{full}=VALUE', *flags]


def _has_default(field: dataclasses.Field) -> bool:
  missing = dataclasses.MISSING
  return field.default is not missing or field.default_factory is not missing


def _culprit(
  message: str, cls: type, bindings: Iterable[gin_files.Binding]
) -> str:
  """'file:line: ' of the binding that a dataclass's complaint names first."""
  found = []
  for binding in bindings:
    name = rf'\b(?:{binding.owner}|{cls.__name__})\.{binding.field}\b'
    if match := re.search(name, message):
      found.append((match.start(), binding.where))
  return f'{min(found)[1]}: ' if found else ''
