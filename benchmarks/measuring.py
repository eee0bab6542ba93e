"""What the benchmarks share: turns, spreads, and the state of the machine.

Variants take turns in one run, so that whatever else the machine does hits them
alike. Wall-clock time is what counts. Beside it stands the processor time that
the process used, which other programs disturb less: when the two ratios differ,
the machine was busy.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import math
import os
import platform
import sys
import time
from typing import Any

import jax
import numpy as np

from hypergrid_jax.runs import directory

LEAST_TURNS = 3


@dataclasses.dataclass
class Times:
  """Of one variant, in milliseconds, turn by turn.

  Attributes:
    wall: from the call until the result is there.
    processor: that all threads of this process used meanwhile.
  """

  wall: list[float] = dataclasses.field(default_factory=list)
  processor: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Measured:
  """What a variant that keeps time itself returns, in milliseconds."""

  wall: float
  processor: float


def take_turns(
  variants: Mapping[str, Callable[[], Any]],
  turns: int,
  *,
  fewer: Mapping[str, int] | None = None,
  seconds: float = math.inf,
) -> dict[str, Times]:
  """Runs every variant once without a clock, then all of them in turn.

  Args:
    variants: by name; each returns arrays to wait for, or its own times.
    turns: of each, at most.
    fewer: variants that take part in the first so many turns only.
    seconds: no turn begins later, once there are `LEAST_TURNS`.
  """
  fewer = fewer or {}
  times = {name: Times() for name in variants}
  for function in variants.values():
    jax.block_until_ready(function())
  began = time.perf_counter()
  for turn in range(turns):
    if turn >= LEAST_TURNS and time.perf_counter() - began > seconds:
      break
    for name, function in variants.items():
      if turn >= fewer.get(name, turns):
        continue
      took = timed(function)
      times[name].wall.append(took.wall)
      times[name].processor.append(took.processor)
  return times


def timed(function: Callable[[], Any]) -> Measured:
  """Calls a function once, and waits for what it returns."""
  wall, processor = time.perf_counter(), time.process_time()
  result = jax.block_until_ready(function())
  if isinstance(result, Measured):
    return result
  return Measured(
    1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)
  )


def spread(values: Sequence[float]) -> dict[str, float]:
  """Median, quartiles and least; and how many there are."""
  quartiles = np.percentile(values, (25, 50, 75)).tolist()
  return {
    'median': _short(quartiles[1]),
    'quartile_1': _short(quartiles[0]),
    'quartile_3': _short(quartiles[2]),
    'least': _short(min(values)),
    'count': len(values),
  }


def ratio(times: Times, base: Times) -> dict[str, Any]:
  """A variant over another.

  Returns:
    The ratio of the medians of the turns that both took part in, the spread of
    the ratios turn by turn, the ratio of the least times, and that of the
    medians of processor time.
  """
  count = min(len(times.wall), len(base.wall))
  ours, theirs = np.array(times.wall[:count]), np.array(base.wall[:count])
  processor = np.median(times.processor[:count])
  return {
    'of_medians': _short(np.median(ours) / np.median(theirs)),
    'by_turn': spread((ours / theirs).tolist()),
    'of_least': _short(ours.min() / theirs.min()),
    'of_processor_medians': _short(
      processor / np.median(base.processor[:count])
    ),
  }


def compared(times: Mapping[str, Times], base: str) -> dict[str, Any]:
  """Milliseconds of every variant, and its ratio to one of them."""
  return {
    name: {
      'milliseconds': spread(one.wall),
      'processor_milliseconds': spread(one.processor),
      **({} if name == base else {f'over_{base}': ratio(one, times[base])}),
    }
    for name, one in times.items()
  }


def machine() -> dict[str, Any]:
  """Where this runs, and how busy it is; the load is of 1, 5 and 15 minutes."""
  return {
    # How the C library allocates; new memory for large results takes time.
    'GLIBC_TUNABLES': os.environ.get('GLIBC_TUNABLES'),
    'devices': [str(device) for device in jax.devices()],
    'processor': _processor(),
    'cpus': os.cpu_count(),
    'load_average': [round(load, 2) for load in os.getloadavg()],
    'versions': directory.versions(),
  }


def write(report: Mapping[str, Any]) -> None:
  """Prints a report as JSON, with the load when it is written."""
  load = [round(load, 2) for load in os.getloadavg()]
  json.dump({**report, 'load_average_at_end': load}, sys.stdout, indent=1)
  sys.stdout.write('\n')


def say(text: str) -> None:
  """Tells on the standard error what is going on."""
  sys.stderr.write(f'{text}\n')
  sys.stderr.flush()


def _short(value: float) -> float:
  """Four digits or so, which is more than a measurement has."""
  return float(f'{value:.4g}')


def _processor() -> str:
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as file:
      names = (line for line in file if line.startswith('model name'))
      return next(names).split(':')[1].strip()
  except (OSError, StopIteration):
    return platform.processor()
