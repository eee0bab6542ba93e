"""Slices by name."""

import pytest

from hypergrid_jax import errors
from hypergrid_jax.precompiling import topologies


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('v5e:4x4', ('v5e', (4, 4))),
    ('V5E-8', ('v5e', (2, 4))),
    ('v5litepod-16', ('v5e', (4, 4))),
    # v4 and v5p are named by tensor cores, two to a chip.
    ('v4-128', ('v4', (4, 4, 4))),
    ('v5p-16', ('v5p', (2, 2, 2))),
    ('v6e-64', ('v6e', (8, 8))),
  ],
)
def test_names(name, expected):
  assert topologies.parse(name) == expected


@pytest.mark.parametrize(
  ('name', 'says'),
  [
    ('v5:4x4', r"Did you mean .*'v5e:4x4'.* of v4, v5e, v5p, v6e"),
    ('v9', 'no such topology'),
    ('v5e:4x4x4', 'v5e has no such slice. There are v5e:1x1, .*v5e:16x16'),
    ('v5e:32x32', 'v5e has no such slice'),
    ('v6e:0x4', 'v6e has no such slice'),
    ('v5p-12', 'v5p has no such slice. There are v5p:2x2x1'),
  ],
)
def test_unknown_names_are_refused_with_those_that_exist(name, says):
  with pytest.raises(errors.UserError, match=says):
    topologies.find(name)


def test_without_the_compiler_it_says_how_to_install_it(monkeypatch):
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.UserError, match=r"'hypergrid_jax\[tpu\]'"):
    topologies.find('v5e:4x4')


def test_cpus_are_those_of_this_machine():
  found = topologies.find('cpu', slices=2)
  assert (len(found.devices), found.chip, found.slices) == (8, None, 2)
  assert topologies.larger(found) is None
  with pytest.raises(errors.UserError, match='slices = 3 does not divide'):
    topologies.find('cpu', slices=3)


@pytest.mark.tpu
@pytest.mark.parametrize(
  ('name', 'slices', 'devices', 'next_'),
  [
    ('v5e:1x1', 1, 1, 'v5e:2x2'),
    ('v5e:4x4', 2, 32, 'v5e:4x8'),
    ('v4-16', 1, 8, 'v4:2x2x4'),  # a chip is one device
    ('v5p:2x2x1', 1, 4, 'v5p:2x2x2'),
    ('v6e:16x16', 1, 256, None),
  ],
)
def test_devices_of_slices(name, slices, devices, next_):
  found = topologies.find(name, slices=slices)
  assert len(found.devices) == devices
  assert {d.platform for d in found.devices} == {'tpu'}
  assert topologies.larger(found) == next_


@pytest.mark.tpu
def test_a_shape_that_the_compiler_refuses():
  with pytest.raises(errors.UserError, match=r'refuses it.*There are v5e:1x1'):
    topologies.find('v5e:3x5')
