import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from hypergrid_jax.data import loader
from hypergrid_jax.errors import UserError
from hypergrid_jax.evaluation import predictor as predictor_lib
from hypergrid_jax.model import decoding
from hypergrid_jax.tasks.vocabularies import ByteVocabulary

VOCABULARY = ByteVocabulary()
EOS = VOCABULARY.eos_id


class Store:
  """A token store of texts; inputs and targets are byte ids."""

  task, split = 'mine', 'validation'

  def __init__(self, inputs, targets=None, **fields):
    self._texts = inputs, inputs if targets is None else targets
    self._fields = fields
    self.num_examples = len(inputs)
    self.input_lengths, self.target_lengths = (
      np.array([len(text.encode()) + 1 for text in texts], np.int32)
      for texts in self._texts
    )

  def inputs(self, index):
    ids = VOCABULARY.encode(self._texts[0][index])
    return np.array([*ids, EOS], np.int32)

  def targets(self, index):
    ids = VOCABULARY.encode(self._texts[1][index])
    return np.array([*ids, EOS], np.int32)

  def example(self, index):
    return {
      'inputs_pretokenized': self._texts[0][index],
      'targets_pretokenized': self._texts[1][index],
      **{name: values[index] for name, values in self._fields.items()},
    }


def echo(model, params, tokens, task_ids, *, max_decode_length):
  """A decoder that says the task's id, a parameter and then the inputs."""
  del model
  head = jnp.stack([task_ids + 3 + ord('0'), jnp.full_like(task_ids, params)])
  return jnp.concatenate([head.T, tokens], axis=1)[:, :max_decode_length]


PARAMS = np.int32(3 + ord('x'))


def predictor(**changes):
  settings = {
    'batch_size': 3,
    'max_decode_length': 40,
    'length_buckets': (4, 8),
    **changes,
  }
  return predictor_lib.Predictor(Model(), PARAMS, VOCABULARY, **settings)


class Model:
  """Stands for an architecture; beside it only its identity matters."""

  def cast_kernels(self, params):
    """As a model whose activations are in float32."""
    return params


@given(
  lengths=st.lists(st.integers(0, 30), min_size=1, max_size=23),
  batch_size=st.integers(1, 9),
  buckets=st.sets(st.integers(1, 40), min_size=1, max_size=4),
  data=st.data(),
)
@settings(deadline=None, max_examples=30)
def test_order_is_kept_under_any_batches_and_buckets(
  lengths, batch_size, buckets, data
):
  # Texts differ from each other, and their order is not that of their lengths.
  texts = [f'{i}:' + 'y' * length for i, length in enumerate(lengths)]
  count = data.draw(st.integers(1, len(texts)))
  ours = predictor(batch_size=batch_size, length_buckets=tuple(sorted(buckets)))
  # Every drawn shape is new: compiling would take all the time.
  with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
    patch.setattr(decoding, 'greedy_decode', echo)
    found = ours.texts(Store(texts), count=count, task_id=5)
  assert found == [f'5x{text}' for text in texts[:count]]


@given(
  lengths=st.lists(st.integers(0, 30), min_size=1, max_size=23),
  batch_size=st.integers(1, 9),
  data=st.data(),
)
@settings(deadline=None, max_examples=20)
def test_rows_of_several_tasks_keep_their_task(lengths, batch_size, data):
  texts = [f'{i}:' + 'y' * length for i, length in enumerate(lengths)]
  count = data.draw(st.integers(1, len(texts)))
  tasks = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
  ours = predictor(batch_size=batch_size, length_buckets=(6, 20))
  with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
    patch.setattr(decoding, 'greedy_decode', echo)
    found = ours.texts(Store(texts), count=count, task_id=np.array(tasks))
  assert found == [
    f'{task}x{text}' for task, text in zip(tasks, texts[:count], strict=True)
  ]


@pytest.fixture
def echoing(monkeypatch):
  monkeypatch.setattr(decoding, 'greedy_decode', echo)


def batches_of(rows, store, *, batch_size, length_buckets, limit):
  del batch_size
  tokens = np.zeros((len(rows), length_buckets[-1]), np.int32)
  for row, index in enumerate(rows):
    tokens[row, : store.input_lengths[index]] = store.inputs(index)
  yield np.array(rows), tokens


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    ([0, 2, 1, 2], 'example 2 was decoded twice'),
    ([3, 0], '2 of 4 examples were not decoded, the first is 1'),
  ],
)
def test_a_repeated_or_missing_example_is_an_error(
  echoing, monkeypatch, rows, message
):
  monkeypatch.setattr(
    loader, 'eval_batches', functools.partial(batches_of, rows)
  )
  with pytest.raises(RuntimeError, match=message):
    predictor().texts(Store(['a', 'b', 'c', 'd']), count=4, task_id=0)


def test_text_ends_at_the_decoding_length(echoing):
  store = Store(['abcdefg', 'h'])
  found = predictor(max_decode_length=5).texts(store, count=2, task_id=7)
  assert found == ['7xabc', '7xh']


def test_progress_counts_examples_and_not_padding(echoing):
  done = []
  predictor(batch_size=2).texts(
    Store(['a', 'b', 'long ones', 'c', 'd']),
    count=5,
    task_id=0,
    progress=done.append,
  )
  assert done == [2, 4, 5]


def test_each_bucket_is_compiled_once_for_all_tasks(monkeypatch):
  shapes = []

  def traced(model, params, tokens, task_ids, *, max_decode_length):
    shapes.append(tokens.shape)
    return echo(
      model, params, tokens, task_ids, max_decode_length=max_decode_length
    )

  monkeypatch.setattr(decoding, 'greedy_decode', traced)
  ours = predictor()
  again = predictor_lib.Predictor(
    ours.model, PARAMS + 1, VOCABULARY, 3, 40, (4, 8)
  )
  store = Store(['abc', 'abcdefg', 'a', 'b', 'c', 'd'])
  for each, task_id in ((ours, 1), (ours, 2), (again, 3)):
    found = each.texts(store, count=6, task_id=task_id)
    letter = 'y' if each is again else 'x'
    assert found[1] == f'{task_id}{letter}abcdefg'
  assert shapes == [(3, 8), (3, 4)]


@pytest.mark.parametrize(('length', 'expected'), [(9, 16), (16, 16), (17, 24)])
def test_longer_rows_get_the_next_multiple_of_the_last_bucket(
  monkeypatch, length, expected
):
  shapes = set()

  def traced(model, params, tokens, task_ids, *, max_decode_length):
    shapes.add(tokens.shape[1])
    return tokens

  monkeypatch.setattr(decoding, 'greedy_decode', traced)
  store = Store(['ab', 'c' * (length - 1)])
  assert predictor().texts(store, count=2, task_id=0) == [
    'ab',
    'c' * (length - 1),
  ]
  assert shapes == {expected}


LABELS = ('False', 'True', 'Truely')


def nearest(model, params, tokens, task_ids, labels):
  """Scores a label by how many of its ids, end included, the inputs have."""
  del model, params, task_ids
  width = labels.shape[1]
  rows = jnp.pad(tokens, ((0, 0), (0, width)))[:, None, :width]
  said = labels[None] > 0
  return jnp.sum((rows == labels[None]) & said, -1) - jnp.sum(said, -1)


def test_rank_takes_the_likeliest_label_with_its_end(monkeypatch):
  monkeypatch.setattr(decoding, 'label_scores', nearest)
  store = Store(['True', 'Truely', 'Falsehood', 'Fal', 'Truest'])
  found = predictor().texts(store, count=5, task_id=0, labels=LABELS)
  assert found == ['True', 'Truely', 'False', 'False', 'True']


def test_rows_spread_over_devices_come_back_whole(echoing):
  devices = jax.devices()
  if len(devices) < 4:
    pytest.skip('needs 4 devices; the suite simulates 8')
  mesh = jax.sharding.Mesh(
    np.array(devices[:4]).reshape(2, 2), ('data', 'model')
  )
  sharding = NamedSharding(mesh, PartitionSpec('data', None))
  texts = [f'{i}!' for i in range(11)]
  found = predictor(batch_size=6, batch_sharding=sharding).texts(
    Store(texts), count=11, task_id=3
  )
  assert found == [f'3x{text}' for text in texts]
  with pytest.raises(UserError, match='a multiple of 2'):
    predictor(batch_size=5, batch_sharding=sharding)
