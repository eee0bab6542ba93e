"""How much of the training data steps have looked at and trained on so far."""

import base64
from collections.abc import Callable, Mapping
from typing import Any
import zlib

import numpy as np

from hypergrid_jax.data.packing import PackedRows


class NotMeasured:
  """For runs whose steps train on all that they look at: epochs say it."""

  def add(self, step: int, chosen: np.ndarray | None) -> None:
    """Does nothing."""

  def shares(self) -> dict[str, float]:
    """Returns nothing."""
    return {}

  def saved(self) -> dict[str, Any]:
    """Returns nothing."""
    return {}


class DataUse:
  """Which rows of every task were candidates, and which were chosen.

  Examples count once, however often their rows come.
  """

  def __init__(
    self,
    packed: Mapping[str, PackedRows],
    candidates: Callable[[int], tuple[np.ndarray, np.ndarray]],
    saved: Mapping[str, Any],
  ):
    """Starts with nothing, or goes on.

    Args:
      packed: the rows of every task.
      candidates: index into `packed` and row within that task of all candidates
        of a step, both [R] int64.
      saved: what `saved` returned; empty to start with nothing.
    """
    self._packed = dict(packed)
    self._candidates = candidates
    self._seen = {
      kind: [
        _unpacked(saved.get(kind, {}).get(name), rows.num_rows)
        for name, rows in self._packed.items()
      ]
      for kind in ('candidates', 'chosen')
    }

  def add(self, step: int, chosen: np.ndarray) -> None:
    """Adds one step.

    Args:
      step: number of the step, from 0.
      chosen: indices into its candidates.
    """
    tasks, rows = self._candidates(step)
    for kind, places in (('candidates', slice(None)), ('chosen', chosen)):
      for task in np.unique(tasks[places]):
        mine = rows[places][tasks[places] == task]
        self._seen[kind][task][mine] = True

  def shares(self) -> dict[str, float]:
    """Returns the shares of examples so far, in [0, 1].

    `candidates/<task>` of those looked at and `chosen/<task>` of those trained
    on, of every task, and `candidates` and `chosen` of all tasks together.
    """
    said, total = {}, sum(len(rows.examples) for rows in self._packed.values())
    for kind, seen in self._seen.items():
      counts = {}
      for (name, rows), flags in zip(self._packed.items(), seen, strict=True):
        counts[name] = int(np.diff(rows.offsets)[flags].sum())
        said[f'{kind}/{name}'] = counts[name] / len(rows.examples)
      said[kind] = sum(counts.values()) / total
    return said

  def saved(self) -> dict[str, dict[str, str]]:
    """Returns all that is needed to go on, as JSON: one bit per row."""
    return {
      kind: {
        name: base64.b64encode(zlib.compress(np.packbits(flags))).decode()
        for name, flags in zip(self._packed, seen, strict=True)
      }
      for kind, seen in self._seen.items()
    }


def _unpacked(text: str | None, count: int) -> np.ndarray:
  if text is None:
    return np.zeros(count, bool)
  bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
  return np.unpackbits(bits, count=count).astype(bool)
