"""Records how every parameter of a few models lies on a mesh.

  python -m tests.goldens.make_shardings

writes shardings.json beside this file: for every dimension the mesh axes that
divide it. A change of it changes what a step sends between devices.
"""

import json
import pathlib

import jax

from hypergrid_jax import trees
from hypergrid_jax.parallel import partitioning
from tests.goldens import make_parameter_trees

GOLDEN = pathlib.Path(__file__).with_name('shardings.json')


def shardings() -> dict[str, dict[str, list]]:
  """Case -> path of the parameter -> one entry per dimension."""
  # Which axes divide a dimension does not depend on how many devices they have.
  mesh = partitioning.make_mesh(partitioning.MeshConfig(), jax.devices()[:1])
  found = {}
  for case in make_parameter_trees.CASES:
    model = make_parameter_trees.make(case)
    placed = partitioning.param_shardings(
      model.logical_axes, model.abstract_params, mesh
    )
    found[case] = {
      path: list(sharding.spec)
      for path, sharding in trees.flatten(placed).items()
    }
  return found


def main() -> None:
  """Writes the golden file."""
  lines = []
  for case, placed in shardings().items():
    leaves = ',\n'.join(
      f'    {json.dumps(path)}: {json.dumps(spec)}'
      for path, spec in sorted(placed.items())
    )
    lines.append(f'  {json.dumps(case)}: {{\n{leaves}\n  }}')
  GOLDEN.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


if __name__ == '__main__':
  main()
