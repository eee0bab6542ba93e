"""The flags of the verbs that bring weights in and out; see `arguments`."""

import re

from hypergrid_jax.cli import shared_flags, verbs

_UNITS = {'': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9}


def add(added) -> None:
  """Adds the verbs import, export and edit.

  Args:
    added: the subparsers of the command.
  """
  _add_import(added)
  _add_export(added)
  _add_edit(added)


def _add_import(added):
  parser = shared_flags.add_verb(
    added,
    'import',
    verbs.import_weights,
    text='make a checkpoint of T5 weights from elsewhere',
    example='hypergrid import --from google-t5/t5-small --to checkpoints/small',
    epilog='PATH is a directory of Hugging Face transformers (config.json and\n'
    'safetensors), a checkpoint of T5X or of the original T5 (TensorFlow), a\n'
    'gs:// URL of one of them, or a model of the Hugging Face hub.\n'
    'With --gin_file, CKPT is that run at step 0, its method included.\n'
    'Without, it is a plain T5 for train.initial_checkpoint; its sizes are in\n'
    'CKPT/model.gin.',
    flags=True,
  )
  parser.add_argument(
    '--from', dest='source', metavar='PATH', required=True, help='the weights'
  )
  parser.add_argument('--to', metavar='CKPT', help='the directory to write')
  parser.add_argument(
    '--plan',
    action='store_true',
    help='list every tensor and where it would go; read and write no weights',
  )
  parser.add_argument(
    '--gin_file', action='append', metavar='FILE', help='of a run to prepare'
  )
  _add_rows_flag(parser, 'default the next multiple of 128')
  shared_flags.add_data_flags(parser)


def _add_export(added):
  parser = shared_flags.add_verb(
    added,
    'export',
    verbs.export_weights,
    text='write a model for Hugging Face transformers',
    example='hypergrid export --model_dir=runs/quickstart_plain --output out',
    epilog='With --task, what depends on the task alone is multiplied into a\n'
    'plain T5; where that is not exact, the part is named and nothing written.',
    flags=True,
  )
  _add_run_flags(parser)
  parser.add_argument(
    '--output', metavar='DIR', required=True, help='the directory to write'
  )
  parser.add_argument('--task', metavar='T', help='the task of the plain T5')
  parser.add_argument(
    '--max_shard_size',
    type=_size,
    default=_size('5GB'),
    metavar='SIZE',
    help='of a file of tensors, such as 300MB; default 5GB',
  )
  _add_rows_flag(parser, 'default all, or as many as were imported')
  shared_flags.add_data_flags(parser)


def _add_edit(added):
  parser = shared_flags.add_verb(
    added,
    'edit',
    verbs.edit,
    text='add tasks to a trained model, remove some, or average checkpoints',
    example='hypergrid edit --model_dir=runs/quickstart --to runs/more'
    ' --add_tasks=glue_wnli --like=glue_rte',
    epilog='CKPT becomes a run at step 0 with the parameters and no state of an'
    '\noptimiser. What the model does on the tasks it keeps does not change.',
    flags=True,
  )
  _add_run_flags(parser)
  parser.add_argument(
    '--to', metavar='CKPT', required=True, help='the directory to write'
  )
  parser.add_argument(
    '--add_tasks', type=_names, default=(), metavar='A,B', help='at the end'
  )
  parser.add_argument(
    '--like',
    metavar='T',
    help='a task whose parameters the added ones start from; default: drawn',
  )
  parser.add_argument(
    '--remove_tasks', type=_names, default=(), metavar='A,B', help='leave out'
  )
  parser.add_argument(
    '--average', type=_steps, default=(), metavar='N,M', help='these steps'
  )
  parser.add_argument(
    '--drop_optimizer',
    action='store_true',
    help='change nothing else: a copy with the parameters alone',
  )
  shared_flags.add_data_flags(parser)


def _add_run_flags(parser):
  parser.add_argument(
    '--model_dir', metavar='DIR', required=True, help='the run'
  )
  parser.add_argument(
    '--step',
    type=_step,
    default='best',
    metavar='N|best|best:TASK',
    help='which checkpoint; default best, by the average',
  )


def _add_rows_flag(parser, default: str):
  parser.add_argument(
    '--vocab_rows',
    type=int,
    metavar='N',
    help=f'rows of the vocabulary; {default}',
  )


def _step(text: str) -> int | str:
  return text if text.partition(':')[0] == 'best' else int(text)


def _names(text: str) -> tuple[str, ...]:
  return tuple(name.strip() for name in text.split(',') if name.strip())


def _steps(text: str) -> tuple[int, ...]:
  return tuple(int(step) for step in _names(text))


def _size(text: str) -> int:
  """Bytes of a size such as '5GB' or '300MB'."""
  found = re.fullmatch(r'(\d+) ?([KMG]B|)', text.upper())
  if not found or not int(found[1]):
    raise ValueError(text)
  return int(found[1]) * _UNITS[found[2]]
