"""A checkpoint of ours into a directory for Hugging Face transformers.

What is written is read back and run beside the original before it appears.
"""

import dataclasses
import functools
import os
import pathlib
import typing

import jax
import numpy as np
from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax import files as files_lib
from hypergrid_jax import trees, types
from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import (
  hf_tokenizer,
  hf_writer,
  importing,
  names,
  opening,
  trained,
)
from hypergrid_jax.methods import folding
from hypergrid_jax.model import Model
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.tasks import vocabularies

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig

# Largest difference of two float32 logits, over the largest logit: rounding,
# also of sums over 65,536 hidden units.
TOLERANCE = 1e-4
_ROWS, _INPUT_LENGTH, _TARGET_LENGTH = 4, 21, 9  # of the comparison


def export(
  run: 'RunConfig | None',
  model_dir: str | os.PathLike[str],
  output: str | os.PathLike[str],
  *,
  task: str | None = None,
  step: int | str = 'best',
  max_shard_size: int,
  vocab_rows: int | None = None,
  console: Console,
) -> None:
  """Writes a plain T5 that computes what the checkpoint does.

  Args:
    run: the run's own configuration; None for a directory that was imported
      without one.
    model_dir: the directory.
    output: the directory to make.
    task: the one that the T5 is for; None for a model without a method, whose
      function is the same for all tasks.
    step: a step number or 'best'.
    max_shard_size: bytes of a file at most, if one tensor is not larger.
    vocab_rows: the first rows of the vocabulary, to leave out what was added
      to it; None for all, or those that were imported.
    console: for what a person sees.

  Raises:
    UserError: no plain T5 computes it, or there is no such task or checkpoint.
  """
  files_lib.check_is_free(output)
  if run is not None and run.method is not None and task is None:
    raise UserError(
      'The model has a method, with which it is another function for each task.'
      ' Name one with --task; what a plain T5 cannot be is then said by name.'
    )
  source = trained.load(run, model_dir, step=step)
  task_id = 0 if task is None else source.task_id(task)
  params = folding.fold(
    source.method,
    source.model.config,
    source.params,
    task_id,
    plain=source.model.plain,
  )
  rows = _rows_to_keep(source, vocab_rows)
  config = dataclasses.replace(source.model.config, vocab_size=rows)
  params = {path: _first_rows(path, v, rows) for path, v in params.items()}
  with files_lib.new_directory(output) as directory:
    files = hf_writer.write_model(
      directory, config, params, max_shard_size=max_shard_size
    )
    has_tokenizer = source.vocabulary is not None and (
      hf_tokenizer.write(directory, source.vocabulary)
    )
    difference, largest = compare(source, task_id, config, directory)
    if difference > TOLERANCE * max(largest, 1.0):
      raise RuntimeError(
        f'the exported T5 differs from the original by {difference:.3g} in'
        f' logits of up to {largest:.3g}; {output} is not written'
      )
  tokenizer = 'tokenizer of the run'
  if not has_tokenizer:
    tokenizer = 'no tokenizer, which only SentencePiece unigrams have'
  lines = [
    f'Wrote {output}: step {source.step}, {", ".join(files)}; {tokenizer}.',
    f'Read back and compared on {_ROWS} rows: logits differ by at most'
    f' {difference:.3g} (largest logit {largest:.3g}).',
  ]
  console_lib.say(console, '\n'.join(lines))


def compare(
  source: trained.Trained,
  task_id: int,
  config: T5Config,
  directory: pathlib.Path,
) -> tuple[float, float]:
  """Runs the original and what was written side by side, in float32.

  Args:
    source: the original.
    task_id: of the rows.
    config: of what was written.
    directory: where it is.

  Returns:
    The largest difference of two logits, and the largest logit.
  """
  batch = sample_rows(config.vocab_size, task_id)
  ours = logits(source.model, trees.unflatten(source.params), batch)
  written = opening.open_source(directory)
  theirs = opening.check_tensors(written)
  leaves = importing.of_source(written, theirs, theirs.vocab_size)
  params = {path: leaf.load() for path, leaf in leaves.items()}
  plain = source.model  # compiled already
  if plain.added or not importing.same_function(plain.config, theirs):
    plain = Model(dataclasses.replace(theirs, dtype='float32'))
  read = logits(plain, trees.unflatten(params), batch)
  ours = ours[..., : config.vocab_size]
  real = batch.decoder_segment_ids > 0
  difference = np.abs(ours - read)[real].max()
  return float(difference), float(np.abs(ours[real]).max())


def logits(
  model: Model, params: types.Params, batch: types.Batch
) -> np.ndarray:
  """Teacher-forced logits [B, L, V], float32."""
  return np.asarray(_program(model)(params, batch), np.float32)


@functools.lru_cache(maxsize=2)
def _program(model: Model):
  return jax.jit(lambda params, batch: model.bind(params)(batch))


def sample_rows(vocab_rows: int, task_id: int) -> types.Batch:
  """Rows of different lengths with ids of the whole vocabulary."""
  rng = np.random.default_rng(0)

  def side(length):
    lengths = length - np.arange(_ROWS) * length // (_ROWS + 1)
    ids = np.arange(length) < lengths[:, None]
    tokens = rng.integers(2, max(vocab_rows, 3), (_ROWS, length))
    tokens = np.where(ids, np.minimum(tokens, vocab_rows - 1), 0)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
    return tokens.astype(np.int32), ids.astype(np.int32), positions

  inputs, encoder_ids, encoder_positions = side(_INPUT_LENGTH)
  targets, decoder_ids, decoder_positions = side(_TARGET_LENGTH)
  return types.Batch(
    encoder_input_tokens=inputs,
    encoder_segment_ids=encoder_ids,
    encoder_positions=encoder_positions,
    encoder_segment_starts=np.zeros((_ROWS, 1), np.int32),
    decoder_input_tokens=np.pad(targets[:, :-1], ((0, 0), (1, 0))),
    decoder_target_tokens=targets,
    decoder_segment_ids=decoder_ids,
    decoder_positions=decoder_positions,
    decoder_loss_weights=decoder_ids.astype(np.float32),
    task_ids=np.full(_ROWS, task_id, np.int32),
  )


def _rows_to_keep(source: trained.Trained, asked: int | None) -> int:
  there = source.model.config.vocab_size
  ids = 2
  if source.vocabulary is not None:
    ids = vocabularies.load_vocabulary(source.vocabulary).size
  rows = asked or max(source.vocabulary_rows or there, ids)
  if not ids <= rows <= there:
    raise UserError(
      f'--vocab_rows={rows}: the vocabulary has {ids} ids and the model {there}'
      ' rows; expected a number from the one to the other.'
    )
  return rows


def _first_rows(path: str, value: np.ndarray, rows: int) -> np.ndarray:
  axis = names.vocabulary_axis(path)
  if axis is None:
    return value
  return value[:rows] if axis == 0 else value[:, :rows]
