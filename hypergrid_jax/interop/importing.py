"""T5 weights of other programs into a checkpoint of ours."""

from collections.abc import Mapping
import dataclasses
import functools
import pathlib
import typing
from typing import Any

import jax
import numpy as np
from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax import files, trees
from hypergrid_jax.checkpoints import streaming
from hypergrid_jax.checkpoints.streaming import Deferred
from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import locations, names, opening, run_files
from hypergrid_jax.interop.sources import Source
from hypergrid_jax.model import Model
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.runs import setup

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig

# What makes one T5 another function; the rest is how it is run and trained.
FUNCTION_FIELDS = (
  'd_model',
  'd_ff',
  'num_heads',
  'd_kv',
  'num_layers',
  'num_decoder_layers',
  'relative_buckets',
  'relative_max_distance',
  'mlp_activations',
  'logits_via_embedding',
  'layer_norm_epsilon',
)


def same_function(one: T5Config, other: T5Config) -> bool:
  """Tells whether two T5s compute the same from the same parameters."""
  fields = (*FUNCTION_FIELDS, 'vocab_size')
  return all(getattr(one, field) == getattr(other, field) for field in fields)


def import_weights(
  name: str,
  target: str | pathlib.Path,
  *,
  run: 'RunConfig | None' = None,
  config_text: str = '',
  vocab_rows: int | None = None,
  console: Console,
) -> None:
  """Writes a checkpoint that a run can start from.

  With a run, the target is that run's directory at step 0: its method's own
  parameters are drawn as training would draw them, and it can be evaluated.

  Args:
    name: a path, a bucket's URL or a model of the hub.
    target: the directory to make.
    run: whose method and tasks to prepare; None for a plain T5.
    config_text: the run's operative configuration.
    vocab_rows: rows of the embedding; None is the next multiple of 128.
    console: for what a person sees.

  Raises:
    UserError: the weights are damaged or not those of a T5, or not of the run's
      sizes. Nothing is written.
  """
  files.check_is_free(target)
  source = opening.open_source(locations.resolve(name))
  theirs = opening.check_tensors(source)
  model = None if run is None else run_files.model_of(run)
  config = fitted(theirs, source.place, run, model, vocab_rows)
  leaves = of_source(source, theirs, config.vocab_size)
  console_lib.say(console, _summary(source, theirs, config))
  with files.new_directory(target) as directory:
    if run is not None and model is not None:
      leaves |= drawn(model, run.train.seed)
      run_files.write(run, directory, config_text, console=console)
    else:
      text = gin_text(config, source.place)
      files.write_text(directory / 'model.gin', text)
    meta = {
      'model': dataclasses.asdict(config),
      'vocabulary_rows': theirs.vocab_size,
      'imported_from': source.place,
    }
    write(directory, leaves, meta, console=console)
  console_lib.say(console, _next_step(target, run))


def show_plan(
  name: str,
  *,
  run: 'RunConfig | None' = None,
  vocab_rows: int | None = None,
  console: Console,
) -> None:
  """Prints every tensor that would be read and where it would go.

  Reads only metadata; of transformers' models config.json alone will do.

  Raises:
    UserError: see `import_weights`.
  """
  source = opening.open_source(locations.resolve(name), plan=True)
  theirs = opening.check_tensors(source)
  model = None if run is None else run_files.model_of(run)
  config = fitted(theirs, source.place, run, model, vocab_rows)
  for row in names.rows(theirs):
    for number, original in enumerate(row.names[source.format]):
      tensor = source.tensors[_there(source, original)]
      part = f'[{number}]' if row.is_stacked else ''
      console_lib.say(
        console,
        f'{original}  {tensor.dtype} {list(tensor.shape)}  {tensor.file}  ->'
        f' {row.path}{part}',
      )
  leaves = of_source(source, theirs, config.vocab_size)
  if model is not None:
    shapes = trees.flatten(model.abstract_params)
    for path in sorted(model.added):
      console_lib.say(console, f'new  {list(shapes[path].shape)}  -> {path}')
  sizes = [leaf.nbytes for leaf in leaves.values()]
  console_lib.say(console, _summary(source, theirs, config))
  console_lib.say(
    console,
    f'{sum(sizes) / 1e9:.2f} GB to write as float32; the largest array, held in'
    f' memory while it is written, has {max(sizes) / 1e9:.2f} GB.',
  )


def fitted(
  theirs: T5Config,
  place: str,
  run: 'RunConfig | None',
  model: Model | None,
  vocab_rows: int | None,
) -> T5Config:
  """The sizes of what is written: theirs, with the rows asked for.

  Raises:
    UserError: the run's T5 is another one; with every difference.
  """
  rows = theirs.vocab_size
  if model is None:
    multiple = setup.VOCABULARY_MULTIPLE
    wanted = vocab_rows or -(-rows // multiple) * multiple
    if wanted < rows:
      raise UserError(
        f'--vocab_rows={wanted}: {place} has {rows} rows, of which none is left'
        ' out.'
      )
    return dataclasses.replace(theirs, vocab_size=wanted)
  ours = model.config
  different = [
    f'  T5Config.{field} = {getattr(ours, field)!r}, the weights have'
    f' {getattr(theirs, field)!r}'
    for field in FUNCTION_FIELDS
    if getattr(ours, field) != getattr(theirs, field)
  ]
  if ours.vocab_size < rows or (vocab_rows or ours.vocab_size) != (
    ours.vocab_size
  ):
    different.append(
      f'  T5Config.vocab_size = {ours.vocab_size}, the weights have {rows}'
      ' rows: name their vocabulary with --vocab, or set T5Config.vocab_size'
    )
  if different:
    raise UserError(
      f'The run is of another T5 than {place}:\n' + '\n'.join(different)
    )
  return ours


def of_source(
  source: Source, theirs: T5Config, vocab_rows: int
) -> dict[str, Deferred]:
  """Every parameter of the plain T5, read when it is its turn."""

  def leaf(row: names.Row) -> Deferred:
    shape = tuple(
      vocab_rows if axis == names.vocabulary_axis(row.path) else size
      for axis, size in enumerate(row.shape)
    )
    load = functools.partial(_load, source, row, vocab_rows)
    return Deferred(shape, np.dtype(np.float32), load)

  return {row.path: leaf(row) for row in names.rows(theirs)}


def drawn(model: Model, seed: int) -> dict[str, Deferred]:
  """The method's own parameters as a new run of this seed has them."""

  def added(key):
    return trees.select(model.init(key), model.added)

  values = jax.jit(added)(jax.random.key(seed))
  return {
    path: streaming.of_array(value)
    for path, value in trees.flatten(values).items()
  }


def write(
  directory: pathlib.Path,
  leaves: Mapping[str, Deferred],
  meta: Mapping[str, Any],
  *,
  console: Console,
) -> None:
  """Writes parameters as the checkpoint of step 0, and shows how far it is."""
  done, total = 0, sum(leaf.nbytes for leaf in leaves.values())
  with console_lib.bar(console, 'writing MB', total // 10**6) as bar:

    def written(leaf):
      nonlocal done
      done += leaf.nbytes
      bar.update(done // 10**6)

    streaming.write_params(directory, leaves, meta, written=written)


def gin_text(config: T5Config, place: str) -> str:
  """The sizes as a gin file, to be read after the one of a run."""
  lines = [
    f'T5Config.{field} = {getattr(config, field)!r}'
    for field in (*FUNCTION_FIELDS, 'vocab_size')
  ]
  return f'# The T5 of {place}.\n' + '\n'.join(lines) + '\n'


def _there(source: Source, name: str) -> str:
  """The tensor itself, or the copy that stands in for it."""
  if name in source.tensors:
    return name
  return next(c for c in source.copies[name] if c in source.tensors)


def _load(source: Source, row: names.Row, vocab_rows: int) -> np.ndarray:
  """Reads one of our parameters from all of its tensors."""
  parts = row.names[source.format]
  if row.is_stacked:
    value = np.empty(row.shape, np.float32)
    for number, name in enumerate(parts):
      value[number] = row.to_ours(_read(source, name), source.format)
    return value
  value = row.to_ours(_read(source, parts[0]), source.format)
  axis = names.vocabulary_axis(row.path)
  if axis is None or value.shape[axis] == vocab_rows:
    return np.ascontiguousarray(value)
  # Rows without a token repeat the padding's: their logits equal those of id 0,
  # so that the likeliest id stays what it was.
  shape = list(value.shape)
  shape[axis] = vocab_rows - shape[axis]
  padding = np.broadcast_to(np.take(value, [0], axis=axis), shape)
  return np.concatenate([value, padding], axis=axis)


def _read(source: Source, name: str) -> np.ndarray:
  """Reads a tensor as float32; it must be finite and equal to its copies."""
  there = _there(source, name)
  value = source.read(there).astype(np.float32, copy=False)
  if not np.isfinite(value).all():
    bad = int((~np.isfinite(value)).sum())
    raise UserError(
      f'{source.place}: {there} has {bad} values that are infinite or not a'
      ' number. Nothing was written.'
    )
  for copy in source.copies.get(name, ()):
    if copy in source.tensors and copy != there:
      other = source.read(copy).astype(np.float32, copy=False)
      if not np.array_equal(value, other):
        raise UserError(
          f'{source.place}: {copy} and {there} differ, but the model has one'
          ' table for both. Nothing was written.'
        )
  return value


def _summary(source: Source, theirs: T5Config, config: T5Config) -> str:
  added = config.vocab_size - theirs.vocab_size
  lines = [
    f'{source.place}: {len(source.tensors)} tensors of a T5, d_model'
    f' {theirs.d_model}, {theirs.num_layers} + {theirs.num_decoder_layers}'
    f' layers, {theirs.vocab_size} rows.'
  ]
  if added:
    lines.append(
      f'{added} rows added to the vocabulary, as copies of the padding id.'
    )
  lines += [f'Left out: {what}.' for what in source.ignored]
  return '\n'.join(lines)


def _next_step(target: str | pathlib.Path, run: 'RunConfig | None') -> str:
  if run is None:
    return (
      f'Wrote {target}. Start from it: hypergrid train --gin_file=RUN.gin'
      f' --gin_file={target}/model.gin train.initial_checkpoint={target}'
    )
  return (
    f'Wrote {target}, a run at step 0. Train it elsewhere, with the same gin'
    f' files and train.initial_checkpoint={target}; hypergrid eval and predict'
    ' read it as it is.'
  )
