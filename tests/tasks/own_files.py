"""Task files of a user's own, for tests that write and read them."""

import json

TOML = """\
name = 'reviews'
inputs = 'review: {title} / {body}'

[target]
field = 'stars'
labels = {1 = 'negative', 5 = 'positive'}

[splits]
train = 'train.jsonl'
validation = 'dev.tsv'
"""
ROWS = [
  {'title': 'A film', 'body': 'It moves.', 'stars': 5},
  {'title': 'A book', 'body': 'It drags.', 'stars': 1},
  {'title': 'A play', 'body': 'It drags on.', 'stars': '1'},
]
TSV = 'title\tbody\tstars\nA song\tIt sings.\t5\nA poem\tIt lies.\t1\n'

MODULE = """\
import seqio
import tensorflow as tf
from t5.evaluation import metrics

from {helper} import PREFIX

FEATURES = {{
  name: seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
  for name in ('inputs', 'targets')
}}


@seqio.map_over_dataset
def to_text(line):
  words = tf.strings.split(line, ' ')
  return {{
    'inputs': tf.strings.join([PREFIX, line]),
    'targets': words[0],
    'idx': tf.strings.to_number(words[1], tf.int32),
    'words': words,
  }}


def postprocess(text, example=None, is_target=False):
  # As seqio gives them: text as bytes, lists as arrays.
  assert isinstance(example['targets_pretokenized'], bytes), example
  assert example['words'].shape == (3,), example
  return text.lower()


seqio.TaskRegistry.add(
  'first_word',
  source=seqio.TextLineDataSource(
    {{'train': '{folder}/lines.txt', 'validation': '{folder}/dev_*.txt'}}
  ),
  preprocessors=[
    to_text,
    seqio.preprocessors.tokenize,
    seqio.preprocessors.append_eos_after_trim,
  ],
  postprocess_fn=postprocess,
  metric_fns=[metrics.accuracy],
  output_features=FEATURES,
)
"""


MIXTURES = """
import functools
seqio.MixtureRegistry.add('plain', [('first_word', 3), ('glue_sst2', 1.0)])
seqio.MixtureRegistry.add(
  'counted', ['first_word', 'glue_sst2'],
  default_rate=functools.partial(seqio.mixing_rate_num_examples, maximum=50))
seqio.MixtureRegistry.add('nested', [('counted', 8), ('glue_rte', 2)])
seqio.MixtureRegistry.add('cached', [
  ('first_word', lambda task: task.get_cached_stats('train')['examples'] / 2)])
"""


def write_reviews(folder, toml=TOML, *, rows=None, tsv=TSV):
  """Writes reviews.toml with its files; returns the path as a text."""
  folder.mkdir(parents=True, exist_ok=True)
  lines = ROWS if rows is None else rows
  (folder / 'train.jsonl').write_text(
    ''.join(json.dumps(row) + '\n' for row in lines)
  )
  (folder / 'dev.tsv').write_text(tsv)
  path = folder / 'reviews.toml'
  path.write_text(toml)
  return str(path)


def write_module(folder, *, prefix='say: ', more='', name='own_words'):
  """Writes a module with a helper beside it and files of lines."""
  folder.mkdir(parents=True, exist_ok=True)
  helper = f'{name}_helper'
  text = MODULE.format(folder=folder, helper=helper)
  (folder / f'{name}.py').write_text(text + more)
  (folder / f'{helper}.py').write_text(f'PREFIX = {prefix!r}\n')
  (folder / 'lines.txt').write_text(
    ''.join(f'Word{n % 7} {n} end\n' for n in range(40))
  )
  for n in (1, 2):
    (folder / f'dev_{n}.txt').write_text(f'Alpha {n}0 x\nBeta {n}1 y\n')
  return str(folder / f'{name}.py')
