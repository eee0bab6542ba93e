"""Which rows are trained on, chosen by and reported on: protocols of papers.

`t5` uses the published splits as they are: training set, validation set, and
the unlabelled test set (Raffel et al. 2020, arXiv:1910.10683, section 2.3).

`hyperformer` makes a labelled test set of what is public (Karimi Mahabadi et
al. 2021, arXiv:2106.04489, section 3), so that a checkpoint is not chosen on
the rows it is reported on. It draws the same rows as the authors' code, whose
permutation is PyTorch's with seed 42:

* small training sets (CoLA, WNLI, RTE, MRPC, STS-B, CB, BoolQ): the first half
  of the shuffled validation set for validation, the second half for testing;
* large ones (QQP, QNLI, SST-2): 1,000 rows of the shuffled training set for
  validation, the validation set for testing;
* MNLI: the mismatched set for validation, the matched one for testing.

Two slips of the authors' code are mended: it leaves those 1,000 rows in the
training set, and it drops the last row of every split that it cuts, so that its
published scores are for one test row less. Tasks that the authors do not split
keep their published splits.
"""

from collections.abc import Callable
import dataclasses
import re
from typing import Literal

import numpy as np

from hypergrid_jax.tasks.definitions import TaskDefinition

Kind = Literal['train', 'validation', 'test']
# A published split, and which part of its shuffled rows: '' for all of them,
# otherwise a slice such as '[:half]' or '[1000:]'.
Part = tuple[str, str]

_SEED = 42
_PART = re.compile(r'\[(\w*):(\w*)\]')
_HALVED = frozenset(
  {
    'glue_cola',
    'glue_wnli',
    'glue_rte',
    'glue_mrpc',
    'glue_stsb',
    'super_glue_cb',
    'super_glue_boolq',
  }
)
_HELD_OUT = frozenset({'glue_qqp', 'glue_qnli', 'glue_sst2'})


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How published splits are used.

  Attributes:
    name: the protocol's own name.
    parts: returns what a kind of split is made of, for a task; several parts
      are several evaluations, none means that the task has no such split.
    keeps: returns whether the protocol says nothing about a task with an
      evaluation split, which then keeps its published splits.
  """

  name: str
  parts: Callable[[TaskDefinition, Kind], tuple[Part, ...]]
  keeps: Callable[[TaskDefinition], bool]


def _published(task: TaskDefinition, kind: Kind) -> tuple[Part, ...]:
  splits = {
    'train': (task.train_split,),
    'validation': task.eval_splits,
    'test': (task.test_split,),
  }
  return tuple((split, '') for split in splits[kind] if split is not None)


def _hyperformer(task: TaskDefinition, kind: Kind) -> tuple[Part, ...]:
  if kind != 'train' and task.name in _HALVED:
    part = '[:half]' if kind == 'validation' else '[half:]'
    return tuple((split, part) for split in task.eval_splits)
  if task.name in _HELD_OUT:
    return {
      'train': ((task.train_split, '[1000:]'),),
      'validation': ((task.train_split, '[:1000]'),),
      'test': tuple((split, '') for split in task.eval_splits),
    }[kind]
  if task.name == 'glue_mnli_mismatched':
    return _published(task, kind) if kind == 'validation' else ()
  if task.name == 'glue_mnli_matched':
    return _published(task, 'validation') if kind == 'test' else ()
  return _published(task, kind)


def _unknown_to_hyperformer(task: TaskDefinition) -> bool:
  known = {*_HALVED, *_HELD_OUT, 'glue_mnli_matched', 'glue_mnli_mismatched'}
  return bool(task.eval_splits) and task.name not in known


PROTOCOLS = {
  protocol.name: protocol
  for protocol in (
    Protocol('t5', _published, lambda _: False),
    Protocol('hyperformer', _hyperformer, _unknown_to_hyperformer),
  )
}


def chosen_rows(part: str, count: int) -> np.ndarray:
  """Returns which rows of a split belong to a part of it, [count] bool.

  The slice is of the rows in shuffled order; whoever reads the part keeps the
  order of the split.

  Args:
    part: '' or a slice '[begin:end]', each a number, 'half', or empty.
    count: rows of the split.

  Raises:
    ValueError: `part` is no such text.
  """
  if not part:
    return np.ones(count, bool)
  found = _PART.fullmatch(part)
  if not found:
    raise ValueError(f'{part!r} is no part of a split, such as [:half]')
  begin, end = (_place(text, count) for text in found.groups())
  mask = np.zeros(count, bool)
  mask[_torch_permutation(count)[begin:end]] = True
  return mask


def _place(text: str, count: int) -> int | None:
  if text == 'half':
    return count // 2
  return int(text) if text else None


def _torch_permutation(count: int) -> np.ndarray:
  """Returns what torch.randperm(count) gives on a CPU with seed 42, [count].

  A Fisher-Yates shuffle from the front, with one 32-bit word of the Mersenne
  Twister per step.
  """
  # The authors' generator; NumPy's modern ones seed it in another way.
  twister = np.random.RandomState(_SEED)  # noqa: NPY002
  words = twister.randint(2**32, size=max(count - 1, 0), dtype=np.uint32)
  order = list(range(count))
  for place, word in enumerate(words.tolist()):
    other = place + word % (count - place)
    order[place], order[other] = order[other], order[place]
  return np.array(order, np.int64)
