"""HyperFormer: every task's adapters are the output of shared generators.

Karimi Mahabadi, Ruder, Dehghani, Henderson: Parameter-efficient Multi-task
Fine-tuning for Transformers via Shared Hypernetworks, ACL 2021
(arXiv:2106.04489). The adapters are those of `adapter_layer.apply_adapter`,
after self-attention and after the feed-forward of every layer of both stacks.
Each weight is an affine function of a vector I with 64 entries. The tasks'
vectors are shared by both stacks, everything else is a stack's own.

  plus_plus     HyperFormer++. One set of generators for all adapters of a
                stack; I = LN(MLP([task, layer, block type])). Block type:
                whether the adapter follows attention or the feed-forward.
  per_position  HyperFormer as in the paper's tables. Every adapter has its own
                generators; I is the task's vector, an MLP's output on a
                trained seed with 512 entries.
  released      the configuration that was released with the code. One set of
                generators for each block type; I = LN(MLP([task, layer])).

The paper's parameter counts of HyperFormer can be reached only with
`per_position`; the released configuration has about a twelfth of them at base.

The gain of the adapter's LayerNorm is generated as it is, without 1 added. At
the start, the entries of I have unit size after its LayerNorm, and generated
weights are normal with deviation 0.08 (8 x 0.01): an adapter starts as the
identity with a perturbation of that size, which the LayerNorm of the adapter
and the small gain keep there whatever the weights before them do. With
`per_position` there is no LayerNorm on I, and the start is much nearer still to
the plain T5.

All adapters of a stack are generated at once, before its layers, once per step
and once per decoded batch. A row then takes those of its own task, so that the
tasks may be mixed in a batch (the original draws batches of one task). They are
made for every task, or for every row if there are fewer rows than tasks:
min(B, T) sets of float32 weights per stack, of 2 N R D + N (3 D + R) numbers
for each of the two block types. That is 3.8 MB per task and stack in
T5-base and 13 MB in T5-11B, so 0.4 GB there for 16 tasks in both stacks.
"""

import dataclasses
from typing import Literal, get_args

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hypergrid_jax import errors, types
from hypergrid_jax.methods import adapter_layer, folding
from hypergrid_jax.model import conditioning, extension, layers

Variant = Literal['plus_plus', 'per_position', 'released']
BLOCK_TYPES = ('attention', 'feed_forward')
EPSILON = 1e-6  # of the LayerNorm on I


@dataclasses.dataclass(frozen=True)
class HyperFormer:
  """Hyper-parameters of HyperFormer.

  Attributes:
    variant: what the adapters share, see the module's text.
    reduction_factor: the bottleneck is d_model // reduction_factor wide. The
      paper's tables are of 32.
    embed_dim: entries of I, and of every task's, layer's and block type's
      vector.
    hidden_dim: hidden units of the MLP.
    seed_dim: entries of a task's seed; used by `per_position` alone.
  """

  variant: Variant = 'plus_plus'
  reduction_factor: int = 32
  embed_dim: int = 64
  hidden_dim: int = 128
  seed_dim: int = 512

  def __post_init__(self):
    errors.check_choice('HyperFormer.variant', self.variant, get_args(Variant))
    for name in ('embed_dim', 'hidden_dim', 'seed_dim'):
      if getattr(self, name) < 1:
        raise errors.UserError(
          f'HyperFormer.{name}: got {getattr(self, name)}, expected at least 1.'
        )

  def fold(self, config, params: folding.Leaves, task_id: int):
    """Refuses; see `folding`.

    Raises:
      UserError: always.
    """
    del config, params, task_id
    raise folding.not_plain(
      'HyperFormer', 'a plain T5 has no generated adapters after its sub-layers'
    )

  def extension_points(self) -> extension.ExtensionPoints:
    """Returns the points of T5 that this method replaces."""

    def task_vectors(site, *, rngs):
      if self.variant == 'per_position':
        return SeededTasks(self, site.num_tasks, rngs=rngs)
      return TaskTable(site.num_tasks, self.embed_dim, rngs=rngs)

    def condition(site, *, rngs):
      return GENERATORS[self.variant](self, site, rngs=rngs)

    return extension.ExtensionPoints(
      task_vectors=task_vectors,
      condition=condition,
      after_attention=_generated('attention'),
      after_feed_forward=_generated('feed_forward'),
    )


def _generated(
  block_type: str,
) -> extension.Factory[extension.Transform]:
  """Returns the point behind one sub-layer; it has no parameters itself."""

  def apply(y, cond):
    weights = cond.per_layer[block_type]
    if cond.shared is not None:
      weights = adapter_layer.of_rows(weights, cond.shared)
    return adapter_layer.apply_adapter(y, weights)

  def factory(site, *, rngs):
    del site, rngs
    return apply

  return factory


class Affine(nnx.Module):
  """x kernel + bias; the kernel starts at normal(0, 0.01^2), the bias at 0.

  Args:
    inputs: entries of x.
    outputs: size by logical axis of the output, of any rank.
    num_layers: None for one map; N for one map per layer, when x and the
      output have a leading axis of N layers.
    rngs: the source of the initial values.
  """

  def __init__(
    self,
    inputs: int,
    outputs: dict[str, int],
    num_layers: int | None = None,
    *,
    rngs: nnx.Rngs,
  ):
    shape, axes = tuple(outputs.values()), tuple(outputs)
    lead, lead_axis = (), ()
    if num_layers is not None:
      lead, lead_axis = (num_layers,), ('layers',)
    self.kernel = layers.parameter(
      rngs,
      (*lead, inputs, *shape),
      (*lead_axis, 'task_embed', *axes),
      stddev=adapter_layer.STDDEV,
      stream='method',
    )
    self.bias = layers.parameter(rngs, (*lead, *shape), (*lead_axis, *axes))
    self.stacked = num_layers is not None

  def __call__(self, x: Float[Array, 'N T E']) -> Float[Array, 'N T ...']:
    """Applies each layer's own map, or the one that all layers share."""
    kernel, bias = self.kernel[...], self.bias[...]
    if self.stacked:
      return jnp.einsum('nte,ne...->nt...', x, kernel) + bias[:, None]
    return jnp.einsum('nte,e...->nt...', x, kernel) + bias[None, None]


class Mlp(nnx.Module):
  """Affine, ReLU, affine."""

  def __init__(self, inputs: int, method: HyperFormer, *, rngs: nnx.Rngs):
    hidden, outputs = method.hidden_dim, method.embed_dim
    self.first = Affine(inputs, {'task_embed': hidden}, rngs=rngs)
    self.second = Affine(hidden, {'task_embed': outputs}, rngs=rngs)

  def __call__(self, x: Float[Array, 'N T A']) -> Float[Array, 'N T E']:
    """Applies the MLP to the last axis."""
    return self.second(jax.nn.relu(self.first(x)))


class LayerNorm(nnx.Module):
  """LayerNorm with mean, gain and bias, on I."""

  def __init__(self, size: int, *, rngs: nnx.Rngs):
    self.scale = layers.parameter(rngs, (size,), ('task_embed',), constant=1.0)
    self.bias = layers.parameter(rngs, (size,), ('task_embed',))

  def __call__(self, x: Float[Array, 'N T E']) -> Float[Array, 'N T E']:
    """Normalises the last axis."""
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + EPSILON)
    return x * self.scale[...][None, None] + self.bias[...][None, None]


class TaskTable(conditioning.TaskEmbedding):
  """A trained vector per task, for both stacks."""

  def __call__(self) -> Float[Array, 'T E']:
    """Returns the vectors of all tasks."""
    return self.embedding[...]


class SeededTasks(TaskTable):
  """A trained seed per task, and an MLP from it to the task's vector."""

  def __init__(self, method: HyperFormer, num_tasks: int, *, rngs: nnx.Rngs):
    super().__init__(num_tasks, method.seed_dim, rngs=rngs)
    self.mlp = Mlp(method.seed_dim, method, rngs=rngs)

  def __call__(self) -> Float[Array, 'T E']:
    """Returns the vectors of all tasks."""
    return self.mlp(self.embedding[...][None])[0]


class Generators(nnx.Module):
  """One affine map for each weight of an adapter."""

  def __init__(
    self,
    method: HyperFormer,
    site: extension.Site,
    num_layers: int | None = None,
    *,
    rngs: nnx.Rngs,
  ):
    d_model = site.config.d_model
    width = adapter_layer.width('HyperFormer', d_model, method.reduction_factor)
    self.names = tuple(adapter_layer.weight_shapes(d_model, width))
    for name, sizes in adapter_layer.weight_shapes(d_model, width).items():
      affine = Affine(method.embed_dim, sizes, num_layers, rngs=rngs)
      setattr(self, name, affine)

  def __call__(self, x: Float[Array, 'N T E']) -> adapter_layer.AdapterWeights:
    """Returns the adapters of all layers and tasks; leaves are [N, T, ...]."""
    weights = {name: getattr(self, name)(x) for name in self.names}
    return adapter_layer.AdapterWeights(**weights)


class Source(nnx.Module):
  """Computes I from vectors of the task, the layer and the block type."""

  def __init__(
    self,
    num_vectors: int,
    method: HyperFormer,
    site: extension.Site,
    *,
    rngs: nnx.Rngs,
  ):
    size = method.embed_dim
    self.layer_ids = layers.parameter(
      rngs,
      (site.num_layers, size),
      ('layers', 'task_embed'),
      stddev=1.0,
      stream='method',
    )
    self.mlp = Mlp(num_vectors * size, method, rngs=rngs)
    self.norm = LayerNorm(size, rngs=rngs)

  def __call__(
    self, tasks: Float[Array, 'T E'], *more: Float[Array, ' E']
  ) -> Float[Array, 'N T E']:
    """Returns LN(MLP([task, layer, *more])) for every layer and task."""
    shape = (len(self.layer_ids[...]), *tasks.shape)
    vectors = [tasks[None], self.layer_ids[...][:, None]]
    vectors += [vector[None, None] for vector in more]
    vectors = [jnp.broadcast_to(vector, shape) for vector in vectors]
    return self.norm(self.mlp(jnp.concatenate(vectors, axis=-1)))


class AdapterGenerator(nnx.Module):
  """Generates the adapters of all layers of one stack; a class per variant."""

  def __init__(self, site: extension.Site):
    self.num_tasks, self.num_layers = site.num_tasks, site.num_layers

  def __call__(self, inputs: extension.ConditionInputs) -> types.Conditioning:
    """Returns adapters per task with the rows' task ids, or per row."""
    tasks, rows = inputs.task_vectors, inputs.task_ids
    if len(rows) < self.num_tasks:
      tasks, rows = adapter_layer.of_rows(tasks, rows), None
    per_layer = {name: self.generate(name, tasks) for name in BLOCK_TYPES}
    return types.Conditioning(shared=rows, per_layer=per_layer)

  def generate(
    self, block_type: str, tasks: Float[Array, 'T E']
  ) -> adapter_layer.AdapterWeights:
    """Returns the adapters of one block type; leaves are [N, T, ...]."""
    raise NotImplementedError


class PlusPlus(AdapterGenerator):
  """One set of generators for both block types."""

  def __init__(
    self, method: HyperFormer, site: extension.Site, *, rngs: nnx.Rngs
  ):
    super().__init__(site)
    self.source = Source(3, method, site, rngs=rngs)
    self.block_types = BlockTypes(method.embed_dim, rngs=rngs)
    self.generators = Generators(method, site, rngs=rngs)

  def generate(self, block_type, tasks):
    """See `AdapterGenerator`."""
    vector = getattr(self.block_types, block_type)[...]
    return self.generators(self.source(tasks, vector))


class Released(AdapterGenerator):
  """Generators for each block type, shared by the layers."""

  def __init__(
    self, method: HyperFormer, site: extension.Site, *, rngs: nnx.Rngs
  ):
    super().__init__(site)
    self.source = Source(2, method, site, rngs=rngs)
    self.attention = Generators(method, site, rngs=rngs)
    self.feed_forward = Generators(method, site, rngs=rngs)

  def generate(self, block_type, tasks):
    """See `AdapterGenerator`."""
    return getattr(self, block_type)(self.source(tasks))


class PerPosition(AdapterGenerator):
  """Generators for each block type of each layer; I is the task's vector."""

  def __init__(
    self, method: HyperFormer, site: extension.Site, *, rngs: nnx.Rngs
  ):
    super().__init__(site)
    self.attention = Generators(method, site, site.num_layers, rngs=rngs)
    self.feed_forward = Generators(method, site, site.num_layers, rngs=rngs)

  def generate(self, block_type, tasks):
    """See `AdapterGenerator`."""
    shape = (self.num_layers, *tasks.shape)
    return getattr(self, block_type)(jnp.broadcast_to(tasks[None], shape))


class BlockTypes(nnx.Module):
  """A trained vector for each block type."""

  def __init__(self, size: int, *, rngs: nnx.Rngs):
    for name in BLOCK_TYPES:
      vector = layers.parameter(
        rngs, (size,), ('task_embed',), stddev=1.0, stream='method'
      )
      setattr(self, name, vector)


GENERATORS: dict[str, type[AdapterGenerator]] = {
  'plus_plus': PlusPlus,
  'released': Released,
  'per_position': PerPosition,
}
