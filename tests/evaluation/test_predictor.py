from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.evaluation import predictor as predictor_lib
from hypergrid_jax.model import decoding
from hypergrid_jax.tasks.vocabularies import ByteVocabulary

VOCABULARY = ByteVocabulary()
EOS = VOCABULARY.eos_id


def ids_of(texts):
  """Inputs: the byte ids of texts, with end of sequence."""
  return [np.array([*VOCABULARY.encode(t), EOS], np.int32) for t in texts]


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
)
@settings(deadline=None, max_examples=30)
def test_order_is_kept_under_any_batches_and_buckets(
  lengths, batch_size, buckets
):
  # Texts differ from each other, and their order is not that of their lengths.
  texts = [f'{i}:' + 'y' * length for i, length in enumerate(lengths)]
  ours = predictor(batch_size=batch_size, length_buckets=tuple(sorted(buckets)))
  # Every drawn shape is new: compiling would take all the time.
  with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
    patch.setattr(decoding, 'greedy_decode', echo)
    found = ours.texts(ids_of(texts), 5)
  assert found == [f'5x{text}' for text in texts]


@given(
  lengths=st.lists(st.integers(0, 30), min_size=1, max_size=23),
  batch_size=st.integers(1, 9),
  data=st.data(),
)
@settings(deadline=None, max_examples=20)
def test_rows_of_several_tasks_keep_their_task(lengths, batch_size, data):
  texts = [f'{i}:' + 'y' * length for i, length in enumerate(lengths)]
  count = len(texts)
  tasks = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
  ours = predictor(batch_size=batch_size, length_buckets=(6, 20))
  with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
    patch.setattr(decoding, 'greedy_decode', echo)
    found = ours.texts(ids_of(texts), np.array(tasks))
  assert found == [
    f'{task}x{text}' for task, text in zip(tasks, texts, strict=True)
  ]


@pytest.fixture
def echoing(monkeypatch):
  monkeypatch.setattr(decoding, 'greedy_decode', echo)


@pytest.mark.parametrize('batch_size', [1, 9, 200])
def test_every_input_comes_once_in_few_shapes(batch_size):
  rng = np.random.default_rng(3)
  inputs = [
    rng.integers(1, 99, length).astype(np.int32)
    for length in rng.integers(1, 75, 131)
  ]
  buckets = np.array([16, 32, 60, 120])
  seen, shapes, shortest = [], [], 120
  for indices, tokens in predictor_lib.padded_batches(
    inputs, batch_size, (16, 32, 60)
  ):
    assert len(tokens) == batch_size
    assert not tokens[len(indices) :].any()
    lengths = []
    for index, row in zip(indices, tokens, strict=False):
      expected = inputs[index].tolist()
      assert row.tolist() == expected + [0] * (len(row) - len(expected))
      lengths.append(buckets[np.searchsorted(buckets, len(expected))])
      seen.append(int(index))
    assert tokens.shape[1] == max(lengths) <= shortest
    shapes.append(tokens.shape[1])
    shortest = min(lengths)
  assert sorted(seen) == list(range(131))
  assert set(shapes) <= set(buckets)
  assert len(shapes) == -(-131 // batch_size)  # empty rows in the last alone


def test_text_ends_at_the_decoding_length(echoing):
  inputs = ids_of(['abcdefg', 'h'])
  found = predictor(max_decode_length=5).texts(inputs, 7)
  assert found == ['7xabc', '7xh']


def test_progress_counts_examples_and_not_padding(echoing):
  done = []
  inputs = ids_of(['a', 'b', 'long ones', 'c', 'd'])
  predictor(batch_size=2).texts(inputs, 0, progress=done.append)
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
  inputs = ids_of(['abc', 'abcdefg', 'a', 'b', 'c', 'd'])
  for each, task_id in ((ours, 1), (ours, 2), (again, 3)):
    found = each.texts(inputs, task_id)
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
  texts = ['ab', 'c' * (length - 1)]
  assert predictor().texts(ids_of(texts), 0) == texts
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
  inputs = ids_of(['True', 'Truely', 'Falsehood', 'Fal', 'Truest'])
  found = predictor().texts(inputs, 0, labels=LABELS)
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
    ids_of(texts), 3
  )
  assert found == [f'3x{text}' for text in texts]
  with pytest.raises(UserError, match='a multiple of 2'):
    predictor(batch_size=5, batch_sharding=sharding)
