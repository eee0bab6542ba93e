"""A few rows of every task, in every split, with text that is easily harmed."""

import json

from hypergrid_jax.tasks import definitions

COUNTS = {'train': 5, 'test': 2}
ODD = (
  'It\'s "quoted", isn\'t it?',
  ' <br>two<br> spaces  and <b>bold</b> </b>',
  'naïve “quotes” – 日本 \u2028 \ufffd',
  '',
  'a # b * c \\1 {d} 100%',
  'tab\tand\x07bell',
)


def rows(task: definitions.TaskDefinition, split: str) -> list[dict]:
  """Returns rows in TFDS's form; those of test splits are unlabelled."""
  count = COUNTS.get(split, 4)
  return [_row(task, split, index) for index in range(count)]


def write_jsonl(directory, task: definitions.TaskDefinition) -> None:
  """Writes a task's rows the way a `files:` source expects them."""
  folder = directory / task.benchmark / task.config
  folder.mkdir(parents=True, exist_ok=True)
  for split in task.splits:
    lines = (json.dumps(row) + '\n' for row in rows(task, split))
    (folder / f'{split}.jsonl').write_text(''.join(lines), encoding='utf-8')


def _row(task, split, index) -> dict:
  row = {}
  for place, (name, kind) in enumerate(task.fields.items()):
    outer, _, inner = name.partition('/')
    value = _value(task, split, kind, place, index)
    if inner:
      row.setdefault(outer, {})[inner] = value
    else:
      row[outer] = value
  row.update(_SPECIAL.get(task.config, lambda *_: {})(split, index))
  return row


def _value(task, split, kind, place, index):
  unlabelled = split == task.test_split
  if kind == 'text':
    return f'{place}.{index} {ODD[(place + index) % len(ODD)]}'
  if kind == 'texts':
    return [f'{place} it', f"{index} isn't", 'Zoë, Q.']
  if kind == 'integer':
    return 100 * place + index
  if kind == 'label':
    return -1 if unlabelled else index % len(task.classes)
  return -1.0 if unlabelled else (4.75, 0.0, 2.5, 3.1, 5.0)[index]


def _wsc(split, index):
  del split
  names = ('Ann', "Bob's hat", 'the old dog', 'Cleo', 'Dan')
  return {
    'text': f'{names[index]} saw that he , or Eve ,  left  early .',
    'span1_text': names[index],
    'span1_index': 0,
    'span2_text': 'he',
    'span2_index': len(names[index].split()) + 2,
  }


def _record(split, index):
  answers = (['Ann'], ['Bob', "Cleo's"], ['Zoë'], ['Ann', 'Bob', 'X'], ['X'])
  return {
    'passage': (
      'One "thing."\n@highlight\nTwo\n@highlight\nThree!\n@highlight\nFour'
    ),
    'query': f"{index} @placeholder isn't here",
    'entities': ['Ann', 'Bob', "Cleo's", 'Zoë', 'X'],
    'answers': [] if split == 'test' else answers[index],
    'idx': {'passage': index // 2, 'query': index},
  }


def _multirc(split, index):
  del split
  return {'idx': {'paragraph': 3, 'question': index // 2, 'answer': index}}


_SPECIAL = {'wsc': _wsc, 'record': _record, 'multirc': _multirc}
