"""The count from a T5's sizes against the one from compiled programs."""

import dataclasses

import pytest

from hypergrid_jax.model.config import T5Config
from hypergrid_jax.precompiling import analytic, hlo_costs, hlo_text, programs
from tests.precompiling import runs

pytestmark = pytest.mark.usefixtures('compile_quickly')


def ratio(*bindings):
  parts = runs.parts(*bindings)
  program = programs.compile_training(parts)
  counted = hlo_costs.costs(hlo_text.parse(program.as_text()))
  expected = analytic.training_flops(
    parts.model.config,
    rows=parts.run.data.batch_size,
    row_lengths=parts.run.data.row_lengths,
  )
  return counted.flops * parts.mesh.size / expected.total


def test_a_t5_by_hand():
  config = T5Config(
    d_model=3,
    d_ff=5,
    num_heads=2,
    d_kv=7,
    num_layers=11,
    num_decoder_layers=13,
    vocab_size=17,
  )
  flops = analytic.training_flops(config, rows=2, row_lengths=(19, 23))
  encoder, decoder = 2 * 19, 2 * 23  # tokens
  joined = 2 * 7
  attention = 11 * (4 * encoder * 3 * joined + 2 * 2 * 19 * 19 * joined)
  attention += 13 * (4 * decoder * 3 * joined + 2 * 2 * 23 * 23 * joined)
  attention += 13 * 2 * (decoder + encoder) * 3 * joined
  attention += 13 * 2 * 2 * 23 * 19 * joined
  assert flops.attention == 3 * 2 * attention
  assert flops.feed_forward == 3 * 2 * 2 * 3 * 5 * (11 * encoder + 13 * decoder)
  assert flops.logits == 3 * 2 * decoder * 3 * 17
  assert flops.recomputed == 0
  gated = dataclasses.replace(config, mlp_activations=('gelu', 'linear'))
  more = analytic.training_flops(gated, rows=2, row_lengths=(19, 23))
  assert more.feed_forward * 2 == flops.feed_forward * 3


@pytest.mark.parametrize('policy', ['none', 'minimal', 'full'])
def test_compiled_training_is_the_analytic_count(policy):
  count = ratio(f'T5Config.remat_policy={policy}')
  assert count == pytest.approx(1, abs=1e-3)


def test_compiled_training_with_microbatches_on_a_mesh():
  count = ratio(
    'train.microbatches=2',
    'T5Config.remat_policy=full',
    'T5Config.mlp_activations=("gelu", "linear")',
    'mesh.data=2',
    'mesh.fsdp=2',
    'mesh.model=2',
  )
  assert count == pytest.approx(1, abs=0.03)
