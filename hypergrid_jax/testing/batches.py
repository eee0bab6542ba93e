"""Small hand-made batches: rows of examples, packed or one to a row."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from hypergrid_jax import trees, types


@dataclasses.dataclass(frozen=True)
class Example:
  """One example, its token ids as a model sees them."""

  inputs: tuple[int, ...]
  targets: tuple[int, ...]
  task: int = 0


Rows = Sequence[Sequence[Example]]

# Four rows of three, two, one and one examples: (input, target) lengths.
UNEVEN = (
  ((3, 2), (1, 1), (4, 3)),
  ((2, 4), (5, 2)),
  ((6, 3),),
  ((4, 2),),
)
TASKS = (3, 0, 3, 1)
NUM_TASKS = 5
LENGTHS = (9, 7)
NUM_SEGMENTS = 3


def rows(
  *, vocab_size: int, seed: int = 0, sizes=UNEVEN, tasks=TASKS
) -> list[list[Example]]:
  """Rows of random examples with the given sizes; ids from 2 up."""
  rng = np.random.default_rng(seed)

  def ids(length):
    return tuple(rng.integers(2, vocab_size, length).tolist())

  return [
    [Example(ids(n), ids(m), task) for n, m in row]
    for row, task in zip(sizes, tasks, strict=True)
  ]


def alone(packed: Rows) -> list[list[Example]]:
  """The same examples, in order, one to a row."""
  return [[example] for row in packed for example in row]


def batch(
  examples: Rows,
  *,
  lengths: tuple[int, int] = LENGTHS,
  num_segments: int = NUM_SEGMENTS,
  num_rows: int | None = None,
) -> types.Batch:
  """Lays rows of examples out as a batch; missing rows are padding."""
  count = len(examples) if num_rows is None else num_rows
  encoder, decoder = ((count, length) for length in lengths)
  tokens, ids, positions = (np.zeros(encoder, np.int32) for _ in range(3))
  starts = np.zeros((count, num_segments), np.int32)
  inputs, targets, target_ids, target_positions = (
    np.zeros(decoder, np.int32) for _ in range(4)
  )
  for b, row in enumerate(examples):
    for s, span, target_span in spans(row):
      example = row[s]
      tokens[b, span] = example.inputs
      ids[b, span] = s + 1
      positions[b, span] = range(len(example.inputs))
      starts[b, s] = span.start
      targets[b, target_span] = example.targets
      inputs[b, target_span] = (0, *example.targets[:-1])
      target_ids[b, target_span] = s + 1
      target_positions[b, target_span] = range(len(example.targets))
  tasks = [row[0].task if row else 0 for row in examples]
  tasks += [0] * (count - len(tasks))
  return types.Batch(
    encoder_input_tokens=tokens,
    encoder_segment_ids=ids,
    encoder_positions=positions,
    encoder_segment_starts=starts,
    decoder_input_tokens=inputs,
    decoder_target_tokens=targets,
    decoder_segment_ids=target_ids,
    decoder_positions=target_positions,
    decoder_loss_weights=(target_ids > 0).astype(np.float32),
    task_ids=np.array(tasks, np.int32),
  )


def spans(row: Sequence[Example]):
  """Yields (segment from 0, encoder slice, decoder slice) of a row."""
  at = target_at = 0
  for s, example in enumerate(row):
    end, target_end = at + len(example.inputs), target_at + len(example.targets)
    yield s, slice(at, end), slice(target_at, target_end)
    at, target_at = end, target_end


def random_params(abstract, *, seed: int = 0, dtype=np.float64):
  """Parameters far from their initial values, so that every gate acts.

  Norm scales are near 1, embeddings near unit size and kernels near
  1/sqrt(fan-in), which keeps activations of order one.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    values = rng.standard_normal(leaf.shape)
    if path.endswith('scale'):
      values = 1 + 0.3 * values
    elif leaf.ndim > 1 and not path.endswith('embedding'):
      values = values * leaf.shape[-2] ** -0.5
    return values.astype(dtype)

  return trees.map_with_path(draw, abstract)
