"""Keeps the pages of mapped files from adding up in a process.

A page of a mapped file stays in a process once it has been read. The system
takes such pages back when memory is short; where memory is counted, as it is in
containers, a large token store would still look like a process that grows.
"""

from collections.abc import Iterable
import mmap
import pathlib

_LIMIT = 2**30  # bytes
_STATM = pathlib.Path('/proc/self/statm')


class MappedMemory:
  """Gives back the pages of some maps when more than 1 GiB of them was read."""

  def __init__(self, maps: Iterable[mmap.mmap]):
    """Takes the maps; what the process has mapped by now is not counted."""
    self._maps = tuple(maps)
    self._before = _resident()

  def trim(self):
    """Gives all pages back when they are too many; the next access reads."""
    if not self._maps or _resident() - self._before <= _LIMIT:
      return
    for mapped in self._maps:
      mapped.madvise(mmap.MADV_DONTNEED)
    self._before = _resident()


def _resident() -> int:
  """Returns the bytes of files in this process; 0 where that is not told."""
  try:
    shared = _STATM.read_text().split()[2]
  except FileNotFoundError:
    return 0
  return int(shared) * mmap.PAGESIZE
