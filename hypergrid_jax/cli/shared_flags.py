"""Flags and help that several verbs of the command share; see `arguments`."""

import argparse
from collections.abc import Callable

BINDINGS_HELP = (
  'Anything in the configuration can be set as NAME=VALUE, or as\n'
  '--gin.NAME=VALUE; a bare word is a string.'
)
SOURCE_HELP = "'sample' (bundled), 'tfds', or 'files:DIR'"
VOCAB_HELP = "a SentencePiece model, 'sample' or 'bytes'"


def add_verb(
  added,
  name: str,
  run: Callable[[argparse.Namespace], int],
  *,
  text: str,
  example: str,
  flags: bool = False,
  epilog: str = '',
) -> argparse.ArgumentParser:
  """Adds a verb; with `flags` it takes bindings too."""
  parser = added.add_parser(
    name,
    help=text,
    description=f'{text[0].upper()}{text[1:]}.',
    epilog=f'{epilog}\n\nexample:\n  {example}'.lstrip(),
  )
  parser.set_defaults(run=run, flags=flags, parser=parser)
  return parser


def add_data_flags(parser, *, default=None):
  """Adds the flags that say where data come from and are kept."""
  add_source_flag(parser, default=default)
  parser.add_argument(
    '--vocab', metavar='PATH', default=default, help=VOCAB_HELP
  )
  parser.add_argument(
    '--token_dir',
    metavar='DIR',
    help='where tokenised data are kept, to share them between runs',
  )


def add_source_flag(parser, *, default=None):
  """Adds the flags that say which data there are."""
  parser.add_argument(
    '--data_source', metavar='SOURCE', default=default, help=SOURCE_HELP
  )
  parser.add_argument(
    '--task_file',
    action='append',
    metavar='FILE',
    help='a TOML file, Python file or module with tasks of your own; may be'
    ' repeated',
  )


def add_run_flags(parser):
  """Adds the flags that name a run which need not exist yet."""
  add_gin_flag(parser)
  parser.add_argument(
    '--model_dir',
    metavar='DIR',
    help='the run; default runs/NAME for FILE NAME.gin',
  )
  add_data_flags(parser)


def add_gin_flag(parser):
  """Adds the flag that names the configuration."""
  parser.add_argument(
    '--gin_file',
    action='append',
    required=True,
    metavar='FILE',
    help='may be repeated; looked for here, then among the installed ones',
  )


def add_process_flags(parser):
  """Adds the flags that connect the processes of one run."""
  group = parser.add_argument_group(
    'several processes',
    'The same command on every host; all see one --model_dir.',
  )
  group.add_argument(
    '--distributed',
    default='auto',
    metavar='auto|slurm|tpu|off',
    help='how to find the others; auto asks SLURM or the TPU, where there is'
    ' one',
  )
  group.add_argument(
    '--coordinator',
    metavar='HOST:PORT',
    help='process 0, to say it oneself; PORT and the next one must be free',
  )
  group.add_argument('--num_processes', type=positive, metavar='N')
  group.add_argument('--process_id', type=int, metavar='I', help='from 0')
  group.add_argument(
    '--start_timeout',
    type=positive,
    default=300,
    metavar='SECONDS',
    help='how long to wait for the others; 300',
  )


def step(text: str) -> int | str:
  """Reads a step's number, 'best' or 'best:TASK'."""
  return text if text.partition(':')[0] == 'best' else int(text)


def step_or_all(text: str) -> int | str:
  """The same, or 'all'."""
  return text if text == 'all' else step(text)


def names(text: str) -> tuple[str, ...]:
  """Reads names with commas between them."""
  return tuple(name.strip() for name in text.split(',') if name.strip())


def seeds(text: str) -> tuple[int, ...]:
  """Reads different whole numbers of at least 0, with commas between them."""
  found = tuple(int(each) for each in names(text))
  if not found or min(found) < 0 or len(set(found)) < len(found):
    raise ValueError(text)
  return found


def not_negative(text: str) -> int:
  """Reads a whole number of at least 0."""
  value = int(text)
  if value < 0:
    raise ValueError(text)
  return value


def positive(text: str) -> int:
  """Reads a whole number of at least 1."""
  value = int(text)
  if value < 1:
    raise ValueError(text)
  return value
