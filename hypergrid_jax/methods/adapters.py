"""Adapters: the baselines of HyperFormer, trained directly.

Houlsby et al. 2019 (arXiv:1902.00751), placed and computed as by Karimi
Mahabadi et al. 2021 (arXiv:2106.04489): after self-attention and after the
feed-forward of every layer of both stacks, never after cross-attention. See
`adapter_layer.apply_adapter`.

  per_task      every task has its own adapters
  shared_norm   the paper's adapters with a dagger: every task has its own two
                projections, all tasks share the LayerNorm behind them
  single        one set for all tasks; of a run on one task, the paper's
                single-task adapters

The backbone is frozen but for its norms: `train.trainable =
'added_and_norms'`.

The LayerNorm behind the projections makes an adapter's contribution as large at
the start as later, whatever the size of the weights. With scale 1 a model
therefore does not start as the plain T5.
"""

import dataclasses
from typing import Literal, get_args

from flax import nnx
from jaxtyping import Array, Float

from hypergrid_jax import errors, types
from hypergrid_jax.methods import adapter_layer, folding
from hypergrid_jax.model import extension, layers

Variant = Literal['per_task', 'shared_norm', 'single']


@dataclasses.dataclass(frozen=True)
class Adapters:
  """Hyper-parameters of adapters.

  Attributes:
    variant: what the tasks share, see the module's text.
    reduction_factor: the bottleneck is d_model // reduction_factor wide. The
      paper's tables are of 32.
  """

  variant: Variant = 'per_task'
  reduction_factor: int = 32

  def __post_init__(self):
    errors.check_choice('Adapters.variant', self.variant, get_args(Variant))

  def fold(self, config, params: folding.Leaves, task_id: int):
    """Refuses; see `folding`.

    Raises:
      UserError: always.
    """
    del config, params, task_id
    raise folding.not_plain(
      'Adapters', 'a plain T5 has no adapters after its sub-layers'
    )

  def extension_points(self) -> extension.ExtensionPoints:
    """Returns the points of T5 that this method replaces."""

    def adapter(site, *, rngs):
      return Adapter(self, site, rngs=rngs)

    return extension.ExtensionPoints(
      condition=task_ids, after_attention=adapter, after_feed_forward=adapter
    )


def task_ids(site: extension.Site, *, rngs: nnx.Rngs):
  """Builds the condition: the rows' task ids themselves."""
  del site, rngs
  return lambda inputs: types.Conditioning(shared=inputs.task_ids)


class Adapter(nnx.Module):
  """The adapters of all tasks behind one sub-layer.

  Weights are normal(0, 0.01^2), biases 0, the LayerNorm starts at (1, 0).
  """

  def __init__(self, method: Adapters, site: extension.Site, *, rngs: nnx.Rngs):
    d_model = site.config.d_model
    width = adapter_layer.width('Adapters', d_model, method.reduction_factor)
    shapes = adapter_layer.weight_shapes(d_model, width)
    shared = {
      'per_task': (),
      'shared_norm': adapter_layer.NORM,
      'single': tuple(shapes),
    }
    self.per_task = tuple(
      name for name in shapes if name not in shared[method.variant]
    )
    for name, sizes in shapes.items():
      if name in self.per_task:
        sizes = {'tasks': site.num_tasks, **sizes}
      kernel = name in adapter_layer.KERNELS
      parameter = layers.parameter(
        rngs,
        tuple(sizes.values()),
        tuple(sizes),
        stddev=adapter_layer.STDDEV if kernel else 0.0,
        constant=float(name == 'norm_scale'),
        stream='method',
      )
      setattr(self, name, parameter)

  def __call__(
    self, y: Float[Array, 'B L D'], cond: types.Conditioning
  ) -> Float[Array, 'B L D']:
    """Applies every row's adapter.

    A row's own copy of the projections is R / L of the size of its L tokens'
    activations.
    """

    def of_rows(name, value):
      if name in self.per_task:
        return adapter_layer.of_rows(value, cond.shared)
      return value[None]

    values = nnx.to_pure_dict(nnx.state(self))
    weights = {name: of_rows(name, value) for name, value in values.items()}
    return adapter_layer.apply_adapter(
      y, adapter_layer.AdapterWeights(**weights)
    )
