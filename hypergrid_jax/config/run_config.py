"""gin files and `NAME=VALUE` bindings to one `RunConfig`, and back.

gin_reader.py reads the text. What a name means, which values it takes and what
is said about a mistake come from the dataclasses of the library here, so that
nothing reaches training that they do not declare. There is no global state: the
same files and bindings always give an equal configuration.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import importlib
import re
import typing
from typing import Any

from hypergrid_jax import errors
from hypergrid_jax.config import field_types
from hypergrid_jax.config import gin_files as gin_files_lib

# Field of `RunConfig` -> the names that can fill it; the first one is the
# default, but for the parts that a run may lack, where the default is none.
PARTS: dict[str, dict[str, str]] = {
  'model': {'T5Config': 'hypergrid_jax.model.config:T5Config'},
  'method': {
    'HyperGrid': 'hypergrid_jax.methods.hypergrid:HyperGrid',
    'Adapters': 'hypergrid_jax.methods.adapters:Adapters',
    'HyperFormer': 'hypergrid_jax.methods.hyperformer:HyperFormer',
    'CAMTL': 'hypergrid_jax.methods.ca_mtl:CAMTL',
  },
  'sampler': {
    'UncertaintySampling': (
      'hypergrid_jax.training.uncertainty:UncertaintySampling'
    ),
  },
  'data': {'data': 'hypergrid_jax.data.config:DataConfig'},
  'optimizer': {
    'Adafactor': 'hypergrid_jax.training.optimizers:Adafactor',
    'AdamW': 'hypergrid_jax.training.optimizers:AdamW',
  },
  'schedule': {
    'Constant': 'hypergrid_jax.training.optimizers:Constant',
    'RsqrtDecay': 'hypergrid_jax.training.optimizers:RsqrtDecay',
    'LinearWarmup': 'hypergrid_jax.training.optimizers:LinearWarmup',
  },
  'train': {'train': 'hypergrid_jax.training.loop:TrainConfig'},
  'evaluate': {'evaluate': 'hypergrid_jax.evaluation.evaluate:EvaluateConfig'},
  'mesh': {'mesh': 'hypergrid_jax.parallel.partitioning:MeshConfig'},
}
OPTIONAL_PARTS = ('method', 'sampler')
COMBINED_PARTS = ('method',)  # a run may have several at once
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
    model: `T5Config`.
    method: a method's configuration, a tuple of those of several methods that
      are used together, or None for a plain T5.
    sampler: `UncertaintySampling`, which chooses what a step trains on by what
      the model is uncertain of; None draws rows at the rates of `data`.
    data: `DataConfig`.
    optimizer: `Adafactor` or `AdamW`.
    schedule: `Constant`, `RsqrtDecay` or `LinearWarmup`.
    train: `TrainConfig`.
    evaluate: `EvaluateConfig`.
    mesh: `MeshConfig`.
  """

  model: Any
  method: Any
  sampler: Any
  data: Any
  optimizer: Any
  schedule: Any
  train: Any
  evaluate: Any
  mesh: Any


def parse(
  gin_files: Sequence[str] = (),
  bindings: Sequence[str] = (),
  flags: Mapping[str, str | Sequence[str] | None] | None = None,
) -> RunConfig:
  """Reads gin files, then bindings, then flags; the last value wins.

  Args:
    gin_files: paths, looked for in the working directory and then in the
      installed gin/; `include` looks in the same places.
    bindings: 'NAME=VALUE' each. A value that is not gin is a string.
    flags: see `FLAGS`; None values are left out.

  Raises:
    UserError: a file is missing or is not gin; a name is unknown; a value has
      the wrong type or is missing; a binding on the command line changes
      nothing. With file and line, what was expected, and the nearest names.
  """
  read = [b for name in gin_files for b in gin_files_lib.read_file(name)]
  read += [gin_files_lib.read_argument(argument) for argument in bindings]
  read += [
    _from_flag(flag, value)
    for flag, value in (flags or {}).items()
    if value is not None
  ]
  macros = _Macros(read)
  bound = {
    binding.name: dataclasses.replace(binding, value=_check(binding, macros))
    for binding in read
    if binding.owner
  }
  macros.check_all_used()
  return _build_run(bound)


def operative_config(run: RunConfig) -> str:
  """The gin text that gives `run` when it is parsed, every field included."""
  lines = ['# Every value of this run: hypergrid train --gin_file=THIS_FILE']
  for part in PARTS:
    value = getattr(run, part)
    if value is None:
      lines += ['', f'run.{part} = None']
      continue
    values = value if isinstance(value, tuple) else (value,)
    names = [name_of(part, each) for each in values]
    shown = ', '.join(f'@{name}()' for name in names)
    lines += ['', f'run.{part} = {shown if len(names) == 1 else f"({shown})"}']
    lines += [
      f'{name}.{field.name} = {getattr(each, field.name)!r}'
      for name, each in zip(names, values, strict=True)
      for field in dataclasses.fields(each)
    ]
  return '\n'.join(lines) + '\n'


def chosen_names(run: RunConfig) -> list[str]:
  """The names of everything that fields of `run` can be set on."""
  chosen = ['run']
  for part in PARTS:
    value = getattr(run, part)
    values = value if isinstance(value, tuple) else (value,)
    chosen += [name_of(part, each) for each in values if each is not None]
  return chosen


def name_of(part: str, value: Any) -> str:
  """What one value of a part of the run is called in gin."""
  for name, target in PARTS[part].items():
    if _load(target) is type(value):
      return name
  raise TypeError(f'{value!r} is none of {", ".join(PARTS[part])}')


def _from_flag(flag: str, value: str | Sequence[str]) -> gin_files_lib.Binding:
  owner, field = FLAGS[flag].split('.')
  values = [value] if isinstance(value, str) else value
  shown = ' '.join(f'--{flag}={each}' for each in values)
  return gin_files_lib.Binding(
    owner, field, value, shown, from_command_line=True
  )


class _Macros:
  """The definitions `NAME = value`, and which of them are used."""

  def __init__(self, read: Iterable[gin_files_lib.Binding]):
    self.definitions = {b.field: b for b in read if not b.owner}
    self.used: set[str] = set()

  def resolve(self, value: Any, where: str, above: tuple[str, ...] = ()) -> Any:
    """Replaces macros by their values, inside containers too."""
    if isinstance(value, list | tuple):
      return type(value)(self.resolve(item, where, above) for item in value)
    if isinstance(value, dict):
      return {k: self.resolve(v, where, above) for k, v in value.items()}
    if (
      not isinstance(value, gin_files_lib.Macro)
      or value == gin_files_lib.REQUIRED
    ):
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
def _configurables() -> dict[str, str]:
  names = {n: target for part in PARTS.values() for n, target in part.items()}
  return {'run': f'{__name__}:RunConfig', **names}


@functools.cache
def _load(target: str) -> type:
  module, name = target.split(':')
  return getattr(importlib.import_module(module), name)


@functools.cache
def _annotations(cls: type) -> dict[str, Any]:
  return typing.get_type_hints(cls)


def _field_names() -> list[str]:
  return [
    f'{name}.{field.name}'
    for name, target in _configurables().items()
    for field in dataclasses.fields(_load(target))
  ]


def _check(binding: gin_files_lib.Binding, macros: _Macros) -> Any:
  """Returns the binding's value, resolved and of the field's type."""
  known = _configurables()
  if binding.owner not in known:
    hint = errors.closest(binding.owner, known)
    raise errors.UserError(
      f'{binding.where}: {binding.name}: there is no {binding.owner!r}.'
      f'{hint or errors.closest(binding.name, _field_names())}'
      f' There are {", ".join(known)}.'
    )
  annotations = _annotations(_load(known[binding.owner]))
  if binding.field not in annotations:
    raise errors.UserError(
      f'{binding.where}: {binding.owner} has no field {binding.field!r}.'
      f'{errors.closest(binding.field, annotations)}'
      f' It has {", ".join(annotations)}.'
    )
  value = macros.resolve(binding.value, binding.where)
  if binding.owner == 'run':
    return _check_part(binding, value)
  if value == gin_files_lib.REQUIRED:
    return value
  try:
    return field_types.convert(value, annotations[binding.field])
  except field_types.WrongTypeError as error:
    shown = value if isinstance(value, gin_files_lib.Reference) else repr(value)
    raise errors.UserError(
      f'{binding.where}: {binding.name}: got {shown}, {error}'
    ) from error


def _check_part(
  binding: gin_files_lib.Binding, value: Any
) -> str | tuple[str, ...] | None:
  """Returns what fills a part of the run, if it fits: one name or several."""
  choices = PARTS[binding.field]
  combined = binding.field in COMBINED_PARTS
  if value is None and binding.field in OPTIONAL_PARTS:
    return None
  several = combined and isinstance(value, tuple | list)
  # On the command line, @Name() would need quotes: the bare name will do.
  names = tuple(
    item.name
    if isinstance(item, gin_files_lib.Reference) and item.called
    else item
    for item in (value if several else (value,))
  )
  unknown = [
    name for name in names if not isinstance(name, str) or name not in choices
  ]
  if names and not unknown and len(set(names)) == len(names):
    return names if len(names) > 1 else names[0]
  expected = [f'@{name}()' for name in choices]
  expected += ['None'] * (binding.field in OPTIONAL_PARTS)
  more = ', or a tuple of different methods' if combined else ''
  hint = errors.closest(str(unknown[0]), expected) if unknown else ''
  raise errors.UserError(
    f'{binding.where}: run.{binding.field}: got {_shown(value)}, expected'
    f' {" or ".join(expected)}{more}.{hint}'
  )


def _shown(value: Any) -> str:
  """A value as it is written in a gin file."""
  if isinstance(value, tuple | list):
    return f'({", ".join(map(str, value))})'
  return str(value)


def _build_run(bound: Mapping[str, gin_files_lib.Binding]) -> RunConfig:
  """Makes the parts of the run and refuses bindings that reached none."""
  parts = {}
  chosen = ['run']
  for part, choices in PARTS.items():
    name = None if part in OPTIONAL_PARTS else next(iter(choices))
    if f'run.{part}' in bound:
      name = bound[f'run.{part}'].value
    names = name if isinstance(name, tuple) else (name,) if name else ()
    chosen += names
    made = tuple(
      _build(_load(choices[n]), n, [b for b in bound.values() if b.owner == n])
      for n in names
    )
    parts[part] = made if len(made) > 1 else next(iter(made), None)
  for binding in bound.values():
    if binding.from_command_line and binding.owner not in chosen:
      raise errors.UserError(
        f'{binding.where}: {binding.owner} is no part of this run, which has'
        f' {", ".join(chosen)}.'
      )
  return RunConfig(**parts)


def _build(cls: type, name: str, bindings: list[gin_files_lib.Binding]) -> Any:
  """Makes one dataclass; what it refuses is given its file and line."""
  given = {binding.field: binding for binding in bindings}
  for field in dataclasses.fields(cls):
    binding = given.get(field.name)
    if binding is None and _has_default(field):
      continue
    if binding is None or binding.value == gin_files_lib.REQUIRED:
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
  message: str, cls: type, bindings: Iterable[gin_files_lib.Binding]
) -> str:
  """'file:line: ' of the binding that a dataclass's complaint names first."""
  found = []
  for binding in bindings:
    name = rf'\b(?:{binding.owner}|{cls.__name__})\.{binding.field}\b'
    if match := re.search(name, message):
      found.append((match.start(), binding.where))
  return f'{min(found)[1]}: ' if found else ''
