"""gin files and `NAME=VALUE` arguments to a flat list of bindings.

The only file that imports gin, for its grammar: what the names mean and which
values they take is decided in run_config.py.
"""

from collections.abc import Iterator
import dataclasses
import io
import pathlib
import tokenize
from typing import Any, TextIO

from gin import config_parser

from hypergrid_jax import errors


@dataclasses.dataclass(frozen=True)
class Reference:
  """`@name()` in a gin file."""

  name: str
  called: bool

  def __str__(self):
    return f'@{self.name}{"()" if self.called else ""}'


@dataclasses.dataclass(frozen=True)
class Macro:
  """`%name` in a gin file."""

  name: str

  def __str__(self):
    return f'%{self.name}'


REQUIRED = Macro('gin.REQUIRED')


class _Delegate(config_parser.ParserDelegate):
  """Keeps references and macros as names, to be resolved once all is read."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return Reference(scoped_configurable_name, evaluate)

  def macro(self, macro_name):
    return Macro(macro_name)


@dataclasses.dataclass(frozen=True)
class Binding:
  """One `owner.field = value`; a macro definition when `owner` is empty."""

  owner: str
  field: str
  value: Any
  where: str
  from_command_line: bool = False

  @property
  def name(self) -> str:
    """As it is written: 'owner.field', or the macro's name."""
    return f'{self.owner}.{self.field}' if self.owner else self.field


@dataclasses.dataclass(frozen=True)
class Import:
  """One `import module` of a gin file.

  Attributes:
    module: the module's dotted name.
    file: the gin file.
    where: 'file:line'.
  """

  module: str
  file: pathlib.Path
  where: str


def find_file(name: str, where: str = '') -> pathlib.Path:
  """Finds a gin file in the working directory or in the installed gin/.

  Args:
    name: a path; 'gin/runs/x.gin' and 'runs/x.gin' are the same installed file.
    where: 'file:line: ' of the include, for the message.

  Raises:
    UserError: if it is in neither.
  """
  installed = gin_directory()
  candidates = [pathlib.Path(name), installed / name]
  if name.startswith('gin/'):
    candidates.append(installed / name.removeprefix('gin/'))
  for path in candidates:
    if path.is_file():
      return path
  known = [
    f'gin/{path.relative_to(installed)}' for path in installed.rglob('*.gin')
  ]
  raise errors.UserError(
    f'{where}{name}: no such gin file in {pathlib.Path.cwd()} or in'
    f' {installed}.{errors.closest(name, known)}'
  )


def gin_directory() -> pathlib.Path:
  """Where the gin files are: inside the package, or beside it in a checkout."""
  package = pathlib.Path(__file__).parents[1]
  inside = package / 'gin'
  return inside if inside.is_dir() else package.parent / 'gin'


def read_file(
  name: str, where: str = '', above: tuple[pathlib.Path, ...] = ()
) -> Iterator[Binding | Import]:
  """Yields the bindings and imports of a file and its includes, in order.

  Args:
    name: see `find_file`.
    where: see `find_file`.
    above: the files that this one is included from.

  Raises:
    UserError: a file is missing, is not gin, or includes itself.
  """
  path = find_file(name, where)
  if path.resolve() in above:
    raise errors.UserError(f'{where}{name} includes itself.')
  with _open(path, where) as file:
    for statement, line in _statements(file, str(path)):
      here = f'{path}:{line}'
      if isinstance(statement, config_parser.BindingStatement):
        yield _from_statement(statement, here)
      elif isinstance(statement, config_parser.IncludeStatement):
        chain = (*above, path.resolve())
        yield from read_file(statement.filename, f'{here}: ', chain)
      elif isinstance(statement, config_parser.ImportStatement):
        if statement.is_from or statement.alias:
          raise errors.UserError(
            f'{here}: only `import MODULE` is supported; name what is in it as'
            ' MODULE.NAME.'
          )
        yield Import(statement.module, path, here)


def _open(path: pathlib.Path, where: str) -> TextIO:
  try:
    return path.open(encoding='utf-8')
  except OSError as error:
    raise errors.UserError(f'{where}{path}: {error.strerror}.') from error


def _statements(file: TextIO, shown: str) -> Iterator[tuple[Any, int]]:
  """Yields gin's statements and their lines; its errors become ours."""
  try:
    parser = config_parser.ConfigParser(file, _Delegate())
    for statement in parser:
      yield statement, statement.location.line_num
  except UnicodeDecodeError as error:
    raise errors.UserError(f'{shown}: not a text file: {error}.') from error
  except SyntaxError as error:
    message = f'{shown}:{error.lineno}: not gin: {error.msg}'
    if error.text and error.text.strip():
      message += f' In: {error.text.strip()}'
    raise errors.UserError(message) from error
  except tokenize.TokenError as error:
    text, (line, _) = error.args
    raise errors.UserError(f'{shown}:{line}: not gin: {text}.') from error


def _from_statement(
  statement: config_parser.BindingStatement, where: str
) -> Binding:
  if statement.scope:
    raise errors.UserError(
      f'{where}: {statement.scope}/{statement.selector}: scopes are not'
      ' supported; there is one of everything in a run.'
    )
  owner, field = statement.selector, statement.arg_name
  if not field:
    owner, field = '', statement.selector
  return Binding(owner, field, statement.value, where)


def read_argument(argument: str) -> Binding:
  """Reads one 'NAME=VALUE' of the command line; what is not gin is a string.

  Raises:
    UserError: if there is no name or no value.
  """
  name, separator, text = argument.partition('=')
  name, text = name.strip(), text.strip()
  if not separator or not name or not text:
    raise errors.UserError(f'{argument!r}: expected NAME=VALUE.')
  value: Any = text
  try:
    statements = list(
      config_parser.ConfigParser(io.StringIO(f'x = {text}\n'), _Delegate())
    )
    if len(statements) == 1:
      value = statements[0].value
  except (SyntaxError, tokenize.TokenError):
    value = text  # a bare word
  owner, _, field = name.rpartition('.')
  return Binding(owner, field, value, argument, from_command_line=True)
