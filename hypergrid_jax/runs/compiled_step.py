"""The train step of a run, compiled before its first batch."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax

from hypergrid_jax import types
from hypergrid_jax.data import candidates
from hypergrid_jax.data import loader as loader_lib
from hypergrid_jax.ops import flops
from hypergrid_jax.parallel import host_rows, partitioning
from hypergrid_jax.runs import batches
from hypergrid_jax.runs import setup as setup_lib
from hypergrid_jax.training import loop, optimizers
from hypergrid_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class StepProgram:
  """A compiled train step.

  Compiled ahead, a step neither compiles twice nor in the middle of a run,
  when its state would be on no disk.

  Attributes:
    compiled: the programs by length of the encoder's rows, in which batches
      differ.
    rows: the rows of a batch that this process contributes.
  """

  compiled: Mapping[int, jax.stages.Compiled]
  rows: host_rows.RowParts

  def step(
    self, state: state_lib.TrainState, batch: types.Batch, key: jax.Array
  ) -> tuple[state_lib.TrainState, loop.StepMetrics]:
    """One step; the buffers of `state` are donated."""
    length = batch.encoder_input_tokens.shape[1]
    return self.compiled[length](state, batch, key)

  @property
  def temporary_bytes(self) -> int | None:
    """Bytes that a device needs beside the state for the longest batch.

    These are activations, gradients and scratch, as the compiler states them;
    None where it does not.
    """
    stats = [program.memory_analysis() for program in self.compiled.values()]
    sizes = [temporary_bytes(each) for each in stats if each is not None]
    return max(sizes, default=None)


def temporary_bytes(stats: Any) -> int:
  """Bytes beside inputs and outputs when a program needs most.

  Args:
    stats: from `jax.stages.Compiled.memory_analysis`.
  """
  if not stats.peak_memory_in_bytes:
    return stats.temp_size_in_bytes
  # The size of all temporaries counts those that are never there together.
  outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
  inputs = stats.argument_size_in_bytes
  return max(stats.peak_memory_in_bytes - inputs - outputs, 0)


def trace_step(
  setup: setup_lib.Setup,
  batch: types.Batch,
  *,
  selector: loop.Selector | None = None,
) -> jax.stages.Traced:
  """Traces the train step of a run for batches like `batch`.

  Args:
    setup: the run; `jax.set_mesh(setup.mesh)` is in force.
    batch: all rows of a batch, of which the shapes matter.
    selector: see `loop.make_train_step`.
  """
  everywhere = partitioning.replicated(setup.mesh)
  step = jax.jit(
    loop.make_train_step(
      setup.model,
      setup.tx,
      setup.run.train,
      trained=setup.trained,
      learning_rate=functools.partial(
        optimizers.learning_rate, setup.run.schedule
      ),
      selector=selector,
      row_sharding=setup.batch_sharding,
    ),
    donate_argnums=0,
    # Otherwise the compiler may return the state with other shardings than it
    # came with, and the next step would need another program.
    out_shardings=(
      jax.tree.map(lambda leaf: leaf.sharding, setup.state),
      everywhere,
    ),
  )
  abstract = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=setup.batch_sharding
    ),
    batch,
  )
  key = jax.eval_shape(jax.random.key, 0)
  return step.trace(setup.state, abstract, key)


def trace_steps(
  setup: setup_lib.Setup,
  loader: loader_lib.Loader | candidates.CandidateLoader,
) -> dict[int, jax.stages.Traced]:
  """Traces the train step for every shape that the loader's batches have.

  Returns:
    The programs by length of the encoder's rows.
  """
  selector = batches.make_selector(
    setup.run, setup.model, loader.tasks, setup.corpus.vocabulary
  )
  return {
    batch.encoder_input_tokens.shape[1]: trace_step(
      setup, batch, selector=selector
    )
    for batch in loader.shapes()
  }


def step_flops(traced: Mapping[int, jax.stages.Traced]) -> dict[str, int]:
  """Counts the matrix products of a step with the longest rows.

  Returns:
    `step` for all of it, and `selection` for the choice of the rows.
  """
  jaxpr = traced[max(traced)].jaxpr.jaxpr
  return {
    'step': flops.matmul_flops(jaxpr),
    'selection': flops.scoped_flops(jaxpr, loop.SELECTION),
  }


def compile_step(
  setup: setup_lib.Setup,
  loader: loader_lib.Loader | candidates.CandidateLoader,
) -> StepProgram:
  """Compiles the train step for every shape that the loader's batches have."""
  return compile_traced(setup, trace_steps(setup, loader))


def compile_traced(
  setup: setup_lib.Setup, traced: Mapping[int, jax.stages.Traced]
) -> StepProgram:
  """Compiles what `trace_steps` has traced."""
  compiled = {
    length: program.lower().compile() for length, program in traced.items()
  }
  return StepProgram(compiled, host_rows.row_parts(setup.batch_sharding))
