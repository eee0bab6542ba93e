"""Turns functions into verbs of the command, and has the flags that they share.

`verb` reads a function's signature and docstring and hands both to typer, so
that a flag is one parameter and one line below `Flags:`. Nothing heavy is
imported here, so that `--help` is quick.
"""

from collections.abc import Callable, Iterator, Sequence
import copy
import dataclasses
import functools
import inspect
import re
import types
import typing
from typing import Annotated, Any

import typer
from typer import models

from hypergrid_jax import errors

if typing.TYPE_CHECKING:
  from rich.console import Console

  from hypergrid_jax.config.run_config import RunConfig

_UNITS = {'': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9}


def make_app(text: str = '', *, example: str = '') -> typer.Typer:
  """Makes a command without verbs.

  Args:
    text: what the help says about it.
    example: a command line for the help.
  """
  return typer.Typer(
    help=text,
    epilog=_epilog(example),
    subcommand_metavar='VERB ...',
    options_metavar='',
    context_settings={'help_option_names': ['-h', '--help']},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
  )


def verb(app: typer.Typer, name: str) -> Callable[[Callable], Callable]:
  """Makes a function a verb of a command.

  Every parameter is a flag of the same name, without a trailing underscore; a
  parameter whose type is a dataclass stands for a flag per field. The help is
  the docstring: its text, a line for each flag from `Flags:` (or `Attributes:`
  of the dataclass), and the command line below `Example:`.

  Args:
    app: the command.
    name: the verb.
  """

  def register(function):
    signature = inspect.signature(function)
    groups = {
      name: parameter.annotation
      for name, parameter in signature.parameters.items()
      if dataclasses.is_dataclass(parameter.annotation)
    }

    @functools.wraps(function)
    def run(**options) -> int:
      _check_values(options)
      for group, cls in groups.items():
        values = {f.name: options.pop(f.name) for f in dataclasses.fields(cls)}
        options[group] = cls(**values)
      return function(**options) or 0

    run.__signature__ = inspect.Signature(list(_parameters(function)))
    run.__annotations__ = {}
    text, _, example = _documented(function)
    app.command(
      name, help=text, epilog=_epilog(example), options_metavar='[FLAGS]'
    )(run)
    return function

  return register


def console() -> 'Console':
  """Makes the console that a verb prints to."""
  from hypergrid_jax import console as console_lib

  return console_lib.for_output()


def _epilog(example: str) -> str:
  return f'\b\nexample:\n  {example}'  # \b keeps the lines as they are


def _documented(thing: Callable) -> tuple[str, dict[str, str], str]:
  """Splits a docstring into its text, its arguments, and its example."""
  text, *rest = re.split(
    r'\n\n(Flags|Attributes|Example):\n', inspect.getdoc(thing) or ''
  )
  sections = dict(zip(rest[::2], rest[1::2], strict=True))
  entries = sections.get('Flags', sections.get('Attributes', ''))
  arguments = {
    name: ' '.join(words.split())
    for name, words in re.findall(r'^  (\w+): (.*(?:\n    .*)*)', entries, re.M)
  }
  return text, arguments, sections.get('Example', '').strip()


def _parameters(function: Callable) -> Iterator[inspect.Parameter]:
  """Yields what typer is to read in place of a function's own parameters."""
  _, texts, _ = _documented(function)
  for name, parameter in inspect.signature(function).parameters.items():
    kind = parameter.annotation
    if kind is typer.Context:
      yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    elif dataclasses.is_dataclass(kind):
      for cls in reversed(kind.__mro__[:-1]):
        texts |= _documented(cls)[1]
      for field in dataclasses.fields(kind):
        yield _flag(field.name, field.type, field.default, texts)
    else:
      yield _flag(name, kind, parameter.default, texts)


def _flag(
  name: str, kind: Any, default: Any, texts: dict[str, str]
) -> inspect.Parameter:
  """Makes the parameter that typer reads a flag from."""
  if typing.get_origin(kind) in (typing.Union, types.UnionType):
    (kind,) = (k for k in typing.get_args(kind) if k is not types.NoneType)
  info = typer.Option()
  if typing.get_origin(kind) is Annotated:
    kind, info = typing.get_args(kind)
  info = copy.copy(info)
  info.help = f'{texts[name][0].upper()}{texts[name][1:]}'
  if isinstance(info, models.OptionInfo):
    info.param_decls = (f'--{name.rstrip("_")}',)
  if default is dataclasses.MISSING:
    default = inspect.Parameter.empty
  return inspect.Parameter(
    name,
    inspect.Parameter.KEYWORD_ONLY,
    default=default,
    annotation=Annotated[kind, info],
  )


def _check_values(options: dict[str, Any]) -> None:
  """Refuses a flag as the value of the flag before it."""
  for value in options.values():
    for text in value if isinstance(value, list) else [value]:
      if isinstance(text, str) and text.startswith('--'):
        raise errors.UserError(
          f'{text}: expected the value of the flag before it, got a flag.'
        )


def _names(text: str) -> tuple[str, ...]:
  return tuple(name.strip() for name in text.split(',') if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
  try:
    numbers = tuple(map(int, _names(text)))
  except ValueError:
    numbers = ()
  if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
    raise typer.BadParameter(
      f'{text!r}, expected different whole numbers with commas between them.'
    )
  return numbers


def _step(text: str) -> int | str:
  if text.partition(':')[0] == 'best':
    return text
  if not text.isdecimal():
    raise typer.BadParameter(
      f'{text!r}, expected the number of a step, best or best:TASK.'
    )
  return int(text)


def _step_or_all(text: str) -> int | str:
  return text if text == 'all' else _step(text)


def _size(text: str) -> int:
  match = re.fullmatch(r'(\d+) ?([KMG]B|)', text.upper())
  if not match or not int(match[1]):
    raise typer.BadParameter(f'{text!r}, expected a size such as 300MB.')
  return int(match[1]) * _UNITS[match[2]]


def _binding(text: str) -> str:
  if '=' not in text:
    raise typer.BadParameter(
      f'{text!r}, expected a flag, or NAME=VALUE in one piece.'
    )
  return text


# What flags take: a type, and how typer shows and reads it.
Name = Annotated[str, typer.Option(metavar='NAME')]
Directory = Annotated[str, typer.Option(metavar='DIR')]
File = Annotated[str, typer.Option(metavar='FILE')]
Files = Annotated[list[str], typer.Option(metavar='FILE')]
Count = Annotated[int, typer.Option(metavar='N', min=1)]
Names = Annotated[Any, typer.Option(metavar='A,B', parser=_names)]
Numbers = Annotated[Any, typer.Option(metavar='N,M', parser=_numbers)]
Size = Annotated[Any, typer.Option(metavar='SIZE', parser=_size)]
Step = Annotated[Any, typer.Option(metavar='N|best|best:TASK', parser=_step)]
Steps = Annotated[
  Any, typer.Option(metavar='N|best|best:TASK|all', parser=_step_or_all)
]
Task = Annotated[str, typer.Argument(metavar='TASK')]
Bindings = Annotated[
  list[str], typer.Argument(metavar='NAME=VALUE', parser=_binding)
]


@dataclasses.dataclass(kw_only=True)
class Source:
  """Which data there are.

  Attributes:
    data_source: 'sample' (bundled), 'tfds' or 'files:DIR'.
    task_file: a TOML file, Python file or module with tasks of your own. May be
      repeated.
  """

  data_source: Name | None = None
  task_file: Files | None = None


@dataclasses.dataclass(kw_only=True)
class Data(Source):
  """Which data there are and where their tokens are kept.

  Attributes:
    vocab: a SentencePiece model, 'sample' or 'bytes'.
    token_dir: where tokenised data are kept, to share them between runs.
  """

  vocab: File | None = None
  token_dir: Directory | None = None


@dataclasses.dataclass(kw_only=True)
class Settings(Data):
  """Everything that may change the configuration of a run.

  Attributes:
    import_: a module of your own, by its name or its .py file, that registers
      methods. May be repeated.
    bindings: sets anything in the configuration, as does --gin.NAME=VALUE; a
      bare word is a string.
  """

  import_: Annotated[list[str], typer.Option(metavar='MODULE')] | None = None
  bindings: Bindings | None = None

  @property
  def short_bindings(self) -> dict[str, Any]:
    """The flags that are short for a binding; see `run_config.FLAGS`."""
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(Data)}

  def run(self, gin_files: Sequence[str]) -> 'RunConfig':
    """Returns the run of gin files, with what these flags change."""
    from hypergrid_jax.config import run_config

    return run_config.parse(
      gin_files,
      self.bindings or (),
      self.short_bindings,
      imports=self.import_ or (),
    )

  def run_of(self, model_dir: str) -> 'RunConfig':
    """Returns the run that a directory holds, with what these flags change."""
    from hypergrid_jax.runs import directory

    return self.run([directory.config_file(model_dir)])


@dataclasses.dataclass(kw_only=True)
class Processes:
  """How several processes, with the same command on every host, are connected.

  Attributes:
    distributed: how the processes of a run on several hosts find each other;
      auto asks SLURM or the TPU, where there is one.
    coordinator: process 0, to say it oneself; PORT and the next one must be
      free.
    num_processes: how many there are.
    process_id: which one this is, from 0.
    start_timeout: how long to wait for the others.
  """

  distributed: Annotated[str, typer.Option(metavar='auto|slurm|tpu|off')] = (
    'auto'
  )
  coordinator: Annotated[str, typer.Option(metavar='HOST:PORT')] | None = None
  num_processes: Count | None = None
  process_id: Annotated[int, typer.Option(metavar='I')] | None = None
  start_timeout: Annotated[int, typer.Option(metavar='SECONDS', min=1)] = 300
