"""Small token stores whose examples can be told apart by their tokens."""

import numpy as np

from hypergrid_jax.data import tokens

EOS = 1


def distinct_store(task: str, lengths, *, seed: int = 0) -> tokens.TokenStore:
  """Makes a store of examples with the given (inputs, targets) lengths.

  The first two tokens of an example spell its index, so lengths are at least 3;
  targets carry the index in their first token.
  """
  rng = np.random.default_rng([seed, len(task)])
  inputs, targets = [], []
  for index, (input_length, target_length) in enumerate(lengths):
    high, low = divmod(index, 500)
    filler = rng.integers(2, 600, input_length - 3)
    inputs.append([2 + high, 2 + low, *filler.tolist(), EOS])
    filler = rng.integers(2, 600, target_length - 2)
    targets.append([2 + index, *filler.tolist(), EOS])
  return tokens.memory_store(task, 'train', inputs, targets)


def random_lengths(count: int, mean: float, *, seed: int = 0):
  """Draws lengths as skewed as those of real tasks."""
  rng = np.random.default_rng([seed, count])
  inputs = np.clip(rng.gamma(3.0, mean / 3, count), 3, 60).astype(int)
  return list(zip(inputs, rng.integers(2, 6, count), strict=True))


def segments(batch, line: int):
  """Cuts a row of a batch into its examples: [(inputs, targets), ...].

  Written with loops, from segment ids alone.
  """
  found = []
  for segment in range(1, int(batch.encoder_segment_ids[line].max()) + 1):
    inside = batch.encoder_segment_ids[line] == segment
    inputs = batch.encoder_input_tokens[line][inside]
    inside = batch.decoder_segment_ids[line] == segment
    targets = batch.decoder_target_tokens[line][inside]
    found.append((tuple(inputs.tolist()), tuple(targets.tolist())))
  return found


def examples(store: tokens.TokenStore):
  """Maps each example's inputs to (index, targets)."""
  return {
    tuple(store.inputs(i).tolist()): (i, tuple(store.targets(i).tolist()))
    for i in range(store.num_examples)
  }
