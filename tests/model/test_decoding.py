"""Greedy decoding and label scores against teacher forcing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import architecture, decoding, t5
from hypergrid_jax.testing import batches

VOCAB, LENGTH = 11, 8
SIZES = ((3, 1), (5, 1), (0, 1), (1, 1), (6, 1), (4, 1), (2, 1))
TASKS = (3, 0, 1, 1, 2, 0, 3)


@functools.cache
def model():
  config = t5.T5Config(
    d_model=12,
    d_ff=16,
    num_heads=2,
    d_kv=5,
    num_layers=1,
    num_decoder_layers=2,
    vocab_size=VOCAB,
    dtype='float64',
    mlp_activations=('gelu', 'linear'),
    logits_via_embedding=False,
    relative_buckets=4,
    relative_max_distance=6,
  )
  method = HyperGrid(grid_rows=4, grid_cols=3)
  return architecture.Model(config, method.extension_points(), num_tasks=4)


@functools.cache
def params():
  """Of a model that says the end-of-sequence id now and then."""
  values = batches.random_params(model().abstract_params, seed=3)
  values['lm_head'][:, decoding.EOS_ID] *= 1.5
  return values


@functools.cache
def rows():
  """One example a row; row 2 is padding alone."""
  examples = batches.rows(
    vocab_size=VOCAB, sizes=[[size] for size in SIZES], tasks=TASKS
  )
  return batches.batch(examples, num_segments=1)


@jax.jit
def decode(params, batch):
  return decoding.greedy_decode(
    model(),
    params,
    batch.encoder_input_tokens,
    batch.task_ids,
    max_decode_length=LENGTH,
  )


@jax.jit
def forced(params, batch, targets):
  """Logits of targets [B, L] given the targets before."""
  module = model().bind(params)
  segments = decoding.single_segments(batch.encoder_input_tokens)
  encoded = module.encode(batch.encoder_input_tokens, segments, batch.task_ids)
  ones = decoding.single_segments(jnp.ones_like(targets))
  inputs = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
  return module.decode(inputs, ones, encoded, segments, batch.task_ids)


def test_decodes_the_likeliest_token_until_the_end(x64):
  output = np.asarray(decode(params(), rows()))
  likeliest = np.argmax(forced(params(), rows(), output), axis=-1)
  ends = []
  for b in range(len(output)):
    if SIZES[b][0] == 0:
      assert not output[b].any(), 'a row of padding has ended from the start'
      continue
    stops = np.flatnonzero(output[b] == decoding.EOS_ID)
    end = stops[0] + 1 if len(stops) else LENGTH
    ends.append(int(end))
    assert output[b, :end].tolist() == likeliest[b, :end].tolist()
    assert not output[b, end:].any(), 'zeros after the end'
  # What the test is worth: rows that end early, late and never.
  assert min(ends) < LENGTH // 2 < max(ends)
  assert len(set(ends)) > 2


@pytest.mark.parametrize('bias', [0.0, 1e3])
def test_stops_when_every_row_has_ended(x64, monkeypatch, bias):
  """Counts the steps that run; a bias on the end id ends all rows at once."""
  steps = []
  original = t5.T5.decode_step

  def counted(self, *args):
    jax.debug.callback(lambda: steps.append(1))
    logits, cache = original(self, *args)
    return logits.at[:, decoding.EOS_ID].add(bias), cache

  monkeypatch.setattr(t5.T5, 'decode_step', counted)
  output = jax.jit(lambda *args: decode.__wrapped__(*args))(params(), rows())
  jax.effects_barrier()
  lengths = np.count_nonzero(output, axis=1)
  assert len(steps) == max(lengths)
  assert (len(steps) == 1) == bool(bias)


def test_label_scores_are_sums_of_forced_log_probabilities(x64):
  labels = np.array(
    [[4, 1, 0, 0], [7, 3, 9, 1], [4, 4, 1, 0], [1, 0, 0, 0]], np.int32
  )
  batch = rows()
  scores = jax.jit(functools.partial(decoding.label_scores, model()))(
    params(), batch.encoder_input_tokens, batch.task_ids, labels
  )
  count = len(batch.task_ids)
  for c, label in enumerate(labels):
    targets = np.zeros((count, LENGTH), np.int32)
    targets[:, : len(label)] = label
    logits = np.asarray(forced(params(), batch, targets))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    length = np.count_nonzero(label)
    expected = sum(logs[:, t, label[t]] for t in range(length))
    np.testing.assert_allclose(scores[:, c], expected, rtol=1e-12)


def test_single_segments_end_where_the_padding_begins():
  segments = decoding.single_segments(jnp.array([[5, 1, 0], [0, 0, 0]]))
  assert segments.ids.tolist() == [[1, 1, 0], [0, 0, 0]]
  assert segments.starts.tolist() == [[0], [0]]
  assert segments.positions.tolist() == [[0, 1, 2], [0, 1, 2]]
