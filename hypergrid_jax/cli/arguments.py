"""The verbs of the `hypergrid` command and their flags.

Nothing but argparse is loaded here; what a verb does stands in `verbs`.
"""

import argparse
from collections.abc import Sequence
import re
import typing

import hypergrid_jax
from hypergrid_jax import errors
from hypergrid_jax.cli import shared_flags, verbs, weight_arguments


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


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Reads a command line.

  Args:
    argv: the arguments after the program's name.

  Returns:
    The flags of the verb; `run`, which runs it on these options; `bindings`,
    the NAME=VALUE arguments; and `arguments`, all of them but what tells the
    processes of a run apart.

  Raises:
    UserError: there is no such verb, flag or binding, or one is missing.
  """
  options, rest = _make_parser().parse_known_args(argv)
  options.arguments = _without_place(argv)
  options.bindings = []
  for argument in rest:
    binding = argument.removeprefix('--gin.')
    if binding.startswith('-') or '=' not in binding or not options.flags:
      raise errors.UserError(_unknown_argument(argument, options))
    options.bindings.append(binding)
  return options


def _without_place(argv: Sequence[str]) -> list[str]:
  """Leaves --process_id N out."""
  kept, flag = [], '--process_id'
  after_flag = False
  for argument in argv:
    if not after_flag and not argument.startswith(f'{flag}='):
      kept += [argument] if argument != flag else []
    after_flag = argument == flag
  return kept


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
  added = parser.add_subparsers(dest='verb', metavar='VERB', required=True)
  _add_train(added)
  _add_eval(added)
  _add_compare(added)
  _add_predict(added)
  _add_tokenize(added)
  _add_precompile(added)
  _add_tasks(added)
  weight_arguments.add(added)
  _add_doctor(added)
  return parser


def _add_train(added):
  parser = shared_flags.add_verb(
    added,
    'train',
    verbs.train,
    text='train, or go on training, and evaluate',
    example='hypergrid train --gin_file=gin/runs/quickstart.gin train.seed=1',
    epilog='Goes on when DIR holds the same run.\n\n'
    f'{shared_flags.BINDINGS_HELP}',
    flags=True,
  )
  shared_flags.add_run_flags(parser)
  parser.add_argument(
    '--fresh',
    action='store_true',
    help='move what DIR holds aside and start anew',
  )
  shared_flags.add_process_flags(parser)


def _add_eval(added):
  parser = shared_flags.add_verb(
    added,
    'eval',
    verbs.evaluate,
    text='evaluate checkpoints of a run: metrics, predictions, table',
    example='hypergrid eval --model_dir=runs/quickstart --tasks=glue_sst2',
    epilog=shared_flags.BINDINGS_HELP,
    flags=True,
  )
  parser.add_argument(
    '--model_dir', metavar='DIR', required=True, help='the run'
  )
  parser.add_argument(
    '--step',
    type=shared_flags.step_or_all,
    default='best',
    metavar='N|best|best:TASK|all',
    help='which checkpoints; default best, by the average',
  )
  parser.add_argument('--split', help='validation, test or train')
  parser.add_argument(
    '--tasks',
    type=shared_flags.names,
    metavar='A,B',
    help='default: all of the mixture',
  )
  parser.add_argument(
    '--limit', type=shared_flags.positive, metavar='N', help='examples per task'
  )
  shared_flags.add_data_flags(parser)
  shared_flags.add_process_flags(parser)


def _add_compare(added):
  parser = shared_flags.add_verb(
    added,
    'compare',
    verbs.compare,
    text='train several methods on the same data, and write one table',
    example='hypergrid compare --gin_file=gin/runs/compare.gin'
    ' --methods=plain,hypergrid\n'
    '    --seeds=0,1,2 --model_dir=runs/compare',
    epilog='Every method is a run of its own in DIR/METHOD/seedN; the same'
    ' command goes\non. Writes compare.md, .csv, .json and .png.\n\n'
    f'{shared_flags.BINDINGS_HELP}',
    flags=True,
  )
  shared_flags.add_run_flags(parser)
  parser.add_argument(
    '--methods',
    type=shared_flags.names,
    required=True,
    metavar='A,B',
    help='files of gin/methods without .gin, or paths of gin files; A+B for two'
    ' in one model; single_task for a plain T5 per task',
  )
  parser.add_argument(
    '--seeds',
    type=shared_flags.seeds,
    default=(0,),
    metavar='N,M',
    help='one run of each method for each; default 0',
  )
  parser.add_argument(
    '--single_task_seeds',
    type=shared_flags.seeds,
    metavar='N,M',
    help='those of single_task; default the first of --seeds',
  )
  parser.add_argument(
    '--step_pairs',
    type=shared_flags.not_negative,
    default=20,
    metavar='N',
    help='steps of each method to time beside as many of a plain T5; 20',
  )
  parser.add_argument(
    '--no_plot', action='store_true', help='do without matplotlib'
  )


def _add_predict(added):
  parser = shared_flags.add_verb(
    added,
    'predict',
    verbs.predict,
    text='predict rows of any mix of tasks',
    example='hypergrid predict --model_dir=runs/quickstart --input rows.jsonl'
    ' --output answers.jsonl',
    epilog='A row is {"task": NAME, "fields": {...}} or\n'
    '{"task": NAME, "inputs": TEXT}, with an "id" if wanted.\n\n'
    f'{shared_flags.BINDINGS_HELP}',
    flags=True,
  )
  parser.add_argument(
    '--model_dir', metavar='DIR', required=True, help='the run'
  )
  parser.add_argument(
    '--input', metavar='FILE', required=True, help='rows, .jsonl or .jsonl.gz'
  )
  parser.add_argument(
    '--output', metavar='FILE', required=True, help='where predictions go'
  )
  parser.add_argument(
    '--step',
    type=shared_flags.step,
    default='best',
    metavar='N|best|best:TASK',
    help='which checkpoint; default best, by the average',
  )
  parser.add_argument(
    '--resume', action='store_true', help='go on where a stopped run was'
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='replace an output that is there'
  )
  shared_flags.add_data_flags(parser)
  shared_flags.add_process_flags(parser)


def _add_tokenize(added):
  parser = shared_flags.add_verb(
    added,
    'tokenize',
    verbs.tokenize,
    text='build the token stores of a run, and say what is in them',
    example='hypergrid tokenize --gin_file=gin/runs/quickstart.gin'
    ' --token_dir=tokens',
    epilog=shared_flags.BINDINGS_HELP,
    flags=True,
  )
  shared_flags.add_run_flags(parser)
  parser.add_argument('--test', action='store_true', help='the test splits too')


def _add_precompile(added):
  parser = shared_flags.add_verb(
    added,
    'precompile',
    verbs.precompile,
    text='compile a run for a TPU slice without one: what it takes and costs',
    example='hypergrid precompile --gin_file=gin/runs/glue_super_glue_base.gin'
    ' --vocab=t5.model --topology=v5e:2x4',
    epilog='Needs neither data nor a TPU, only its compiler: the extra tpu.\n'
    'Exit code 1 when a step does not fit; changes that make it fit are tried\n'
    f'then.\n\n{shared_flags.BINDINGS_HELP}',
    flags=True,
  )
  shared_flags.add_gin_flag(parser)
  parser.add_argument(
    '--topology',
    required=True,
    metavar='NAME',
    help='chips by dimension, such as v5e:4x4 or v5p:4x4x8; an accelerator'
    ' type, such as v5e-16 or v4-128; or cpu',
  )
  parser.add_argument(
    '--slices',
    type=shared_flags.positive,
    metavar='N',
    help='how many such slices; default mesh.slices',
  )
  parser.add_argument(
    '--program',
    choices=('train', 'decode'),
    help='compile only this one; default both',
  )
  parser.add_argument(
    '--quick',
    action='store_true',
    help='optimise less, which takes a fifth of the time: the same FLOPs, more'
    ' memory and traffic',
  )
  parser.add_argument(
    '--json', metavar='FILE', help='write all numbers there, too'
  )
  shared_flags.add_data_flags(parser)


def _add_tasks(added):
  parser = shared_flags.add_verb(
    added,
    'tasks',
    verbs.list_tasks,
    text='list the tasks, show one, or check one of your own',
    example='hypergrid tasks show glue_sst2 --num=5',
  )
  actions = parser.add_subparsers(
    dest='action', metavar='ACTION', required=True
  )
  listing = shared_flags.add_verb(
    actions,
    'list',
    verbs.list_tasks,
    text='list the tasks and what a data source has of them',
    example='hypergrid tasks list --data_source=files:DIR',
  )
  shared_flags.add_source_flag(listing, default='sample')
  show = shared_flags.add_verb(
    actions,
    'show',
    verbs.show_task,
    text='show examples of a task as text and token ids',
    example='hypergrid tasks show super_glue_wsc --split=train --num=5',
  )
  show.add_argument('name', metavar='NAME', help='of the task')
  show.add_argument('--split', help='default: the one evaluated, if there')
  _add_page_flags(show, num=3)
  check = shared_flags.add_verb(
    actions,
    'check',
    verbs.check_task,
    text='read all rows of a task, and say what is wrong or odd about them',
    example='hypergrid tasks check my_task.toml --vocab=t5.model',
    epilog='Exit code 2 for what would break training; what is only doubtful is'
    '\nprinted as a warning.',
  )
  check.add_argument(
    'name', metavar='FILE', help='a TOML file, Python file, module or task'
  )
  _add_page_flags(check, num=2)


def _add_page_flags(parser, *, num: int):
  """Adds the flags of what prints examples of tasks."""
  parser.add_argument(
    '--num',
    type=shared_flags.positive,
    default=num,
    metavar='N',
    help=f'of examples of a split to print; {num}',
  )
  for side in ('inputs', 'targets'):
    parser.add_argument(
      f'--{side}_length',
      type=shared_flags.positive,
      metavar='N',
      help=f'tokens that {side} are cut to; default as in training',
    )
  shared_flags.add_data_flags(parser, default='sample')


def _add_doctor(added):
  parser = shared_flags.add_verb(
    added,
    'doctor',
    verbs.doctor,
    text='check versions, devices and data, and say how to get what is missing',
    example='hypergrid doctor --data_source=files:DIR',
    epilog='Exit code 0 when everything needed is there, 1 otherwise.',
  )
  parser.add_argument(
    '--data_source',
    metavar='SOURCE',
    help=f'check this too: {shared_flags.SOURCE_HELP}',
  )
