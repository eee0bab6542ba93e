"""Records names, shapes and logical axes of the parameters of a few models.

  python -m tests.goldens.make_parameter_trees

writes parameter_trees.json beside this file. A change of it is a change of the
checkpoint format.
"""

import json
import pathlib

from hypergrid_jax import trees
from hypergrid_jax.methods.adapters import Adapters
from hypergrid_jax.methods.ca_mtl import CAMTL
from hypergrid_jax.methods.hyperformer import HyperFormer
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import architecture, extension, t5

GOLDEN = pathlib.Path(__file__).with_name('parameter_trees.json')
NUM_TASKS = 9

SIZES = {
  'd_model': 16,
  'd_ff': 24,
  'num_heads': 3,
  'd_kv': 5,
  'num_layers': 4,
  'num_decoder_layers': 2,
  'vocab_size': 31,
}
V1_0 = t5.T5Config(**SIZES)
V1_1 = t5.T5Config(
  **SIZES, mlp_activations=('gelu', 'linear'), logits_via_embedding=False
)
GRID = {'grid_rows': 6, 'grid_cols': 2}
ADAPTER = {'reduction_factor': 5}
FORMER = {**ADAPTER, 'embed_dim': 7, 'hidden_dim': 10, 'seed_dim': 12}

CASES = {
  'plain 1.0': (V1_0, None),
  'plain 1.1': (V1_1, None),
  'hypergrid L': (V1_0, HyperGrid('L', gate_wi=True)),
  'hypergrid L2': (V1_1, HyperGrid('L2', **GRID)),
  'hypergrid LG task': (V1_0, HyperGrid('LG', state='task', **GRID)),
  'hypergrid GL upper half': (
    V1_1,
    HyperGrid(
      'GL',
      grid_rows=8,
      grid_cols=2,
      gate_wi=True,
      decoder=False,
      layers='upper_half',
    ),
  ),
  'adapters': (V1_1, Adapters(**ADAPTER)),
  'adapters single': (V1_0, Adapters('single', **ADAPTER)),
  'adapters shared norm': (V1_0, Adapters('shared_norm', **ADAPTER)),
  'hyperformer plus_plus': (V1_1, HyperFormer(**FORMER)),
  'hyperformer per_position': (
    V1_0,
    HyperFormer('per_position', **FORMER),
  ),
  'hyperformer released': (V1_0, HyperFormer('released', **FORMER)),
  'ca_mtl base': (V1_0, CAMTL(window=5, max_length=11)),
  'ca_mtl large': (
    V1_1,
    CAMTL(
      attention='shared_block',
      attention_per_head=True,
      window=7,
      norm_layers=(0, 1, 3),
      final_norm=True,
      bottleneck='ladder',
    ),
  ),
  'hypergrid GL task, ca_mtl decoder': (
    V1_0,
    (
      HyperGrid('GL', state='task', **GRID),
      CAMTL(
        attention=None,
        bottleneck=None,
        decoder_alignment=True,
        decoder_norm=True,
      ),
    ),
  ),
}


def make(name: str) -> architecture.Model:
  """The model of a case."""
  config, method = CASES[name]
  return architecture.Model(
    config, extension.of_methods(method), num_tasks=NUM_TASKS
  )


def describe(name: str) -> dict[str, dict]:
  """Shape and logical axes by path."""
  model = make(name)
  axes = trees.flatten(model.logical_axes, is_leaf=trees.is_axes)
  return {
    path: {'shape': list(leaf.shape), 'axes': list(axes[path])}
    for path, leaf in trees.flatten(model.abstract_params).items()
  }


def main() -> None:
  """Writes the golden file."""
  lines = []
  for name in CASES:
    leaves = ',\n'.join(
      f'    {json.dumps(path)}: {json.dumps(leaf)}'
      for path, leaf in sorted(describe(name).items())
    )
    lines.append(f'  {json.dumps(name)}: {{\n{leaves}\n  }}')
  GOLDEN.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


if __name__ == '__main__':
  main()
