"""Files of predictions: order, going on after a kill, nothing lost.

The model is a stand-in that says its inputs backwards.
"""

import io
import itertools
import json
import os
import types

import numpy as np
import pytest
from rich.console import Console

from hypergrid_jax.errors import UserError
from hypergrid_jax.prediction import files, loaded_model, requests
from hypergrid_jax.tasks import definitions

TASKS = ('glue_sst2', 'glue_mnli_matched', 'super_glue_wsc')
BATCH = 3


class Model:
  """What `loaded_model.LoadedModel` offers; counts what it is asked."""

  step = 70
  batch_size = BATCH
  max_decode_length = 40

  def __init__(self, trained, *, step):
    assert trained.run == 'the run'
    self.fingerprint = f'parameters of {step}'
    self.asked = []
    MODELS.append(self)

  def inputs(self, rows):
    assert len(rows) <= files._FORMATTED
    return [(f'<{row.text}>', np.array([len(row.text)])) for row in rows]

  def answers(self, rows, inputs):
    assert [f'<{row.text}>' for row in rows] == [text for text, _ in inputs]
    self.asked += [row.id for row in rows]
    return [
      requests.answer(row, text, row.text[::-1])
      for row, (text, _) in zip(rows, inputs, strict=True)
    ]


MODELS = []


@pytest.fixture(autouse=True)
def _stand_in(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  MODELS.clear()
  tasks = {name: definitions.definition(name) for name in TASKS}

  def read_run(run, model_dir):
    assert model_dir == 'dir'
    return types.SimpleNamespace(run=run, tasks=tasks)

  monkeypatch.setattr(loaded_model, 'read_run', read_run)
  monkeypatch.setattr(loaded_model, 'LoadedModel', Model)
  monkeypatch.setattr(files, '_FORMATTED', 11)
  monkeypatch.setattr(files, '_BATCHES_WRITTEN', 2)


def write_rows(folder, count):
  """Rows with an id of their own, but for every fourth, and blank lines."""
  lines, ids = [], []
  for number in range(count):
    lines += [''] * (number % 5 == 2)
    row = {'task': TASKS[number % 3], 'inputs': f'text {number}'}
    if number % 4:
      row['id'] = {'row': number} if number % 2 else f'row {number}'
    lines.append(json.dumps(row))
    ids.append(row.get('id', len(lines)))
  (folder / 'rows.jsonl').write_text('\n'.join(lines))
  return ids


def predict(folder, output='answers.jsonl', **options):
  console = Console(file=io.StringIO(), width=200)
  options = {'step': 'best', **options}
  files.predict_file(
    'the run', 'dir', folder / 'rows.jsonl', folder / output,
    console=console, **options,
  )  # fmt: skip
  return (folder / output).read_bytes(), console.file.getvalue()


def names(folder):
  return {path.name for path in folder.iterdir()}


def test_every_row_is_answered_in_order(tmp_path):
  ids = write_rows(tmp_path, 40)
  content, said = predict(tmp_path)
  answers = [json.loads(line) for line in content.decode().splitlines()]
  assert [answer['id'] for answer in answers] == ids
  assert [answer['task'] for answer in answers] == [
    TASKS[number % 3] for number in range(40)
  ]
  assert [(answer['inputs'], answer['prediction']) for answer in answers] == [
    (f'<text {number}>', f'text {number}'[::-1]) for number in range(40)
  ]
  assert names(tmp_path) == {'rows.jsonl', 'answers.jsonl'}
  assert '40 predictions of step 70' in said


def test_the_directory_of_the_output_is_made(tmp_path):
  write_rows(tmp_path, 2)
  content, _ = predict(tmp_path, 'new/deep/answers.jsonl')
  assert content.count(b'\n') == 2


def killed(folder, monkeypatch, *, writes):
  """Predicts until just before a write, as a kill would end it."""
  append = files._append
  count = itertools.count()

  def stop(*args):
    if next(count) == writes:
      raise KeyboardInterrupt
    append(*args)

  with monkeypatch.context() as patch:
    patch.setattr(files, '_append', stop)
    with pytest.raises(KeyboardInterrupt):
      predict(folder)


# A write holds at most two batches of three rows, of chunks of eleven.
@pytest.mark.parametrize(('writes', 'done'), [(0, 0), (1, 6), (2, 11), (3, 17)])
@pytest.mark.parametrize('torn', [0, 1, 9])
def test_a_killed_run_goes_on_to_the_same_bytes(
  tmp_path, monkeypatch, writes, done, torn
):
  ids = write_rows(tmp_path, 40)
  whole, _ = predict(tmp_path)
  (tmp_path / 'answers.jsonl').unlink()
  killed(tmp_path, monkeypatch, writes=writes)
  partial = tmp_path / 'answers.jsonl.partial'
  assert not (tmp_path / 'answers.jsonl').exists()
  assert partial.exists() == (writes > 0)
  kept = partial.read_bytes() if writes else b''
  assert kept.count(b'\n') == done
  partial.write_bytes(kept[: len(kept) - torn])
  if torn and done:
    done -= 1
  content, _ = predict(tmp_path, resume=True)
  assert content == whole
  assert MODELS[-1].asked == ids[done:]
  assert names(tmp_path) == {'rows.jsonl', 'answers.jsonl'}


def test_a_run_killed_before_its_new_name_needs_no_model_again(
  tmp_path, monkeypatch
):
  write_rows(tmp_path, 12)
  whole, _ = predict(tmp_path)
  (tmp_path / 'answers.jsonl').unlink()
  replace = os.replace

  def stop(old, new):
    if new == tmp_path / 'answers.jsonl':
      raise KeyboardInterrupt
    replace(old, new)

  with monkeypatch.context() as patch:
    patch.setattr(os, 'replace', stop)
    with pytest.raises(KeyboardInterrupt):
      predict(tmp_path)
  content, _ = predict(tmp_path, resume=True)
  assert content == whole
  assert MODELS[-1].asked == []


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ('rows', r'partial was made from something else: it differs in input, row'),
    ('step', r'it differs in model\. Pass --overwrite'),
    ('length', r'it differs in max_decode_length'),
    ('swapped', r'answers\.jsonl\.partial:2: this is no prediction for row 2'),
    ('a task', r'answers\.jsonl\.partial:1: this is no prediction for row 1'),
    ('a word', r'answers\.jsonl\.partial:1: this is no prediction'),
    ('origin gone', r'partial\.json cannot be read'),
    ('origin cut', r'partial\.json cannot be read'),
    ('origin a list', r'partial\.json cannot be read'),
  ],
)
def test_what_belongs_to_something_else_is_not_gone_on_with(
  tmp_path, monkeypatch, change, message
):
  write_rows(tmp_path, 20)
  killed(tmp_path, monkeypatch, writes=1)
  partial = tmp_path / 'answers.jsonl.partial'
  origin = tmp_path / 'answers.jsonl.partial.json'
  lines = partial.read_text().splitlines(keepends=True)
  step = 'best'
  if change == 'rows':
    write_rows(tmp_path, 21)
  elif change == 'step':
    step = 60
  elif change == 'length':
    monkeypatch.setattr(Model, 'max_decode_length', 41)
  elif change == 'swapped':
    partial.write_text(''.join([lines[0], lines[2], lines[1], *lines[3:]]))
  elif change == 'a task':
    partial.write_text(partial.read_text().replace(TASKS[0], TASKS[1], 1))
  elif change == 'a word':
    partial.write_text('word\n')
  elif change == 'origin gone':
    origin.unlink()
  else:
    origin.write_text('[]' if change.endswith('list') else '{"input"')
  before = partial.read_bytes()
  with pytest.raises(UserError, match=message):
    predict(tmp_path, resume=True, step=step)
  assert partial.read_bytes() == before
  assert not (tmp_path / 'answers.jsonl').exists()


def test_a_whole_output_is_left_when_resumed(tmp_path):
  write_rows(tmp_path, 9)
  predict(tmp_path)
  before = (tmp_path / 'answers.jsonl').stat()
  _, said = predict(tmp_path, resume=True)
  after = (tmp_path / 'answers.jsonl').stat()
  assert (before.st_ino, before.st_mtime_ns) == (
    after.st_ino,
    after.st_mtime_ns,
  )
  assert 'all 9 rows already' in said
  assert len(MODELS) == 1


@pytest.mark.parametrize('lines', [8, 10])
def test_an_output_of_other_rows_is_refused_when_resumed(tmp_path, lines):
  write_rows(tmp_path, lines)
  predict(tmp_path)
  write_rows(tmp_path, 9)
  with pytest.raises(UserError, match='--overwrite'):
    predict(tmp_path, resume=True)


def test_an_output_is_replaced_when_asked_and_only_when_whole(
  tmp_path, monkeypatch
):
  write_rows(tmp_path, 9)
  (tmp_path / 'answers.jsonl').write_text('mine\n')
  (tmp_path / 'answers.jsonl.partial').write_text('half\n')
  append = files._append

  def checked(*args):
    assert (tmp_path / 'answers.jsonl').read_text() == 'mine\n'
    append(*args)

  monkeypatch.setattr(files, '_append', checked)
  content, _ = predict(tmp_path, overwrite=True)
  assert content.count(b'\n') == 9
  assert names(tmp_path) == {'rows.jsonl', 'answers.jsonl'}


def test_a_full_disk_is_the_user_s_matter(tmp_path, monkeypatch):
  write_rows(tmp_path, 9)

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(files, '_append', full)
  with pytest.raises(UserError, match='answers.jsonl cannot be written'):
    predict(tmp_path)


def test_a_row_that_cannot_be_formatted_leaves_nothing(tmp_path, monkeypatch):
  write_rows(tmp_path, 9)

  def inputs(self, rows):
    raise UserError('rows.jsonl:2: no such field')

  monkeypatch.setattr(Model, 'inputs', inputs)
  with pytest.raises(UserError, match='no such field'):
    predict(tmp_path)
  assert names(tmp_path) == {'rows.jsonl'}


def test_a_bad_row_far_down_is_found_before_a_model_is_loaded(tmp_path):
  write_rows(tmp_path, 40)
  with (tmp_path / 'rows.jsonl').open('a') as file:
    file.write('\n{"task": "glue_sst2"}\n')
  lines = (tmp_path / 'rows.jsonl').read_text().count('\n')
  with pytest.raises(UserError, match=rf'rows\.jsonl:{lines}: '):
    predict(tmp_path)
  assert not MODELS
  assert names(tmp_path) == {'rows.jsonl'}
