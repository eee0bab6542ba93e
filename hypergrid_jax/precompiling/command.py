"""The verb: compile the programs of a run, and say what they take."""

import contextlib
import dataclasses
import json
import os
import typing
from typing import Any, Literal

import jax
from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax import files
from hypergrid_jax.precompiling import (
  advice,
  analytic,
  measures,
  programs,
  report,
  topologies,
)

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig

FITS, DOES_NOT_FIT = 0, 1


def precompile(
  run: 'RunConfig',
  topology_name: str,
  *,
  slices: int | None = None,
  program: Literal['train', 'decode'] | None = None,
  quick: bool = False,
  json_file: str | os.PathLike[str] | None = None,
  console: Console,
) -> int:
  """Compiles the training and the decoding step of a run.

  Args:
    run: the configuration.
    topology_name: see `topologies.find`.
    slices: how many such slices; None as in the configuration.
    program: compile only this one; None for both.
    quick: let the compiler optimise less; see `--help`.
    json_file: where to write everything as JSON.
    console: for what a person sees.

  Returns:
    The exit code: 1 when the training or the decoding step does not fit.

  Raises:
    UserError: the topology does not exist or the run does not fit its mesh.
  """
  if slices is not None:
    mesh = dataclasses.replace(run.mesh, slices=slices)
    run = dataclasses.replace(run, mesh=mesh)
  topology = topologies.find(topology_name, slices=run.mesh.slices)
  parts = programs.build(run, topology)
  expected = analytic.training_flops(
    parts.model.config,
    rows=run.data.batch_size,
    row_lengths=run.data.row_lengths,
  )
  facts: dict[str, Any] = {
    'topology': topology.name,
    'slices': topology.slices,
    'devices': len(topology.devices),
    'mesh': dict(parts.mesh.shape),
    'optimization_level': 'O1' if quick else 'default',
    'analytic_flops': report.analytic_json(expected),
  }
  console_lib.say(
    console,
    f'{topology}, {len(topology.devices)} devices, mesh'
    f' {" x ".join(f"{k} {n}" for k, n in parts.mesh.shape.items())}.'
    " All numbers are the compiler's, or calculated; none is measured.",
  )
  with _optimising('O1' if quick else None):
    fits = True
    if program != 'decode':
      fits = _train(parts, topology, expected, facts, console)
    if program != 'train':
      fits = _decode(parts, topology, facts, console) and fits
  if json_file is not None:
    files.write_text(json_file, json.dumps(facts, indent=2) + '\n')
  return FITS if fits else DOES_NOT_FIT


@contextlib.contextmanager
def _optimising(level: str | None):
  """Sets how hard the compiler tries; None leaves that as it is."""
  name = 'jax_optimization_level'
  before = getattr(jax.config, name)
  if level is not None:
    jax.config.update(name, level)
  try:
    yield
  finally:
    jax.config.update(name, before)


def _train(parts, topology, expected, facts, console) -> bool:
  steps = parts.run.train.num_steps
  try:
    measured = measures.training(parts, topology)
  except programs.DoesNotFitError as error:
    report.show_overflow('The training step', error, console=console)
    facts['train'] = {'fits': False, 'needed': error.needed}
    facts['advice'] = _advise(
      parts.run, topology, advice.for_training, measures.training, console
    )
    return False
  report.show_program(
    'Training step',
    measured,
    analytic_flops=expected,
    devices=len(topology.devices),
    console=console,
  )
  report.show_chip_hours(measured, topology, steps, console=console)
  facts['train'] = {
    'fits': True,
    **measured.as_json(),
    'steps': steps,
    'chip_hours': measures.chip_hours(measured, topology, steps),
  }
  return True


def _decode(parts, topology, facts, console) -> bool:
  try:
    measured = measures.decoding(parts, topology)
  except programs.DoesNotFitError as error:
    report.show_overflow('Decoding', error, console=console)
    facts['decode'] = {'fits': False, 'needed': error.needed}
    facts['decode_advice'] = _advise(
      parts.run, topology, advice.for_decoding, measures.decoding, console
    )
    return False
  report.show_program(
    'Decoding one evaluation batch',
    measured,
    devices=len(topology.devices),
    console=console,
  )
  facts['decode'] = {'fits': True, **measured.as_json()}
  return True


def _advise(run, topology, changes, measure, console) -> list[dict[str, Any]]:
  """Tries what makes a program fit, and says it."""
  console_lib.say(console, 'Trying what makes it fit, the cheapest first:')
  tried = []

  def show(one):
    tried.append(one)
    report.show_tried(one, console=console)

  fitting = advice.find(
    run,
    topology,
    changes=changes(run, len(topology.devices)),
    measure=measure,
    report=show,
  )
  if fitting:
    console_lib.say(console, f'Set {fitting[0].change} to make it fit.')
  else:
    more = topologies.larger(topology)
    hint = f' The next larger slice, {more}, was not tried.' if more else ''
    console_lib.say(console, f'None of these fits on {topology}.{hint}')
  return [report.tried_json(one) for one in tried]
