"""Uncertainty sampling by hand, and against NumPy in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax import errors
from hypergrid_jax.methods.adapters import Adapters
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.testing import batches
from hypergrid_jax.training import uncertainty
from hypergrid_jax.training.uncertainty_labels import TaskLabels
from tests import tolerances
from tests.methods import numpy_t5, test_adapters

pytestmark = pytest.mark.usefixtures('compile_quickly')

# Four tasks: two labels, free text, three labels, numbers.
RULES = ('labels', 'mean', 'labels', 'labels')
LABELS = TaskLabels(
  rules=RULES,
  scored=np.array([0, 2, 3]),
  counts=np.array([2, 3, 5]),
  owners=np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 2]),
  tokens=np.array(
    [
      [7, 1, 0, 0],
      [9, 4, 1, 0],
      [9, 1, 0, 0],
      [3, 5, 8, 1],
      [3, 6, 1, 0],
      [20, 1, 0, 0],
      [20, 21, 1, 0],
      [20, 22, 1, 0],
      [25, 1, 0, 0],
      [25, 20, 1, 0],
    ],
    np.int32,
  ),
  copied=None,
)
COPYING = dataclasses.replace(
  LABELS,
  rules=('labels', 'zero', 'labels', 'copy'),
  scored=np.array([0, 2]),
  counts=np.array([2, 3]),
  owners=LABELS.owners[:5],
  tokens=LABELS.tokens[:5],
  copied=1,
)
T, P = 4, 3
IDS = (3, 0, 4, 1)  # task ids of the four columns
MOST = np.log([2.0, 3.0, 5.0])


def scores(entropies, labels=LABELS, score='paper'):
  return np.asarray(
    uncertainty.row_scores(jnp.asarray(entropies), labels, score=score)
  )


@pytest.mark.usefixtures('x64')
def test_scores_by_hand():
  # Means 0.3, 0.8, 0.5; the second task's is the largest.
  entropies = np.array([[0.1, 0.9, 0.5], [0.5, 0.6, 0.2], [0.3, 0.9, 0.8]])
  # 0.1 / (log 2 0.8) and so on.
  paper = np.array(
    [
      [0.180337, 1.024020, 0.388334],
      [0.901684, 0.682680, 0.155334],
      [0.541011, 1.024020, 0.621335],
    ]
  )
  found = scores(entropies)
  np.testing.assert_allclose(found[:, [0, 2, 3]], paper, rtol=5e-6)
  np.testing.assert_allclose(found[:, 1], paper.mean(), rtol=5e-6)
  # Of log C the shares 0.1442674 0.7213369 0.4328021, mean 0.4328021;
  # 0.8192086 0.5461391 0.8192086, mean 0.7281854; 0.3106655 0.1242662
  # 0.4970649, mean 0.3106655: times 0.5943571, 1 and 0.4266297.
  code = np.array(
    [
      [0.085746, 0.819209, 0.132539],
      [0.428732, 0.546139, 0.053016],
      [0.257239, 0.819209, 0.212063],
    ]
  )
  found = scores(entropies, score='code')
  # The authors' 1e-5 beside log C moves the fifth digit.
  np.testing.assert_allclose(found[:, [0, 2, 3]], code, rtol=6e-5)
  assert found[0, 0] == pytest.approx(
    (0.1 / (np.log(2) + 1e-5))
    * (0.3 / (np.log(2) + 1e-5))
    / (0.8 / (np.log(3) + 1e-5)),
    rel=1e-12,
  )
  np.testing.assert_allclose(found[:, 1], found[:, [0, 2, 3]].mean())


@pytest.mark.usefixtures('x64')
def test_scores_that_are_spread():
  entropies = np.array([[0.1, 0.9, 0.5], [0.5, 0.6, 0.2], [0.3, 0.9, 0.8]])
  spread = dataclasses.replace(
    LABELS, rules=('labels', 'spread', 'labels', 'labels')
  )
  # In order 0.155334 0.180337 0.388334 0.541011 0.621335 0.682680 0.901684
  # 1.024020 1.024020. The middles of three thirds are 4/3, 4 and 20/3 places
  # from the first.
  found = scores(entropies, spread)[:, 1]
  np.testing.assert_allclose(found, [0.249669, 0.621335, 0.983241], rtol=5e-6)


@pytest.mark.usefixtures('x64')
def test_scores_that_are_copied_and_scores_of_nothing():
  entropies = np.array([[0.1, 0.9], [0.5, 0.6], [0.3, 0.9]])
  found = scores(entropies, COPYING)
  np.testing.assert_array_equal(found[:, 3], found[:, 2])
  np.testing.assert_array_equal(found[:, 1], 0)
  assert (found[:, [0, 2]] > 0).all()


def test_a_model_that_is_certain_of_everything_has_scores():
  for score in ('paper', 'code'):
    assert not scores(np.zeros((2, 3)), score=score).any()


@pytest.mark.usefixtures('x64')
def test_entropies_by_hand():
  # Task 0: p = 1/4, 3/4. Task 2: p = 1/2, 1/4, 1/4. Task 3: even, then one
  # label for certain. The last segment is in the first row alone.
  with np.errstate(divide='ignore'):
    logs = np.log(
      [
        [[1, 7], [3, 7], [2, 5], [1, 5], [1, 5], *[[2, 9]] * 5],
        [[2, 4], [2, 6], [1, 3], [1, 3], [1, 3], [1, 8], *[[0, 8]] * 4],
      ]
    )
  present = np.array([[True, True], [True, False]])[:, None].repeat(3, 1)
  found = uncertainty.row_entropies(jnp.asarray(logs), present, LABELS)
  first = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)), 1.5 * np.log(2)
  expected = [
    [
      (first[0] + np.log(2)) / 2,
      (first[1] + np.log(3)) / 2,
      np.log(5),
    ],
    [np.log(2), np.log(3), 0],
  ]
  np.testing.assert_allclose(found, expected, **tolerances.FLOAT64)


SIZES = (((3, 2), (1, 1), (4, 3)), ((5, 2),), ((2, 4), (6, 2)))


@pytest.fixture(scope='module')
def case():
  method = Adapters('per_task', reduction_factor=test_adapters.REDUCTION)
  with jax.enable_x64(True):
    model = numpy_t5.make(method, '1.1')
    params = batches.random_params(model.abstract_params, seed=4)
  return model, params


def candidates(packed):
  """Rows of the four tasks in turn, and the same as a batch."""
  sizes, rows = SIZES if packed else [s[:1] for s in SIZES], []
  for number in range(T * P):
    row = batches.rows(
      vocab_size=34,
      seed=number,
      sizes=[sizes[(number * 5 + number // T) % 3]],
      tasks=[IDS[number % T]],
    )
    rows += row
  lengths = {} if packed else {'lengths': (5, 4), 'num_segments': 1}
  return rows, batches.batch(rows, **lengths)


def by_hand(model, params, rows, labels, score):
  """All scores, [P T], row by row and label by label, in NumPy."""
  weights_of = test_adapters.weights_of('per_task', params)
  entropies = np.zeros((P, len(labels.scored)))
  for number, row in enumerate(rows):
    place, task = divmod(number, T)
    if labels.rules[task] != 'labels':
      continue
    column = labels.scored.tolist().index(task)
    texts = labels.tokens[labels.owners == column]
    found = []
    for example in row:

      def after(stack, layer, position, y, example=example):
        weights = weights_of(example.task, stack, layer, position)
        return numpy_t5.adapter(y, weights)

      logs = []
      for text in texts:
        target = [token for token in text.tolist() if token]
        logits = numpy_t5.forward(
          model.config, params, example.inputs, target, after
        )
        logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        logs.append(logits[np.arange(len(target)), target].sum())
      p = np.exp(logs) / np.exp(logs).sum()
      found.append(-(p * np.log(p)).sum())
    entropies[place, column] = np.mean(found)
  most = np.log(labels.counts)
  if score == 'paper':
    values = entropies / most / entropies.mean(0).max()
  else:
    shares = entropies / (most + 1e-5)
    values = shares * shares.mean(0) / shares.mean(0).max()
  columns = {'mean': np.full(P, values.mean()), 'zero': np.zeros(P)}
  if labels.copied is not None:
    columns['copy'] = values[:, labels.copied]
  scored = dict(zip(labels.scored.tolist(), values.T, strict=True))
  return np.stack(
    [scored.get(t, columns.get(r)) for t, r in enumerate(labels.rules)], 1
  ).ravel()


def selector(model, labels, batch_size, **options):
  most_rows = options.pop('most_rows', 7)
  return jax.jit(
    uncertainty.UncertaintySampling(**options).selector(
      model, labels, batch_size=batch_size, most_rows=most_rows
    )
  )


@pytest.mark.parametrize(
  ('score', 'packed', 'labels', 'most_rows'),
  [
    ('paper', True, LABELS, 1),
    ('paper', True, COPYING, 100),
    ('paper', False, LABELS, 7),
    ('code', True, LABELS, 7),
    ('code', False, COPYING, 100),
  ],
)
def test_the_choice_is_that_of_numpy(
  x64, case, score, packed, labels, most_rows
):
  model, params = case
  rows, batch = candidates(packed)
  expected = by_hand(model, params, rows, labels, score)
  logs = jax.jit(
    lambda params, batch: uncertainty.label_log_probabilities(
      model, params, batch, labels, most_rows=most_rows
    )
  )(params, batch)
  present = np.array(
    [[s < len(r) for s in range(logs.shape[-1])] for r in rows]
  )
  present = present.reshape(P, T, -1)[:, labels.scored]
  entropies = uncertainty.row_entropies(logs, present, labels)
  found = uncertainty.row_scores(entropies, labels, score=score).ravel()
  np.testing.assert_allclose(found, expected, **tolerances.FLOAT64)
  distinct = expected[[t in labels.scored for t in range(T)] * P]
  assert len(np.unique(distinct.round(6))) == len(distinct)
  order = sorted(range(T * P), key=lambda row: (-expected[row].round(9), row))
  chosen = selector(model, labels, 5, score=score, most_rows=most_rows)(
    params, batch, jax.random.key(0)
  )
  assert chosen.tolist() == order[:5]


def test_equal_scores_are_taken_in_the_order_of_the_candidates(x64, case):
  model, params = case
  _, batch = candidates(True)
  # The free-text task's rows are 1, 5 and 9.
  found = selector(model, LABELS, T * P)(params, batch, None).tolist()
  assert sorted(found) == list(range(T * P))
  first = found.index(1)
  assert found[first : first + 3] == [1, 5, 9]


@pytest.mark.usefixtures('x64')
def test_a_mesh_of_4_by_2_chooses_the_same(case):
  model, params = case
  rows, _ = candidates(True)
  batch = batches.batch([*rows, *rows[::-1][:4]])  # 16 rows, four of each task
  expected = selector(model, LABELS, 8)(params, batch, None)
  mesh = partitioning.make_mesh(partitioning.MeshConfig(data=4, model=2))
  with jax.set_mesh(mesh):
    placed = jax.device_put(batch, partitioning.batch_sharding(mesh))
    shared = jax.device_put(
      params,
      partitioning.param_shardings(
        model.logical_axes, model.abstract_params, mesh
      ),
    )
    found = selector(model, LABELS, 8)(shared, placed, None)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'candidates_per_task': 0}, 'candidates_per_task: got 0, expected at le'),
    ({'score': 'papr'}, "score: got 'papr', .*Did you mean 'paper'"),
    ({'numbers': 'zero'}, "numbers: got 'zero', expected one of .'labels'"),
    (
      {'free_text': 'copy'},
      "free_text: got 'copy', expected one of .'spread', 'mean'",
    ),
  ],
)
def test_values_that_cannot_be_used(fields, message):
  with pytest.raises(errors.UserError, match=message):
    uncertainty.UncertaintySampling(**fields)


def test_candidates_per_task():
  assert uncertainty.UncertaintySampling().per_task(24) == 24
  sampling = uncertainty.UncertaintySampling(candidates_per_task=24)
  assert sampling.per_task(24) == 24
  with pytest.raises(errors.UserError, match=r'= 24 is more than .*size = 23'):
    sampling.per_task(23)
