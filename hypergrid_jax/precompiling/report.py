"""What `hypergrid precompile` says, on the screen and as JSON."""

from typing import Any

from rich.console import Console
from rich.table import Table

from hypergrid_jax import console as console_lib
from hypergrid_jax.precompiling import (
  advice,
  analytic,
  measures,
  programs,
  topologies,
)

_GIB = 2**30
# Up to here the compiled program does what the analytic count has.
_SAME = 0.03


def show_program(
  title: str,
  measured: measures.Measures,
  *,
  analytic_flops: analytic.Flops | None = None,
  devices: int,
  console: Console,
) -> None:
  """Prints what is known of one program.

  Args:
    title: the program.
    measured: what the compiler made of it.
    analytic_flops: the count from the configuration, to compare.
    devices: how many.
    console: the console to print on.
  """
  console.print(_memory_table(title, measured))
  console_lib.say(console, _flops(measured, analytic_flops, devices))
  console_lib.say(
    console,
    f'Memory traffic: about {_bytes(measured.costs.bytes)} per device.',
  )
  if measured.costs.uncounted_kernels:
    console_lib.say(
      console,
      f'{measured.costs.uncounted_kernels} kernel runs declare no FLOPs and are'
      ' not in these numbers.',
    )
  if measured.costs.unbounded_loops:
    console_lib.say(
      console,
      'Counted as running once, for lack of a known limit: loops'
      f' {", ".join(measured.costs.unbounded_loops)}.',
    )
  if measured.collectives:
    console.print(_collectives_table(measured))
  roofline = measured.roofline
  if roofline is not None:
    console_lib.say(
      console,
      f'Time by limit, at best: compute {_milliseconds(roofline.compute)},'
      f' memory {_milliseconds(roofline.memory)} (an estimate), network in a'
      f' slice {_milliseconds(roofline.ici)}, between slices'
      f' {_milliseconds(roofline.dcn)}. The largest is {roofline.limit}.',
    )


def show_overflow(
  title: str, error: programs.DoesNotFitError, *, console: Console
) -> None:
  """Prints that a program does not fit."""
  console_lib.say(
    console,
    f'{title} does NOT fit: the compiler needs at least'
    f' {_bytes(error.needed)} of the {_bytes(error.available)} of a device.',
  )


def show_tried(tried: advice.Tried, *, console: Console) -> None:
  """Prints what came of a change."""
  if tried.measures is None:
    console_lib.say(console, f'  {tried.change}: does not fit, {tried.why_not}')
    return
  console_lib.say(
    console,
    f'  {tried.change}: fits in {_bytes(tried.measures.needed)}, at best'
    f' {_milliseconds(tried.measures.roofline.seconds)} per step',
  )


def show_chip_hours(
  measured: measures.Measures,
  topology: topologies.Topology,
  steps: int,
  *,
  console: Console,
) -> None:
  """Prints the estimate for the whole run, if there is one."""
  hours = measures.chip_hours(measured, topology, steps)
  if hours is not None:
    estimate = hours['estimate']
    console_lib.say(
      console,
      f'Estimate for train.num_steps = {steps:,}: {estimate:,.1f} chip-hours,'
      f' {estimate / len(topology.devices):,.2f} hours on {topology}, from the'
      f' largest time; at the peak of the chips {hours["least"]:,.1f}, a lower'
      ' bound. Calculated, not measured; evaluation and input are not in it.',
    )


def analytic_json(flops: analytic.Flops) -> dict[str, int]:
  """Plain values of an analytic count."""
  return {
    'attention': flops.attention,
    'feed_forward': flops.feed_forward,
    'logits': flops.logits,
    'recomputed': flops.recomputed,
    'total': flops.total,
  }


def tried_json(tried: advice.Tried) -> dict[str, Any]:
  """Plain values of a change that was tried."""
  return {
    'bindings': dict(tried.change.bindings),
    'fits': tried.measures is not None,
    'why_not': tried.why_not,
    'measures': tried.measures and tried.measures.as_json(),
  }


def _memory_table(title, measured) -> Table:
  table = console_lib.table(
    ('kind',), ('GiB',), title=f'{title}: memory of one device'
  )
  for kind, size in measured.memory.items():
    table.add_row(kind, f'{size / _GIB:.3f}')
  there = ''
  if measured.available is not None:
    there = f' of {measured.available / _GIB:.0f}'
  table.add_row(f'needed{there}', f'{measured.needed / _GIB:.3f}', style='bold')
  return table


def _collectives_table(measured) -> Table:
  table = console_lib.table(
    ('kind', 'mesh axes'),
    ('count', 'array', 'sent'),
    title='Messages of one device, loops counted fully',
  )
  for one in measured.collectives:
    table.add_row(
      one.kind,
      ', '.join(one.axes),
      f'{one.count:,}',
      _bytes(one.bytes),
      _bytes(one.sent),
    )
  return table


def _flops(measured, expected, devices) -> str:
  text = f'FLOPs: {measured.costs.flops:.4g} per device'
  if measured.costs.kernel_flops:
    text += f', {measured.costs.kernel_flops:.4g} of them declared by kernels'
  if expected is None:
    return f'{text}.'
  ratio = measured.costs.flops * devices / expected.total
  other = ''
  if abs(ratio - 1) > _SAME:
    other = ' The rest is of the method, or done on several devices alike.'
  return (
    f'{text}; on all {devices} {measured.costs.flops * devices:.4g}, which is'
    f' {ratio:.3f} of the analytic count of T5 ({expected.total:.4g}, of it'
    f' {expected.recomputed:.3g} recomputed).{other}'
  )


def _bytes(size: float) -> str:
  for unit, name in ((_GIB, 'GiB'), (2**20, 'MiB'), (2**10, 'KiB')):
    if size >= unit:
      return f'{size / unit:.2f} {name}'
  return f'{size:.0f} B'


def _milliseconds(seconds: float) -> str:
  return f'{1000 * seconds:.3g} ms'
