"""What a run's configuration may name: the library's own classes and users'.

A run consists of components, each a dataclass under a name in gin: a method, an
optimiser, a schedule, a sampler and so on. A class of a user's own is named in
one of two ways:

  register_method(MyMethod)             then `run.method = @MyMethod()`
  an import, in gin or by `--import`    then `run.method = @module.MyMethod()`

Its fields are set like those of the library's classes, `MyMethod.width = 3`,
with the same checks. What a method needs is `extension_points()`, an optimiser
`transformation(...)`, a schedule `schedule()`; see docs/methods.md.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import importlib
import importlib.util
import pathlib
import sys
import types
from typing import Any, TypeVar

from hypergrid_jax import errors

# Field of `RunConfig` -> the names that can fill it and their classes, as
# 'module:Class' until they are used. The first one is the default, but for the
# components that a run may lack.
COMPONENTS: dict[str, dict[str, str | type]] = {
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
OPTIONAL = ('method', 'sampler')
SEVERAL = ('method',)  # a run may have several at once
# The components that users may add classes to, and what such a class must have.
OPEN = {
  'method': 'extension_points',
  'sampler': 'selector',
  'optimizer': 'transformation',
  'schedule': 'schedule',
}

Class = TypeVar('Class', bound=type)


def register(kind: str, cls: Class, *, name: str | None = None) -> Class:
  """Makes a user's class known under a name in gin.

  Args:
    kind: 'method', 'sampler', 'optimizer' or 'schedule'.
    cls: a frozen dataclass; its fields become names in gin.
    name: the name in gin; None for the class's own.

  Returns:
    The class, so that this serves as a decorator.

  Raises:
    UserError: the class does not fit, or another one has its name.
  """
  name = cls.__name__ if name is None else name
  if not dataclasses.is_dataclass(cls):
    raise errors.UserError(
      f'{name} is not a dataclass: its fields would have no names in gin.'
      ' Write @dataclasses.dataclass(frozen=True) above it.'
    )
  if not hasattr(cls, OPEN[kind]):
    raise errors.UserError(
      f'{name} has no method {OPEN[kind]}(), which a {kind} needs.'
    )
  for other in COMPONENTS.values():
    if name in other and _identity(load(other[name])) != _identity(cls):
      raise errors.UserError(
        f'There are two classes with the name {name!r} in gin; rename one.'
      )
  COMPONENTS[kind][name] = cls
  return cls


def _identity(cls: type) -> tuple[str, str]:
  return cls.__module__, cls.__qualname__


def register_method(cls: Class) -> Class:
  """Makes a method known in gin under its class's name; see `register`."""
  return register('method', cls)


def load(target: str | type) -> type:
  """Returns a class of `COMPONENTS`, imported if it was not yet."""
  if isinstance(target, type):
    return target
  module, name = target.split(':')
  return getattr(importlib.import_module(module), name)


def classes() -> dict[str, str | type]:
  """Returns every name in gin with its class."""
  return {
    name: target
    for names in COMPONENTS.values()
    for name, target in names.items()
  }


def name_of(kind: str, value: Any) -> str:
  """Returns the name in gin of a component of a run."""
  for name, target in COMPONENTS[kind].items():
    if load(target) is type(value):
      return name
  raise TypeError(f'{value!r} is none of {", ".join(COMPONENTS[kind])}')


def find(kind: str, name: str, modules: Mapping[str, Any]) -> str | None:
  """Returns the full name of a class, registering one of an imported module.

  Args:
    kind: field of `RunConfig`.
    name: as written: 'HyperGrid', or 'my_module.MyMethod'.
    modules: the imported modules by name.

  Raises:
    UserError: the module has such a class, but it does not fit.
  """
  if name in COMPONENTS[kind]:
    return name
  module, _, attribute = name.rpartition('.')
  cls = getattr(modules.get(module), attribute, None)
  if kind not in OPEN or not isinstance(cls, type):
    return None
  register(kind, cls, name=name)
  return name


def full_name(owner: str) -> str:
  """Returns the full name of 'MyMethod' if only one module's class ends so."""
  names = classes()
  if owner in names:
    return owner
  matches = [name for name in names if name.endswith(f'.{owner}')]
  return matches[0] if len(matches) == 1 else owner


def import_module(
  name: str, *, beside: pathlib.Path | None = None, where: str = ''
) -> types.ModuleType:
  """Imports a user's module.

  Args:
    name: a module's name, or the path of a .py file. A file NAME.py in
      `beside`, or in its folder `modules`, or in the working directory comes
      before an installed module.
    beside: the directory of the gin file that imports it.
    where: 'file:line: ' of the import, for messages.

  Raises:
    UserError: there is no such module, it raises an error, or another file of
      the same name has been imported.
  """
  path = file_of(name, beside)
  if path is None and name.endswith('.py'):
    raise errors.UserError(f'{where}{name}: there is no such file.')
  try:
    if path is None:
      return importlib.import_module(name)
    return _import_file(path, where)
  except errors.UserError:
    raise
  except ModuleNotFoundError as error:
    if error.name != name.partition('.')[0]:
      raise errors.UserError(
        f'{where}{name} cannot be imported: {error}.'
      ) from error
    raise errors.UserError(
      f'{where}there is no module {name!r} in {pathlib.Path.cwd()} or among the'
      ' installed ones. Name a module, or the path of a .py file.'
    ) from error
  except Exception as error:
    line = _line_in(error, path)
    raise errors.UserError(
      f'{where}{path or name}{line} cannot be imported:'
      f' {type(error).__name__}: {error}'
    ) from error


def file_of(name: str, beside: pathlib.Path | None) -> pathlib.Path | None:
  """Returns the .py file that a name stands for; None for a module's name."""
  if name.endswith('.py'):
    path = pathlib.Path(name)
    return path if path.is_file() else None
  folders = [pathlib.Path()]
  if beside is not None:
    folders = [beside / 'modules', beside, *folders]
  for folder in folders:
    path = folder / f'{name.replace(".", "/")}.py'
    if path.is_file():
      return path
  return None


def module_texts(imports: Iterable[str]) -> dict[str, str]:
  """Returns the texts of the .py files among a run's imports, by file name."""
  return {
    path.name: path.read_text(encoding='utf-8')
    for path in map(pathlib.Path, imports)
    if path.suffix == '.py'
  }


def _import_file(path: pathlib.Path, where: str) -> types.ModuleType:
  """Imports a file under its own name, once."""
  name = path.stem
  loaded = sys.modules.get(name)
  if loaded is not None:
    file = getattr(loaded, '__file__', None)
    if file is None or not _same_content(pathlib.Path(file), path):
      raise errors.UserError(
        f'{where}{path}: another module is called {name!r}'
        f' ({file or "built in"}). Rename the file.'
      )
    return loaded
  spec = importlib.util.spec_from_file_location(name, path.resolve())
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module  # dataclasses look their module up
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[name]
    raise
  return module


def _same_content(first: pathlib.Path, second: pathlib.Path) -> bool:
  """Returns whether two files are the same, as a run's copy of a module is."""
  try:
    return first.read_bytes() == second.read_bytes()
  except OSError:
    return False


def _line_in(error: BaseException, path: pathlib.Path | None) -> str:
  """Returns ':LINE' of the user's file where an error was raised."""
  if isinstance(error, SyntaxError):
    return f':{error.lineno}'
  lines = []
  trace = error.__traceback__
  while trace is not None:
    if path and trace.tb_frame.f_code.co_filename == str(path.resolve()):
      lines.append(trace.tb_lineno)
    trace = trace.tb_next
  return f':{lines[-1]}' if lines else ''
