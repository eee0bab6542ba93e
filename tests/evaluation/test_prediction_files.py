import json

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.evaluation import prediction_files

ROW = {
  'id': 7,
  'inputs': 'cola sentence: Ünïcode\u2028and "quotes"\nand lines',
  'target': 'acceptable',
  'prediction': '',
  'correct': False,
}


def read(path):
  lines = path.read_text(encoding='utf-8').split('\n')
  assert lines.pop() == ''
  return [json.loads(line) for line in lines]


@given(
  st.lists(
    st.tuples(
      st.integers() | st.text() | st.dictionaries(st.text(), st.integers()),
      st.text(),
      st.text(),
      st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
    ),
    max_size=5,
  )
)
def test_what_is_written_is_read_back_in_order(tmp_path_factory, values):
  rows = [
    {
      'id': identifier,
      'inputs': inputs,
      'target': 'x',
      'prediction': prediction,
      'correct' if isinstance(verdict, bool) else 'score': verdict,
    }
    for identifier, inputs, prediction, verdict in values
  ]
  path = tmp_path_factory.mktemp('rows') / 'a' / 'b.jsonl'
  prediction_files.write_predictions(path, rows)
  assert read(path) == rows


def test_one_line_per_row_in_readable_utf8(tmp_path):
  path = tmp_path / 'glue_cola.jsonl'
  prediction_files.write_predictions(path, [ROW, {**ROW, 'id': 8}])
  raw = path.read_bytes()
  assert raw.count(b'\n') == 2
  assert 'Ünïcode'.encode() in raw
  assert [json.loads(line)['id'] for line in raw.splitlines()] == [7, 8]


@pytest.mark.parametrize(
  ('example', 'expected'),
  [
    ({'idx': np.int32(41)}, 41),
    ({'idx': 0}, 0),
    (
      {'idx/paragraph': np.int32(4), 'idx/question': 5, 'idx/answer': 6},
      {'paragraph': 4, 'question': 5, 'answer': 6},
    ),
    ({'idx': {'passage': np.int64(2), 'query': 3}}, {'passage': 2, 'query': 3}),
    ({'idx': b'row-9'}, 'row-9'),
    ({'index': 3}, 12),
  ],
)
def test_id_is_the_rows_own_index_or_its_position(example, expected):
  found = prediction_files.example_id(example, 12)
  assert found == expected
  json.dumps(found)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_nan_is_never_written_and_the_old_file_stays(tmp_path, value):
  path = tmp_path / 'glue_cola.jsonl'
  prediction_files.write_predictions(path, [ROW])
  before = path.read_bytes()
  with pytest.raises(ValueError, match='JSON compliant'):
    prediction_files.write_predictions(path, [ROW, {**ROW, 'score': value}])
  assert path.read_bytes() == before
  assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
  path = tmp_path / 'glue_cola.jsonl'
  prediction_files.write_predictions(path, [ROW])
  before = path.read_bytes()
  with path.open('rb') as reader:
    prediction_files.write_predictions(path, [ROW, ROW])
    assert reader.read() == before
  assert len(read(path)) == 2
  assert list(tmp_path.iterdir()) == [path]


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
  path = tmp_path / 'glue_cola.jsonl'
  prediction_files.write_predictions(path, [ROW])
  before = path.read_bytes()

  def full(descriptor):
    del descriptor
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(prediction_files.os, 'fsync', full)
  with pytest.raises(UserError, match=r'glue_cola\.jsonl: .*No space left'):
    prediction_files.write_predictions(path, [ROW, ROW])
  assert path.read_bytes() == before
  assert list(tmp_path.iterdir()) == [path]


def test_directory_that_is_a_file_is_the_users_mistake(tmp_path):
  (tmp_path / 'predictions').write_text('')
  with pytest.raises(UserError, match='cannot be written'):
    prediction_files.write_predictions(
      tmp_path / 'predictions' / 'a.jsonl', [ROW]
    )
