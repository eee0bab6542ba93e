"""Which tasks exist: names, fields, labels, splits and groups, without seqio.

Everything that has to be known before text is turned into tokens stands here,
so that listing tasks or planning a run loads neither seqio nor TensorFlow. How
a row becomes text, and how a prediction is scored, stands in `glue` and
`super_glue`.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from hypergrid_jax.errors import UserError, closest

# Kinds of field, with their type in a row and in TFDS:
#   text     str                        string
#   texts    list of str                strings, any number
#   integer  int                        int32
#   label    int, index into `classes`  int64
#   score    float in [0, 5]            float32
# A name with a slash is nested: 'idx/paragraph' is row['idx']['paragraph'].
Fields = Mapping[str, str]

STSB_SCORES = tuple(f'{score / 5:.1f}' for score in range(26))


@dataclasses.dataclass(frozen=True)
class TaskDefinition:
  """One task: where its rows come from and what they look like.

  Attributes:
    name: the task's own name, such as 'glue_sst2'.
    benchmark: 'glue' or 'super_glue'.
    config: the task's directory below the benchmark's in a `files:` source.
    tfds: TFDS name with configuration and version.
    train_split: split to train on; None for tasks that are only evaluated.
    eval_splits: labelled splits to evaluate on.
    test_split: unlabelled split whose predictions are submitted, or None.
    trained_as: the task whose training, and task id, this one shares; its own
      name for every task that has a training split.
    group: entry of the benchmark average that the task's metrics belong to;
      None for tasks outside every average.
    labels: the closed set of target texts, in the order of the class ids (for
      STS-B, ascending scores); None where targets are free text.
    train_examples: published number of training examples (for ReCoRD of
      question-answer pairs, for WSC of positive rows): T5's mixing weights.
    fields: the fields of a row with their kinds, in TFDS's order.
    classes: names of the values 0, 1, ... of the row's label field; empty where
      the row has no such field.
    train_label: the only label whose rows are trained on; None for all rows.
    check: finds what is wrong with a row whose fields each have the right type;
      returns the problem in words, or None.
  """

  name: str
  benchmark: str
  config: str
  tfds: str
  train_split: str | None
  eval_splits: tuple[str, ...]
  test_split: str | None
  trained_as: str
  group: str | None
  labels: tuple[str, ...] | None
  train_examples: int
  fields: Fields
  classes: tuple[str, ...] = ()
  train_label: int | None = None
  check: Callable[[Mapping[str, Any]], str | None] | None = None

  @property
  def splits(self) -> tuple[str, ...]:
    """Every split of the task, in the order train, evaluation, test."""
    splits = (self.train_split, *self.eval_splits, self.test_split)
    return tuple(split for split in splits if split is not None)


def _wsc_problem(row: Mapping[str, Any]) -> str | None:
  """Checks that the pronoun stands where T5's WSC preprocessor looks for it."""
  text, pronoun, index = row['text'], row['span2_text'], row['span2_index']
  # The two sentences of the published data whose index is off; T5 knows them
  # by their text.
  if text.startswith('The boy continued to whip the pony , ') or (
    text.startswith('When they had eventually calmed down a bit , ')
    and 'magic pebble' in text
  ):
    return None
  words = text.split(' ')
  if not 0 < index < len(words):
    return (
      f"'span2_index' is {index}; it has to point at a word of 'text' other "
      f'than the first, so expected 1 to {len(words) - 1}'
    )
  if words[index] != pronoun:
    return (
      f"'span2_index' {index} points at {words[index]!r}, but 'span2_text' is "
      f"{pronoun!r}; count the words of 'text' from 0, separated by one space"
    )
  return None


def _pair(first: str, second: str) -> Fields:
  return {first: 'text', second: 'text', 'label': 'label', 'idx': 'integer'}


_ENTAILMENT = ('entailment', 'not_entailment')
_MNLI = ('entailment', 'neutral', 'contradiction')
_FALSE_TRUE = ('False', 'True')


def _glue(
  config: str,
  fields: Fields,
  classes: tuple[str, ...],
  train_examples: int,
  **changes: Any,
) -> TaskDefinition:
  values = {
    'name': f'glue_{config}',
    'benchmark': 'glue',
    'config': config,
    'tfds': f'glue/{config}:2.0.0',
    'train_split': 'train',
    'eval_splits': ('validation',),
    'test_split': 'test',
    'trained_as': f'glue_{config}',
    'group': f'glue/{config}',
    'labels': classes,
  }
  return TaskDefinition(
    **{**values, **changes},
    fields=fields,
    classes=classes,
    train_examples=train_examples,
  )


def _super_glue(
  config: str,
  fields: Fields,
  classes: tuple[str, ...],
  train_examples: int,
  **changes: Any,
) -> TaskDefinition:
  values = {
    'name': f'super_glue_{config}',
    'benchmark': 'super_glue',
    'tfds': f'super_glue/{config}:1.0.2',
    'trained_as': f'super_glue_{config}',
    'group': f'super_glue/{config}',
  }
  return _glue(config, fields, classes, train_examples, **{**values, **changes})


# MNLI is trained once and evaluated twice, under two names; the diagnostic set
# AX has no labelled split.
_MNLI_FIELDS = {
  'premise': 'text',
  'hypothesis': 'text',
  'label': 'label',
  'idx': 'integer',
}

GLUE = (
  _glue(
    'cola',
    {'sentence': 'text', 'label': 'label', 'idx': 'integer'},
    ('unacceptable', 'acceptable'),
    8551,
  ),
  _glue(
    'sst2',
    {'sentence': 'text', 'label': 'label', 'idx': 'integer'},
    ('negative', 'positive'),
    67349,
  ),
  _glue(
    'mrpc',
    _pair('sentence1', 'sentence2'),
    ('not_equivalent', 'equivalent'),
    3668,
  ),
  _glue(
    'qqp',
    _pair('question1', 'question2'),
    ('not_duplicate', 'duplicate'),
    363849,
  ),
  _glue(
    'stsb',
    {**_pair('sentence1', 'sentence2'), 'label': 'score'},
    (),
    5749,
    labels=STSB_SCORES,
  ),
  _glue('mnli', _MNLI_FIELDS, _MNLI, 392702, eval_splits=(), test_split=None),
  *(
    _glue(
      'mnli',
      _MNLI_FIELDS,
      _MNLI,
      0,
      name=f'glue_mnli_{kind}',
      train_split=None,
      eval_splits=(f'validation_{kind}',),
      test_split=f'test_{kind}',
    )
    for kind in ('matched', 'mismatched')
  ),
  _glue('qnli', _pair('question', 'sentence'), _ENTAILMENT, 104743),
  _glue('rte', _pair('sentence1', 'sentence2'), _ENTAILMENT, 2490),
  _glue(
    'wnli',
    _pair('sentence1', 'sentence2'),
    ('not_entailment', 'entailment'),
    635,
    group=None,
  ),
  _glue(
    'ax',
    _MNLI_FIELDS,
    _MNLI,
    0,
    train_split=None,
    eval_splits=(),
    trained_as='glue_mnli',
    group=None,
  ),
)

_PREMISE = {
  'premise': 'text',
  'hypothesis': 'text',
  'idx': 'integer',
  'label': 'label',
}
_DIAGNOSTIC = {
  'train_split': None,
  'eval_splits': (),
  'trained_as': 'super_glue_rte',
  'group': None,
}

SUPER_GLUE = (
  _super_glue(
    'boolq',
    {
      'question': 'text',
      'passage': 'text',
      'idx': 'integer',
      'label': 'label',
    },
    _FALSE_TRUE,
    9427,
  ),
  _super_glue('cb', _PREMISE, ('entailment', 'contradiction', 'neutral'), 250),
  _super_glue(
    'copa',
    {
      'premise': 'text',
      'choice1': 'text',
      'choice2': 'text',
      'question': 'text',
      'idx': 'integer',
      'label': 'label',
    },
    ('choice1', 'choice2'),
    400,
  ),
  _super_glue(
    'multirc',
    {
      'paragraph': 'text',
      'question': 'text',
      'answer': 'text',
      'idx/paragraph': 'integer',
      'idx/question': 'integer',
      'idx/answer': 'integer',
      'label': 'label',
    },
    _FALSE_TRUE,
    27243,
  ),
  _super_glue(
    'record',
    {
      'passage': 'text',
      'query': 'text',
      'entities': 'texts',
      'answers': 'texts',
      'idx/passage': 'integer',
      'idx/query': 'integer',
    },
    (),
    138854,
    labels=None,
  ),
  _super_glue('rte', _PREMISE, _ENTAILMENT, 2490),
  _super_glue(
    'wic',
    {
      'word': 'text',
      'sentence1': 'text',
      'sentence2': 'text',
      'start1': 'integer',
      'start2': 'integer',
      'end1': 'integer',
      'end2': 'integer',
      'idx': 'integer',
      'label': 'label',
    },
    _FALSE_TRUE,
    5428,
  ),
  _super_glue(
    'wsc',
    {
      'text': 'text',
      'span1_index': 'integer',
      'span2_index': 'integer',
      'span1_text': 'text',
      'span2_text': 'text',
      'idx': 'integer',
      'label': 'label',
    },
    _FALSE_TRUE,
    259,
    tfds='super_glue/wsc.fixed:1.0.2',
    labels=None,
    train_label=1,
    check=_wsc_problem,
  ),
  _super_glue(
    'axb',
    {
      'sentence1': 'text',
      'sentence2': 'text',
      'idx': 'integer',
      'label': 'label',
    },
    _ENTAILMENT,
    0,
    **_DIAGNOSTIC,
  ),
  _super_glue('axg', _PREMISE, _ENTAILMENT, 0, **_DIAGNOSTIC),
)

DEFINITIONS = {task.name: task for task in (*GLUE, *SUPER_GLUE)}


def definition(name: str) -> TaskDefinition:
  """Returns the definition of a task.

  Args:
    name: such as 'glue_sst2'.

  Raises:
    UserError: no task has this name; the message gives the closest ones.
  """
  if name not in DEFINITIONS:
    raise UserError(
      f'Unknown task {name!r}.{closest(name, DEFINITIONS)} '
      f'Known tasks: {", ".join(DEFINITIONS)}.'
    )
  return DEFINITIONS[name]
