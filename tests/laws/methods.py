"""The methods that must keep the laws, each built into a small T5.

Together they cover each option of each method at least once, on T5 1.0 and
1.1, and methods that are used together.
"""

from hypergrid_jax.methods.adapters import Adapters
from hypergrid_jax.methods.ca_mtl import CAMTL
from hypergrid_jax.methods.hyperformer import HyperFormer
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import architecture
from hypergrid_jax.testing import laws

SMALL = {'reduction_factor': 4, 'embed_dim': 6, 'hidden_dim': 11, 'seed_dim': 8}
V1_1 = {'mlp_activations': ('gelu', 'linear'), 'logits_via_embedding': False}

METHODS = {
  'plain 1.0': ({}, None),
  'plain 1.1': (V1_1, None),
  'L2 first identity': (V1_1, HyperGrid(grid_rows=4, grid_cols=3)),
  'LG mean residual wi+wo encoder': (
    {},
    HyperGrid(
      variant='LG',
      state='mean',
      form='residual',
      grid_rows=2,
      grid_cols=4,
      gate_wi=True,
      decoder=False,
      layers=(0, 2),
    ),
  ),
  'GL task plain upper half': (
    V1_1,
    HyperGrid(
      variant='GL',
      state='task',
      form='plain',
      grid_rows=5,
      grid_cols=6,
      layers='upper_half',
    ),
  ),
  'L first identity one layer': (
    {},
    HyperGrid(variant='L', gate_wi=True, layers=(1,)),
  ),
  'L2 mean plain wi decoder': (
    {},
    HyperGrid(
      state='mean',
      form='plain',
      grid_rows=3,
      grid_cols=10,
      gate_wi=True,
      gate_wo=False,
      encoder=False,
    ),
  ),
  'CA-MTL base': (V1_1, CAMTL(window=3, max_length=7)),
  'CA-MTL shared block per head, all norms, ladder': (
    {},
    CAMTL(
      attention='shared_block',
      attention_per_head=True,
      window=2,
      norm_layers='all',
      final_norm=True,
      bottleneck='ladder',
      bottleneck_width=5,
      bottleneck_activation='gelu',
      decoder_alignment=True,
      decoder_norm=True,
    ),
  ),
  'GL task with CA-MTL': (
    V1_1,
    (
      HyperGrid(
        variant='GL', state='task', grid_rows=5, grid_cols=6, decoder=False
      ),
      CAMTL(attention=None, norm_layers=(1,), decoder_norm=True),
    ),
  ),
  'adapters per task': (V1_1, Adapters(reduction_factor=3)),
  'adapters, shared norm': (
    {},
    Adapters(variant='shared_norm', reduction_factor=5),
  ),
  'L2 mean with one adapter': (
    V1_1,
    (
      HyperGrid(grid_rows=2, grid_cols=3, state='mean'),
      Adapters(variant='single', reduction_factor=4),
    ),
  ),
  'HyperFormer++': (V1_1, HyperFormer(**SMALL)),
  'HyperFormer per position': (
    {},
    HyperFormer(variant='per_position', **SMALL),
  ),
  'HyperFormer as released with LG': (
    {},
    (
      HyperFormer(variant='released', **SMALL),
      HyperGrid(variant='LG', grid_rows=4, grid_cols=6),
    ),
  ),
}

# What has to be zero for a method's initial parameters to be a plain T5: the
# LayerNorm that ends an adapter starts at size 1, what generates it at 0.08.
SILENCED = {
  Adapters: r'.*/norm_scale',
  HyperFormer: r'.*/norm_(scale|bias)/kernel',
}

# Which of a method's own parameters have a gradient at the start, when others
# are zero so that it is a plain T5.
FIRST_GRADIENTS = {
  HyperGrid: r'.*/condition/\w+/col',
  Adapters: r'.*/layers/after_(attention|feed_forward)/.*',
  HyperFormer: (
    r'task_vectors/.*'
    r'|.*/condition/(source|block_types|generators|attention|feed_forward)/.*'
  ),
  CAMTL: (
    r'.*/(after_embed/film|condition/\w+_norm)/.*'
    r'|encoder/layers/attention_bias/(blocks|film/beta/.*)'
    r'|encoder/(after_layers|layers/after_layer)/up/.*'
  ),
}


def parts(name: str) -> tuple:
  """The configurations of the methods in a model; none for plain T5."""
  method = METHODS[name][1]
  if method is None:
    return ()
  return method if isinstance(method, tuple) else (method,)


# What else than (scanned, nothing recomputed) a method is run under.
SETTINGS = {
  'plain 1.0': {'remat_policy': 'minimal'},
  'L2 first identity': {'scan_layers': False, 'remat_policy': 'minimal'},
  'LG mean residual wi+wo encoder': {'scan_layers': False},
  'L first identity one layer': {'scan_layers': False},
  'L2 mean plain wi decoder': {'remat_policy': 'minimal'},
  'CA-MTL base': {'remat_policy': 'full'},
  'GL task with CA-MTL': {'scan_layers': False},
  'adapters, shared norm': {'scan_layers': False, 'remat_policy': 'minimal'},
  'adapters per task': {'remat_policy': 'full'},
  'HyperFormer per position': {'scan_layers': False},
}
# A mesh of each kind of method; one takes long to compile.
ON_A_MESH = (
  'L2 first identity',
  'LG mean residual wi+wo encoder',
  'CA-MTL shared block per head, all norms, ladder',
  'adapters per task',
  'HyperFormer++',
)


def sees_task_ids(name: str) -> bool:
  """Whether the model depends on task ids at all."""
  return any(map(_sees_task_ids, parts(name)))


def _sees_task_ids(method) -> bool:
  if isinstance(method, HyperGrid):
    return method.state == 'task'
  if isinstance(method, Adapters):
    return method.variant != 'single'
  return True


def make(name: str, **overrides) -> architecture.Model:
  """The model of a method, with other settings of its T5 if given."""
  sizes, method = METHODS[name]
  return laws.model_of(
    method, tuple({**laws.SIZES, **sizes, **overrides}.items())
  )
