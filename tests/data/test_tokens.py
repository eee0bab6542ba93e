import errno
import gzip
import json
import logging
import pathlib
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from hypergrid_jax.data import (
  token_files,
  token_requests,
  token_workers,
  tokenizing,
  tokens,
)
from hypergrid_jax.data.token_requests import TokenRequest
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions, task_definition
from hypergrid_jax.tasks.vocabularies import load_vocabulary

LENGTHS = (19, 3)
MULTIRC = [
  {
    'paragraph': f'<b>Sent 1: </b>Sam has {n} pears.<br>He eats them {word}.',
    'question': 'What does Sam eat?',
    'answer': f'{n} pears',
    'idx': {'paragraph': n, 'question': 10 + n // 2, 'answer': 20 + n},
    'label': n % 2,
  }
  for n, word in enumerate(
    ('now', 'soon {later}', 'ümläut', 'at <noon>', 'all')
  )
]


@pytest.fixture
def files(tmp_path):
  folder = tmp_path / 'data' / 'super_glue' / 'multirc'
  folder.mkdir(parents=True)
  with gzip.open(folder / 'train.jsonl.gz', 'wt', encoding='utf-8') as file:
    for row in MULTIRC:
      file.write(json.dumps(row) + '\n')
  return f'files:{tmp_path / "data"}'


class FakeTask:
  """What tokenizing reads of a seqio task, without TensorFlow."""

  def __init__(self, examples):
    self._examples = examples

  def get_dataset(self, **_):
    return self

  def as_numpy_iterator(self):
    return (dict(example) for example in self._examples)


def example(inputs=(5, 6, 1), targets=(4, 1), **values):
  return {
    'inputs': np.array(inputs, np.int32),
    'targets': np.array(targets, np.int32),
    'inputs_pretokenized': b'some text',
    'targets_pretokenized': b'True',
    **values,
  }


@pytest.fixture
def fake(monkeypatch):
  """Makes every task give the examples of the returned list."""
  examples = [example(idx=np.int32(n)) for n in range(3)]
  monkeypatch.setattr(tokenizing, '_task', lambda _: FakeTask(examples))
  return examples


def request(**changes):
  return TokenRequest(
    **{
      'task': 'super_glue_boolq',
      'split': 'validation',
      'source': 'sample',
      'vocabulary': 'sample',
      'lengths': LENGTHS,
      **changes,
    }
  )


def open_one(directory, **changes):
  return tokens.open_stores([request(**changes)], directory=directory)[0]


def test_sample_store_holds_what_seqio_gives(tmp_path):
  check_against_seqio(tmp_path, 'super_glue_record', 'validation', 'sample')


def test_files_store_holds_what_seqio_gives(tmp_path, files):
  store = check_against_seqio(tmp_path, 'super_glue_multirc', 'train', files)
  assert [store.example(n)['idx/answer'] for n in (4, 0)] == [24, 20]


def check_against_seqio(directory, task, split, source):
  from hypergrid_jax.tasks.seqio import registry

  reported = []
  store = tokens.open_store(
    task,
    split,
    source=source,
    vocabulary='sample',
    lengths=LENGTHS,
    directory=directory,
    progress=lambda *args: reported.append(args),
  )
  # Texts from seqio, tokens from the vocabulary: the two must meet.
  whole = list(
    registry.seqio_task(task, source=source, vocabulary='sample')
    .get_dataset(split=split, shuffle=False)
    .as_numpy_iterator()
  )
  vocabulary = load_vocabulary('sample')
  counts = dict.fromkeys(store.counts, 0)
  for n, expected in enumerate(whole):
    values = store.example(n)
    for name, limit in zip(('inputs', 'targets'), LENGTHS, strict=True):
      text = expected[f'{name}_pretokenized'].decode()
      ids = vocabulary.encode(text)
      cut = [*ids[: limit - 1], 1]
      assert getattr(store, name)(n).tolist() == cut
      assert [*ids, 1] == expected[name].tolist()
      counts[f'cut_{name}'] += len(ids) + 1 > limit
      counts[f'{name}_tokens'] += len(cut)
      counts[f'unknown_{name}_tokens'] += cut.count(2)
      assert values.pop(f'{name}_pretokenized') == text
      del expected[f'{name}_pretokenized'], expected[name]
    counts['examples'] += 1
    assert values == tokenizing._plain(expected)
    assert values  # what the metrics of these tasks group by
    json.dumps(values)
  assert store.num_examples == len(whole)
  assert store.counts == counts
  assert 0 < counts['cut_inputs']
  assert reported[-1] == (f'{task}/{split}', len(whole), len(whole))
  return store


def test_a_ready_store_needs_no_tensorflow(tmp_path, fake):
  open_one(tmp_path)
  code = f"""
    import sys
    from hypergrid_jax.data import loader, tokens
    store = tokens.open_store(
        'super_glue_boolq', 'validation', source='sample', vocabulary='sample',
        lengths={LENGTHS}, directory={str(tmp_path)!r})
    made = loader.Loader(
        {{'t': store}}, task_ids={{'t': 0}},
        rates={{'t': 1.0}}, batch_size=2, row_lengths=(16, 8), max_segments=3,
        seed=0)
    assert made.batch(5).encoder_input_tokens.max() == 6
    store.example(0)
    loaded = {{'tensorflow', 'seqio', 't5'}} & set(sys.modules)
    assert not loaded, loaded
  """
  subprocess.run([sys.executable, '-c', textwrap.dedent(code)], check=True)


@pytest.mark.slow
def test_workers_build_stores_and_hand_mistakes_over(tmp_path):
  # A worker does not have tasks that were registered in this process.
  jobs = [request(task='super_glue_copa'), request(task='mine'), request()]
  reported = []
  with pytest.raises(UserError, match="Unknown task 'mine'"):
    token_workers._build_in_workers(
      jobs, tmp_path, 1, lambda *args: reported.append(args)
    )
  (path,) = (tmp_path / 'super_glue_copa').iterdir()
  assert token_files.read_manifest(path)['split'] == 'validation'
  assert reported == [('super_glue_copa/validation', 200, 200)]
  # After a mistake nothing more is begun, and nothing half-made stays.
  assert [p for p in tmp_path.rglob('*') if p.name.startswith('.partial')] == []
  assert not (tmp_path / 'super_glue_boolq').exists()


def test_many_examples_go_to_workers_and_few_do_not(tmp_path, monkeypatch):
  alone, shared = [], []
  monkeypatch.setattr(tokenizing, 'build', lambda r, *_: alone.append(r.task))
  monkeypatch.setattr(
    token_workers,
    '_build_in_workers',
    lambda requests, root, count, progress: shared.append(
      ([r.task for r in requests], count)
    ),
  )
  monkeypatch.setattr(token_workers.os, 'cpu_count', lambda: 5)
  # As if this process had registered it with seqio.
  definitions.add(
    task_definition.own_task(
      'mine', 'seqio', rows=object(), task_file=None, splits=('train',) * 3
    )
  )
  monkeypatch.setattr(definitions, '_adopt', lambda _: None)
  sizes = {'glue_cola': 40_000, 'glue_sst2': 60_000, 'mine': 10**9}
  monkeypatch.setattr(tokenizing, 'expected_examples', lambda r: sizes[r.task])
  wanted = [request(task=name) for name in sizes]
  token_workers.build_all(wanted, tmp_path, lambda *_: None)
  assert shared == [(['glue_sst2', 'glue_cola'], 2)]  # the larger one first
  assert alone == ['mine']
  sizes['glue_sst2'] = 19_000
  token_workers.build_all(wanted, tmp_path, lambda *_: None)
  assert len(shared) == 1
  assert alone == ['mine', *sizes]


def test_a_store_is_built_once(tmp_path, fake, monkeypatch):
  first, again = tokens.open_stores([request(), request()], directory=tmp_path)
  assert again.num_examples == first.num_examples == 3
  monkeypatch.setattr(tokenizing, 'build', None)
  store = open_one(tmp_path)
  assert store.inputs(1).tolist() == [5, 6, 1]
  assert store.inputs(1).dtype == np.int32
  assert store.example(2)['idx'] == 2
  assert store.input_lengths.tolist() == [3, 3, 3]
  with pytest.raises(IndexError):
    store.inputs(3)
  with pytest.raises(IndexError):
    store.example(-1)


@pytest.mark.parametrize('name', [*token_files.FILES, token_files.MANIFEST])
def test_a_damaged_store_is_built_again_with_a_warning(
  tmp_path, fake, caplog, name
):
  open_one(tmp_path)
  (path,) = (tmp_path / 'super_glue_boolq').iterdir()
  content = bytearray((path / name).read_bytes())
  content[len(content) // 2] ^= 4
  (path / name).write_bytes(content)
  fake.append(example())
  with caplog.at_level(logging.WARNING):
    store = open_one(tmp_path)
  assert store.num_examples == 4
  assert len(caplog.records) == 1
  assert f'{name} ' in caplog.text
  assert 'super_glue_boolq/validation' in caplog.text
  assert list(path.parent.iterdir()) == [path]


def test_fingerprint_follows_everything_the_tokens_depend_on(
  tmp_path, files, monkeypatch
):
  def mark(**changes):
    wanted = request(
      **{'task': 'super_glue_multirc', 'split': 'train', 'source': files}
      | changes
    )
    vocabulary = load_vocabulary(wanted.vocabulary)
    return token_requests.fingerprint(wanted, vocabulary)

  start = mark()
  assert mark() == start
  marks = {
    start,
    mark(lengths=(19, 4)),
    mark(lengths=(18, 3)),
    mark(vocabulary='bytes'),
    mark(task_prefix=False),
    mark(source='sample'),
    mark(source='sample', split='validation'),
    mark(source='sample', split='validation', task='super_glue_boolq'),
    mark(task='super_glue_boolq', source='sample'),
  }
  assert len(marks) == 9
  path = tmp_path / 'data' / 'super_glue' / 'multirc' / 'train.jsonl.gz'
  rows = path.read_bytes()
  path.write_bytes(gzip.compress(gzip.decompress(rows) + b'\n'))
  assert mark() not in marks
  path.write_bytes(rows)
  assert mark() == start
  code = tmp_path / 'tasks'
  ours = pathlib.Path(token_requests.definitions.__file__).parent
  shutil.copytree(ours, code, ignore=shutil.ignore_patterns('*.model'))
  monkeypatch.setattr(
    token_requests.definitions, '__file__', str(code / 'definitions.py')
  )
  assert mark() == start
  # Preprocessors below the package's folder count, the sample corpus does not.
  (code / 'sample' / 'world.py').write_text('# another world')
  assert mark() == start
  (code / 'seqio' / 'glue.py').write_text('# other preprocessors')
  assert mark() not in marks


def test_rows_that_change_meanwhile_are_noticed(tmp_path, fake, monkeypatch):
  marks = iter('abcdef')
  monkeypatch.setattr(tokens, 'fingerprint', lambda *_: next(marks) * 20)
  with pytest.raises(UserError, match='rows changed while'):
    open_one(tmp_path)


@pytest.mark.parametrize(
  ('bad', 'message'),
  [
    (
      {'targets_pretokenized': b'true'},
      r"example 3: the target is 'true'; expected one of False, True",
    ),
    ({'targets_pretokenized': b'<unk>'}, r"the target is '<unk>'"),
    ({'inputs': ()}, r'example 3, inputs: no tokens'),
    ({'targets': ()}, r'example 3, targets: no tokens'),
    ({'inputs': (5, 40_000, 1)}, r'token ids from 1 to 40000.*vocabulary'),
    ({'targets': (-2, 1)}, r'token ids from -2 to 1'),
  ],
)
def test_bad_examples_are_refused_and_leave_nothing(
  tmp_path, fake, bad, message
):
  fake.append(example(**bad))
  with pytest.raises(UserError, match=message):
    open_one(tmp_path)
  assert list((tmp_path / 'super_glue_boolq').iterdir()) == []


@pytest.mark.parametrize('missing', [b'<unk>', b'-1.0'])
def test_test_splits_may_be_unlabelled(tmp_path, fake, missing):
  fake[:] = [example(targets_pretokenized=missing)]
  assert open_one(tmp_path, split='test').num_examples == 1


def test_a_split_without_examples_is_refused(tmp_path, fake):
  fake.clear()
  with pytest.raises(
    UserError, match=r"super_glue_boolq: the split 'validation' of sample"
  ):
    open_one(tmp_path)


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EACCES])
def test_a_directory_that_cannot_be_written_is_a_users_matter(
  tmp_path, fake, monkeypatch, number
):
  def add(*_):
    raise OSError(number, 'told so')

  monkeypatch.setattr(token_files.StoreWriter, 'add', add)
  with pytest.raises(UserError, match=r'cannot be written: told so.*token_dir'):
    open_one(tmp_path)
  assert list((tmp_path / 'super_glue_boolq').iterdir()) == []


def test_an_example_that_fits_exactly_is_not_cut(tmp_path, fake):
  fits, cut = (b'a' * (LENGTHS[0] - 1), b'a' * LENGTHS[0])
  ids = [*[ord('a') + 3] * (LENGTHS[0] - 1), 1]
  fake[:] = [
    example(ids, inputs_pretokenized=text) for text in (fits, cut, fits)
  ]
  store = open_one(tmp_path, vocabulary='bytes')
  assert store.counts['cut_inputs'] == 1


def test_values_come_back_as_plain_python(tmp_path, fake):
  fake[:] = [
    example(
      answers=np.array([b'one', 'zwölf'.encode()], object),
      raw=b'\xff\x00',
      label=np.int64(3),
      score=np.float32(0.5),
      flag=np.bool_(True),
      nested={'passage': np.int32(4)},
    )
  ]
  values = open_one(tmp_path).example(0)
  assert values['answers'] == ['one', 'zwölf']
  assert values['raw'].encode('utf-8', 'surrogateescape') == b'\xff\x00'
  assert values['label'] == 3
  assert type(values['label']) is int
  assert values['score'] == 0.5
  assert values['flag'] is True
  assert values['nested'] == {'passage': 4}


def test_store_fingerprint_follows_the_tokens_alone(tmp_path, fake):
  marks = [open_one(tmp_path / 'a').fingerprint]
  fake[1]['idx'] = np.int32(77)
  marks.append(open_one(tmp_path / 'b').fingerprint)
  assert marks[0] == marks[1]
  fake[1]['targets'] = np.array([5, 1], np.int32)
  assert open_one(tmp_path / 'c').fingerprint not in marks


def test_memory_stores():
  store = tokens.memory_store(
    't', 'test', [[7, 8, 1], [1]], [[1], [9, 1]], [{'id': 'a'}, {'id': 'b'}]
  )
  assert store.inputs(0).tolist() == [7, 8, 1]
  assert store.targets(1).tolist() == [9, 1]
  assert store.target_lengths.tolist() == [1, 2]
  assert store.example(1) == {'id': 'b'}
  other = tokens.memory_store('t', 'test', [[7, 8], [1, 1]], [[1], [9, 1]])
  assert store.fingerprint != other.fingerprint
  assert tokens.memory_store('t', 'test', [], []).num_examples == 0
  with pytest.raises(ValueError, match='1 inputs, but 0 targets'):
    tokens.memory_store('t', 'test', [[1]], [])
