"""The `hypergrid` command: verbs, flags, exit codes.

Nothing heavy is imported before a verb runs, so that `--help` is quick; a verb
only turns flags into a call.

Exit codes: 0 success; 2 a user's mistake, with one message; 1 anything else,
with a traceback, and `doctor` when something is missing; 130 after Ctrl-C.
"""

import argparse
from collections.abc import Iterator, Sequence
import errno
import os
import pathlib
import re
import sys
import typing

import hypergrid_jax
from hypergrid_jax import errors

if typing.TYPE_CHECKING:
  from rich.console import Console

PLAIN_WIDTH = 120  # columns of a table that is not written to a terminal

_BINDINGS_HELP = (
  'Anything in the configuration can be set as NAME=VALUE, or as\n'
  '--gin.NAME=VALUE; a bare word is a string.'
)
_SOURCE_HELP = "'sample' (bundled), 'tfds', or 'files:DIR'"
_VOCAB_HELP = "a SentencePiece model, 'sample' or 'bytes'"


class _Parser(argparse.ArgumentParser):
  """Raises instead of exiting, and says which names come close."""

  def __init__(self, *args, **kwargs):
    super().__init__(
      *args,
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      **kwargs,
    )

  def error(self, message: str) -> typing.NoReturn:
    found = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
    hint = ''
    if found:
      hint = errors.closest(found[1], re.findall(r'\w+', found[2]))
    raise errors.UserError(f'{message}.{hint}\n{self.format_usage()}'.rstrip())


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one verb.

  Args:
    argv: the arguments after the program's name; None for the process's own.

  Returns:
    The exit code; see the module.
  """
  try:
    options = _parse(sys.argv[1:] if argv is None else argv)
    return options.run(options)
  except KeyboardInterrupt:
    sys.stderr.write('\nInterrupted.\n')
    return 130
  except BrokenPipeError:  # the reader of a pipe has left, as `head` does
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except Exception as error:
    message = _user_message(error)
    if message is None:
      raise
    sys.stderr.write(f'hypergrid: {message}\n')
    return 2


def _user_message(error: BaseException) -> str | None:
  """What to say about a mistake or an obstacle that the user can remove."""
  for cause in _chain(error):
    if isinstance(cause, errors.UserError):
      return str(cause)
    if not isinstance(cause, OSError):
      continue
    where = f'{cause.filename}: ' if cause.filename else ''
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
      return (
        f'{where}no space left on the disk. What was being written is not'
        ' used; free some space and run the same command again.'
      )
    if cause.errno in (errno.EACCES, errno.EROFS):
      return f'{where}{cause.strerror}. Choose a directory you can write to.'
  return None


def _chain(error: BaseException) -> Iterator[BaseException]:
  """The exception and those it was raised from."""
  current: BaseException | None = error
  while current is not None:
    yield current
    current = current.__cause__


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = _make_parser()
  options, rest = parser.parse_known_args(argv)
  options.bindings = []
  for argument in rest:
    binding = argument.removeprefix('--gin.')
    if binding.startswith('-') or '=' not in binding or not options.flags:
      raise errors.UserError(_unknown_argument(argument, options))
    options.bindings.append(binding)
  return options


def _unknown_argument(argument: str, options: argparse.Namespace) -> str:
  """The message for an argument that is neither a flag nor a binding."""
  if argument.startswith('--gin.'):
    return f'{argument}: expected --gin.NAME=VALUE in one piece.'
  name = argument.partition('=')[0]
  known = re.findall(r'--\w+', options.parser.format_help())
  hint = errors.closest(name, dict.fromkeys(known))
  expected = 'a flag' if not options.flags else 'a flag or NAME=VALUE'
  return f'{argument}: expected {expected}.{hint} See --help.'


def _make_parser() -> _Parser:
  parser = _Parser(
    prog='hypergrid',
    description='Trains and evaluates one T5 on many tasks.',
    epilog='example:\n  hypergrid train --gin_file=gin/runs/quickstart.gin',
  )
  parser.add_argument(
    '--version', action='version', version=hypergrid_jax.__version__
  )
  verbs = parser.add_subparsers(dest='verb', metavar='VERB', required=True)
  _add_train(verbs)
  _add_eval(verbs)
  _add_tasks(verbs)
  _add_doctor(verbs)
  return parser


def _add_verb(verbs, name, run, *, text, example, flags=False, epilog=''):
  parser = verbs.add_parser(
    name,
    help=text,
    description=f'{text[0].upper()}{text[1:]}.',
    epilog=f'{epilog}\n\nexample:\n  {example}'.lstrip(),
  )
  parser.set_defaults(run=run, flags=flags, parser=parser)
  return parser


def _add_data_flags(parser, *, default=None):
  parser.add_argument(
    '--data_source', metavar='SOURCE', default=default, help=_SOURCE_HELP
  )
  parser.add_argument(
    '--vocab', metavar='PATH', default=default, help=_VOCAB_HELP
  )
  parser.add_argument(
    '--token_dir',
    metavar='DIR',
    help='where tokenised data are kept, to share them between runs',
  )


def _add_train(verbs):
  parser = _add_verb(
    verbs,
    'train',
    _train,
    text='train, or go on training, and evaluate',
    example='hypergrid train --gin_file=gin/runs/quickstart.gin train.seed=1',
    epilog=_BINDINGS_HELP,
    flags=True,
  )
  parser.add_argument(
    '--gin_file',
    action='append',
    required=True,
    metavar='FILE',
    help='may be repeated; looked for here, then among the installed ones',
  )
  parser.add_argument(
    '--model_dir',
    metavar='DIR',
    help='the run; default runs/NAME for FILE NAME.gin. Goes on when DIR holds'
    ' the same run',
  )
  parser.add_argument(
    '--fresh',
    action='store_true',
    help='move what DIR holds aside and start anew',
  )
  _add_data_flags(parser)


def _add_eval(verbs):
  parser = _add_verb(
    verbs,
    'eval',
    _evaluate,
    text='evaluate checkpoints of a run: metrics, predictions, table',
    example='hypergrid eval --model_dir=runs/quickstart --tasks=glue_sst2',
    epilog=_BINDINGS_HELP,
    flags=True,
  )
  parser.add_argument(
    '--model_dir', metavar='DIR', required=True, help='the run'
  )
  parser.add_argument(
    '--step',
    type=_step,
    default='best',
    metavar='N|best|all',
    help='which checkpoints; default best',
  )
  parser.add_argument('--split', help='validation, test or train')
  parser.add_argument(
    '--tasks', type=_names, metavar='A,B', help='default: all of the mixture'
  )
  parser.add_argument(
    '--limit', type=_positive, metavar='N', help='examples per task'
  )
  _add_data_flags(parser)


def _add_tasks(verbs):
  parser = _add_verb(
    verbs,
    'tasks',
    _list_tasks,
    text='list the tasks, or show one',
    example='hypergrid tasks show glue_sst2 --num=5',
  )
  actions = parser.add_subparsers(
    dest='action', metavar='ACTION', required=True
  )
  listing = _add_verb(
    actions,
    'list',
    _list_tasks,
    text='list the tasks and what a data source has of them',
    example='hypergrid tasks list --data_source=files:DIR',
  )
  listing.add_argument(
    '--data_source', metavar='SOURCE', default='sample', help=_SOURCE_HELP
  )
  show = _add_verb(
    actions,
    'show',
    _show_task,
    text='show examples of a task as text and token ids',
    example='hypergrid tasks show super_glue_wsc --split=train --num=5',
  )
  show.add_argument('name', metavar='NAME', help='of the task')
  show.add_argument('--split', help='default: the one evaluated, if there')
  show.add_argument(
    '--num', type=_positive, default=3, metavar='N', help='of examples; 3'
  )
  _add_data_flags(show, default='sample')


def _add_doctor(verbs):
  parser = _add_verb(
    verbs,
    'doctor',
    _doctor,
    text='check versions, devices and data, and say how to get what is missing',
    example='hypergrid doctor --data_source=files:DIR',
    epilog='Exit code 0 when everything needed is there, 1 otherwise.',
  )
  parser.add_argument(
    '--data_source', metavar='SOURCE', help=f'check this too: {_SOURCE_HELP}'
  )


def _step(text: str) -> int | str:
  return text if text in ('best', 'all') else int(text)


def _names(text: str) -> tuple[str, ...]:
  return tuple(name.strip() for name in text.split(',') if name.strip())


def _positive(text: str) -> int:
  value = int(text)
  if value < 1:
    raise ValueError(text)
  return value


def _console() -> 'Console':
  from rich.console import Console

  console = Console()
  if console.is_terminal or 'COLUMNS' in os.environ:
    return console
  return Console(width=PLAIN_WIDTH)


def _flags(options: argparse.Namespace) -> dict[str, str | None]:
  from hypergrid_jax import configuration

  return {flag: getattr(options, flag) for flag in configuration.FLAGS}


def _train(options: argparse.Namespace) -> int:
  from hypergrid_jax import configuration

  run = configuration.parse(options.gin_file, options.bindings, _flags(options))
  stem = pathlib.Path(options.gin_file[-1]).stem
  model_dir = options.model_dir or os.path.join('runs', stem)

  from hypergrid_jax import experiment

  experiment.train(
    run,
    model_dir,
    config_text=configuration.operative_config(run),
    fresh=options.fresh,
    console=_console(),
  )
  return 0


def _evaluate(options: argparse.Namespace) -> int:
  from hypergrid_jax import configuration, run_directory

  run_directory.read_facts(options.model_dir)
  run = configuration.parse(
    [os.path.join(options.model_dir, 'config.gin')],
    options.bindings,
    _flags(options),
  )

  from hypergrid_jax import experiment

  experiment.evaluate(
    run,
    options.model_dir,
    step=options.step,
    split=options.split,
    tasks=options.tasks,
    limit=options.limit,
    console=_console(),
  )
  return 0


def _list_tasks(options: argparse.Namespace) -> int:
  from hypergrid_jax import task_pages

  _console().print(task_pages.overview(options.data_source))
  return 0


def _show_task(options: argparse.Namespace) -> int:
  from hypergrid_jax import task_pages

  task_pages.show(
    options.name,
    source=options.data_source,
    vocabulary=options.vocab,
    split=options.split,
    num=options.num,
    token_dir=options.token_dir,
    console=_console(),
  )
  return 0


def _doctor(options: argparse.Namespace) -> int:
  from hypergrid_jax import doctor

  return doctor.report(options.data_source, console=_console())
