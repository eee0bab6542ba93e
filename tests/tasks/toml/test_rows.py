"""Rows of a TOML task: what they become, and what is refused by file and line.

Rows are read without seqio and TensorFlow.
"""

import csv
import gzip
import io
import json

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.toml import tasks
from tests.tasks.own_files import ROWS, TOML, write_reviews


def read(folder, split='train', toml=TOML, **files):
  task = tasks.read(write_reviews(folder, toml, **files))
  return list(task.rows.read(split))


def message(*args, **kwargs):
  with pytest.raises(UserError) as error:
    read(*args, **kwargs)
  return str(error.value)


def test_rows_are_inputs_targets_and_labels(tmp_path):
  assert read(tmp_path) == [
    {'inputs': 'review: A film / It moves.', 'targets': 'positive', 'label': 1},
    {'inputs': 'review: A book / It drags.', 'targets': 'negative', 'label': 0},
    {
      'inputs': 'review: A play / It drags on.',
      'targets': 'negative',
      'label': 0,
    },
  ]
  assert [row['targets'] for row in read(tmp_path, 'validation')] == [
    'positive',
    'negative',
  ]


TEST = TOML.replace('train =', 'test =')


def test_a_test_split_may_be_without_targets(tmp_path):
  rows = [{key: row[key] for key in ('title', 'body')} for row in ROWS]
  found = read(tmp_path, 'test', f"id = 'body'\n{TEST}", rows=rows)
  assert [row['targets'] for row in found] == ['<unk>'] * 3
  assert [row['label'] for row in found] == [-1] * 3
  assert [row['idx'] for row in found] == [row['body'] for row in rows]
  assert len(read(tmp_path, 'test', TEST)) == 3  # or it has all of them


def test_files_of_a_split_are_read_one_after_the_other(tmp_path):
  (tmp_path / 'more.csv.gz').write_bytes(
    gzip.compress(
      b'stars,title,body\n5,"A ""quoted"" one","two\nlines"\n', mtime=0
    )
  )
  toml = TOML.replace("'train.jsonl'", "['more.csv.gz', 'train.jsonl']")
  found = [row['inputs'] for row in read(tmp_path, toml=toml)]
  assert found[0] == 'review: A "quoted" one / two\nlines'
  assert len(found) == 4


@settings(max_examples=60, deadline=None)
@given(
  st.lists(
    st.text(st.characters(exclude_categories=['Cs']), min_size=1),
    min_size=1,
    max_size=4,
  )
)
def test_every_text_arrives_unchanged_from_json_and_csv(
  tmp_path_factory, texts
):
  folder = tmp_path_factory.mktemp('texts')
  toml = TOML.replace('review: {title} / {body}', '<{title}>')
  toml = toml.replace('train.jsonl', 'train.csv')
  buffer = io.StringIO(newline='')
  writer = csv.writer(buffer, lineterminator='\r\n')
  writer.writerow(['title', 'stars'])
  writer.writerows([text, 5] for text in texts)
  content = buffer.getvalue()
  (folder / 'train.csv').write_bytes(content.encode())
  wanted = [f'<{text}>' for text in texts]
  assert [row['inputs'] for row in read(folder, toml=toml)] == wanted
  rows = [{'title': text, 'stars': 5} for text in texts]
  toml = toml.replace('train.csv', 'train.jsonl')
  found = read(folder, toml=toml, rows=rows)
  assert [row['inputs'] for row in found] == wanted


MISTAKES = {
  'missing column': (
    {'title': 'A', 'bodi': 'B', 'stars': 5},
    "train.jsonl:4: field 'body' is missing; fields found: 'title', 'bodi',"
    " 'stars'. Did you mean 'bodi'?",
  ),
  'missing label': (
    {'title': 'A', 'body': 'B', 'star': 5},
    "train.jsonl:4: field 'stars' is missing; fields found: 'title', 'body',"
    " 'star'. Did you mean 'stars'?".replace("'stars'?", "'star'?"),
  ),
  'null label': (
    {'title': 'A', 'body': 'B', 'stars': None},
    "train.jsonl:4: no target: field 'stars' has no value. Only the test split",
  ),
  'unlabelled': (
    {'title': 'A', 'body': 'B', 'stars': -1},
    "train.jsonl:4: no target: field 'stars'",
  ),
  'unknown label': (
    {'title': 'A', 'body': 'B', 'stars': 3},
    "train.jsonl:4: field 'stars' is '3', which stands for no label."
    " Known values: '1', '5'.",
  ),
  'label of another type': (
    {'title': 'A', 'body': 'B', 'stars': [5]},
    "train.jsonl:4: field 'stars': expected text or a number, got a list: [5]",
  ),
  'nested value': (
    {'title': {'en': 'A'}, 'body': 'B', 'stars': 5},
    "train.jsonl:4: field 'title': expected text or a number, got an object:"
    " {'en': 'A'}. It holds 'en'; a nested field is written with a slash.",
  ),
  'null value': (
    {'title': None, 'body': 'B', 'stars': 5},
    "train.jsonl:4: field 'title': expected text or a number, got null: None.",
  ),
  'half a surrogate': (
    {'title': 'A\ud83d', 'body': 'B', 'stars': 5},
    "train.jsonl:4: field 'title': character 2 is half of a surrogate pair",
  ),
  'no object': ([1, 2], 'train.jsonl:4: expected a JSON object'),
}


@pytest.mark.parametrize(
  'case', MISTAKES, ids=lambda case: case.replace(' ', '-')
)
def test_malformed_rows_are_told_by_file_and_line(tmp_path, case):
  row, expected = MISTAKES[case]
  found = message(tmp_path, rows=[*ROWS, row])
  assert found.replace(f'{tmp_path}/', '').startswith(expected)


def test_malformed_tables_and_json(tmp_path):
  def table(tsv):
    return message(tmp_path, 'validation', tsv=tsv).replace(f'{tmp_path}/', '')

  head = 'title\tbody\tstars\n'
  assert table(f'{head}A\tB\n').startswith('dev.tsv:2: 2 fields, but the first')
  assert table(f'{head}A\tB\t\n').startswith('dev.tsv:2: no target')
  assert table(head) == "dev.tsv: the split 'validation' has no rows."
  assert table('title\ttitle\n').startswith(
    "dev.tsv:1: column 'title' is named"
  )
  assert table('title\tstars\nA\t5\n').startswith(
    "dev.tsv:2: field 'body' is missing; fields found: 'title', 'stars'."
  )
  (tmp_path / 'train.jsonl').write_text('{"title": NaN}')
  task = tasks.read(str(tmp_path / 'reviews.toml'))
  with pytest.raises(UserError, match=r'train.jsonl:1: not valid JSON'):
    next(task.rows.read('train'))


def test_blank_inputs_and_targets(tmp_path):
  toml = TOML.replace('review: {title} / {body}', '{title}')
  row = {'title': ' \n', 'body': '', 'stars': 5}
  found = message(tmp_path, toml=toml, rows=[row])
  assert found == f"{tmp_path}/train.jsonl:1: the inputs are blank: ' \\n'."
  found = message(tmp_path, toml=f"id = 'body'\n{TOML}", rows=[row])
  assert "train.jsonl:1: field 'body' is empty; expected an id" in found
  found = message(tmp_path, toml=f"id = 'key'\n{TOML}", rows=[row])
  assert "train.jsonl:1: field 'key' is missing" in found


@pytest.mark.parametrize('first', [True, False])
def test_a_half_labelled_test_split_is_refused(tmp_path, first):
  one, other = ROWS[0], {**ROWS[1], 'stars': None}
  rows = [one, one, other] if first else [other, other, one]
  has = ('no target', 'a target') if first else ('a target', 'no target')
  assert message(tmp_path, 'test', TEST, rows=rows) == (
    f'{tmp_path}/train.jsonl:3: this row has {has[0]}, but'
    f' {tmp_path}/train.jsonl:1 has {has[1]}. Either all rows of a test split'
    ' have one, or none.'
  )


class TestFingerprint:
  """Tokens are made anew when an example may have changed, and only then."""

  def mark(self, folder, toml=TOML, split='train', **files):
    task = tasks.read(write_reviews(folder, toml, **files))
    return task.rows.fingerprint(split)

  def test_it_does_not_follow_what_makes_no_example(self, tmp_path):
    start = self.mark(tmp_path / 'one')
    assert self.mark(tmp_path / 'two') == start  # the place
    assert self.mark(tmp_path, f'# note\n{TOML}') == start
    assert self.mark(tmp_path, f"metrics = ['f1']\n{TOML}") == start
    assert self.mark(tmp_path, TOML.replace("'reviews'", "'other'")) == start
    assert self.mark(tmp_path, tsv='other\n') == start  # another split's file

  def test_it_follows_what_makes_an_example(self, tmp_path):
    (tmp_path / 'more.csv').write_text('')
    two_files = TOML.replace("'train.jsonl'", "['train.jsonl', 'more.csv']")
    marks = {
      self.mark(tmp_path),
      self.mark(tmp_path, split='validation'),
      self.mark(tmp_path, TOML.replace('review:', 'opinion:')),
      self.mark(tmp_path, TOML.replace('{body}', '{text}')),
      self.mark(tmp_path, TOML.replace('positive', 'good')),
      self.mark(tmp_path, TOML.replace("'stars'", "'star'")),
      self.mark(tmp_path, TOML.replace('5 =', '4 =')),
      self.mark(tmp_path, f"id = 'title'\n{TOML}"),
      self.mark(tmp_path, rows=[{**ROWS[0], 'body': 'It moves!'}, *ROWS[1:]]),
      self.mark(tmp_path, two_files),
    }
    assert len(marks) == 10

  def test_a_file_that_went_away(self, tmp_path):
    task = tasks.read(write_reviews(tmp_path))
    (tmp_path / 'train.jsonl').unlink()
    with pytest.raises(
      UserError, match=r'train.jsonl: cannot be read: No such'
    ):
      task.rows.fingerprint('train')


def test_the_number_of_rows_is_estimated_by_size(tmp_path):
  rows = [{'title': 'x' * 230, 'body': 'y', 'stars': 5}] * 50
  assert 250 < len(json.dumps(rows[0])) < 300
  task = tasks.read(write_reviews(tmp_path, rows=rows))
  assert task.rows.count('train') is None
  assert 40 <= task.rows.estimate('train') <= 50
