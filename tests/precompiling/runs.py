"""A small run to compile, and its parts."""

from hypergrid_jax.config import run_config
from hypergrid_jax.precompiling import programs, topologies

GIN = ('gin/models/tiny.gin', 'gin/mixtures/glue.gin')
# No two sizes are equal, and few divide each other.
SMALL = (
  'T5Config.d_model=48',
  'T5Config.d_ff=160',
  'T5Config.num_heads=2',
  'T5Config.d_kv=32',
  'T5Config.num_layers=3',
  'T5Config.num_decoder_layers=2',
  'T5Config.vocab_size=384',
  'data.vocabulary=sample',
  'data.inputs_length=36',
  'data.targets_length=20',
  'data.row_length=40',
  'data.row_targets_length=24',
  'data.batch_size=16',
  'evaluate.batch_size=8',
  'evaluate.length_buckets=(40,)',
  'evaluate.max_decode_length=5',
  'train.num_steps=100',
)


def configured(*bindings):
  """The run, with more bindings."""
  return run_config.parse(GIN, (*SMALL, *bindings))


def parts(*bindings, topology='cpu'):
  """The run on a topology."""
  return programs.build(configured(*bindings), topologies.find(topology))
