"""How weights and tokens are cut for each TPU, and what a grid costs."""

import dataclasses
import warnings

import pytest

from hypergrid_jax.ops import tpu_plans
from hypergrid_jax.ops.tpu_plans import Chip, Pass, Sizes

MIB = 2**20
V5E = Chip(cores=1, unit=128, units=4, vmem=128 * MIB)
V4 = Chip(cores=2, unit=128, units=4, vmem=16 * MIB, generation=4)
V6E = Chip(cores=1, unit=256, units=2, vmem=128 * MIB, generation=6)
TOKENS = 65536
# The feed-forward's second kernel of T5 base, in bfloat16.
WO = Sizes(TOKENS, 3072, 768, rows=8, columns=6, itemsize=2)


def sized(sizes=WO, **changes):
  return dataclasses.replace(sizes, **changes)


def cuts_and_tiles(plan):
  return [
    (visit.cut, visit.tile, visit.shards)
    for visit in (plan.forward, plan.backward)
  ]


def test_base_on_one_core_is_one_part():
  plan = tpu_plans.make_plan(V5E, WO)
  assert (plan.cores, plan.unit, plan.tokens) == (1, 128, TOKENS)
  assert cuts_and_tiles(plan) == [('columns', 256, 1), ('columns', 256, 1)]


def test_large_units_take_more_tokens_forward():
  plan = tpu_plans.make_plan(V6E, sized(columns=3))
  assert cuts_and_tiles(plan) == [('columns', 512, 1), ('columns', 256, 1)]


def test_a_small_memory_takes_less_at_a_time():
  plan = tpu_plans.make_plan(V4, WO)
  assert cuts_and_tiles(plan) == [('rows', 256, 1), ('columns', 128, 2)]
  assert max(p.vmem_limit for p in (plan.forward, plan.backward)) <= V4.vmem
  small = dataclasses.replace(V4, vmem=V4.vmem // 2)
  assert tpu_plans.make_plan(small, WO).forward.tile == 128
  tiny = dataclasses.replace(V4, vmem=MIB)
  assert tpu_plans.make_plan(tiny, WO) is None


def test_fast_memory_is_asked_for_as_needed():
  """Of 256 tokens; strips of 96 columns lie on 128 lanes, and spill more.

  So do many strips.
  """
  tokens, spread = 2 * 256 * (3072 + 768) * 2, 256 * 3072 * (4 + 4 + 2)
  weight = 3072 * 768 * 2
  whole = tpu_plans.make_plan(V5E, WO).forward
  assert whole.vmem_limit == 1.25 * (tokens + weight + spread)
  partial = tpu_plans.make_plan(V5E, sized(columns=8), cut='columns').forward
  needed = 1.5 * (tokens + weight * 128 // 96 + spread)
  assert partial.vmem_limit == 2 * int(needed)
  many = tpu_plans.make_plan(
    V5E, sized(k=4096, rows=32), cut='rows'
  ).forward.vmem_limit
  few = tpu_plans.make_plan(
    V5E, sized(k=4096, rows=16), cut='rows'
  ).forward.vmem_limit
  assert many == 2 * 1.5 / 1.25 * few


@pytest.mark.parametrize(
  ('tokens', 'padded', 'tile'),
  [(1, 256, 128), (256, 256, 128), (384, 512, 256), (1280, 1280, 128)],
)
def test_tokens_are_padded_to_tiles_of_every_core(tokens, padded, tile):
  # Two cores: 1280 tokens are 640 for each, which 256 does not divide.
  chip = dataclasses.replace(V5E, cores=2)
  plan = tpu_plans.make_plan(chip, sized(tokens=tokens))
  assert (plan.tokens, plan.forward.tile) == (padded, tile)


def test_blocks_lie_in_one_shard_each():
  one = Pass('columns', 128, 1, 0)
  plan = tpu_plans.Plan(
    1,
    128,
    TOKENS,
    forward=dataclasses.replace(one, shards=4),
    backward=dataclasses.replace(one, shards=8),
  )
  # Backward passes divide K, and so the rows of the grid.
  assert tpu_plans.refined(plan, 12, 6) == (24, 12)


def test_cost_by_hand():
  # 36 cycles per token for a plain matmul: 3072 x 768 over 4 x 128 x 128.
  # Columns of 96 fill 3/4 of a unit, in one of the two backward matmuls.
  wide = sized(columns=8)
  assert tpu_plans.cost(V5E, wide, 'forward', 'columns') == 1
  assert tpu_plans.cost(V5E, wide, 'backward', 'columns') == pytest.approx(
    7 / 3
  )
  # Rows of 384 fill units, and there are three.
  assert tpu_plans.cost(V5E, wide, 'backward', 'rows') == 3
  assert tpu_plans.total_cost(V5E, wide) == pytest.approx((1 + 7 / 3) / 3)
  # 96 columns of 8: 3072 x (8 + 1.5 x 96) / 4096 = 114 vector cycles.
  fine = sized(columns=96)
  assert tpu_plans.cost(V5E, fine, 'forward', 'columns') == pytest.approx(
    114 / 36
  )


def test_gating_bfloat16_as_it_is_costs_less_where_bands_fill_registers():
  fine = sized(columns=24)  # its vector work counts

  def costs(**changes):
    changed = sized(fine, **changes)
    return [
      tpu_plans.cost(V6E, changed, direction, cut)
      for direction in ('forward', 'backward')
      for cut in ('columns', 'rows')
    ]

  columns, rows, columns_back, rows_back = costs()
  wide = costs(itemsize=4)
  assert columns < wide[0]
  assert columns_back < wide[2]
  assert rows_back < wide[3]
  assert rows == wide[1]  # float32 sums are gated
  # Bands of 3072 / 384 = 8 rows.
  assert costs(rows=384)[0] == wide[0]


@pytest.mark.parametrize(
  ('chip', 'grid', 'other'),
  [
    (V5E, (8, 6), None),
    (V5E, (32, 6), None),
    (V5E, (16, 16), (16, 8)),
    (V6E, (8, 3), None),
    (V4, (8, 3), None),
    (V4, (8, 12), (8, 6)),
    (V6E, (8, 6), (8, 3)),
    (V6E, (32, 32), (32, 3)),
  ],
)
def test_a_slow_grid_has_a_faster_neighbour(chip, grid, other):
  found = tpu_plans.faster_neighbour(chip, sized(rows=grid[0], columns=grid[1]))
  assert (found and (found.rows, found.columns)) == other


def test_a_slow_grid_is_named_once_with_the_faster_one():
  tpu_plans.warn_if_slow.cache_clear()
  slow = sized(columns=12)
  with pytest.warns(match=r'8 x 12 blocks on .*3072 x 768.*8 x 3 about 1\.1'):
    tpu_plans.warn_if_slow(V6E, slow)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    tpu_plans.warn_if_slow(V6E, slow)
    tpu_plans.warn_if_slow(V6E, sized(columns=3))
