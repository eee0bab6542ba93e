"""The tasks of GLUE and SuperGLUE: fields, labels, splits and groups.

How a row becomes text, and how a prediction is scored, stands in `glue` and
`super_glue`.
"""

from collections.abc import Mapping
from typing import Any

from hypergrid_jax.tasks.task_definition import Fields, TaskDefinition

STSB_SCORES = tuple(f'{score / 5:.1f}' for score in range(26))


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
