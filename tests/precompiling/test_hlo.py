"""Compiled programs read as text: shapes, loops, FLOPs, bytes."""

import jax
import jax.numpy as jnp
import pytest

from hypergrid_jax.precompiling import hlo_costs, hlo_loops, hlo_text

# Written by hand in the form of the two compilers. The outer loop's counter
# starts at 4, goes up by 3 and stays below 12: 4, 7, 10.
LOOPS = """\
HloModule jit_f, entry_computation_layout={(f32[5,7]{1,0})->f32[5,7]{1,0}}

%square (p.0: f32[5,7], p.1: f32[7,7]) -> f32[5,7] {
  %p.0 = f32[5,7]{1,0} parameter(0)
  %p.1 = f32[7,7]{1,0} parameter(1)
  ROOT %dot.1 = f32[5,7]{1,0} dot(%p.0, %p.1), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
}

%inner_body (s.0: (s32[], f32[5,7])) -> (s32[], f32[5,7]) {
  %s.0 = (s32[], f32[5,7]{1,0}) parameter(0)
  %i.0 = s32[] get-tuple-element(%s.0), index=0
  %x.0 = f32[5,7]{1,0} get-tuple-element(%s.0), index=1
  %w.0 = f32[7,7]{1,0} constant({...})
  %fusion.1 = f32[5,7]{1,0} fusion(%x.0, %w.0), kind=kOutput, calls=%square
  ROOT %t.0 = (s32[], f32[5,7]{1,0}) tuple(%i.0, %fusion.1)
}

%inner_condition (s.1: (s32[], f32[5,7])) -> pred[] {
  %s.1 = (s32[], f32[5,7]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

%outer_body (s.2: (f32[5,7], s32[]{:T(128)})) -> (f32[5,7], s32[]) {
  %s.2 = (f32[5,7]{1,0}, s32[]{:T(128)}) parameter(0)
  %x.2 = f32[5,7]{1,0} get-tuple-element(%s.2), index=0
  %i.2 = s32[]{:T(128)} get-tuple-element(%s.2), index=1
  %zero = s32[] constant(0)
  %three = s32[] constant(3)
  %next = s32[]{:T(128)} add(%i.2, %three)
  %start = (s32[], f32[5,7]{1,0}) tuple(%zero, %x.2)
  %loop = (s32[], f32[5,7]{1,0}) while(%start), condition=%inner_condition, \
body=%inner_body, backend_config={"known_trip_count":{"n":"6"}}
  %y.2 = f32[5,7]{1,0} get-tuple-element(%loop), index=1
  ROOT %t.2 = (f32[5,7]{1,0}, s32[]) tuple(%y.2, %next)
}

%outer_condition (s.3: (f32[5,7], s32[])) -> pred[] {
  %s.3 = (f32[5,7]{1,0}, s32[]) parameter(0)
  %i.3 = s32[] get-tuple-element(%s.3), index=1
  %limit = s32[] constant(12)
  ROOT %less = pred[] compare(%i.3, %limit), direction=LT
}

ENTRY %main (x: f32[5,7]) -> f32[5,7] {
  %x = f32[5,7]{1,0} parameter(0)
  %four = s32[] constant(4)
  %copied = s32[] copy(%four)
  %begin = (f32[5,7]{1,0}, /*index=1*/s32[]) tuple(%x, %copied)
  %while.9 = (f32[5,7]{1,0}, s32[]) while(%begin), \
condition=%outer_condition, body=%outer_body
  ROOT %y = f32[5,7]{1,0} get-tuple-element(%while.9), index=0
}
"""


def compiled(f, *shapes):
  arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  text = jax.jit(f).lower(*arguments).compile().as_text()
  return hlo_costs.costs(hlo_text.parse(text))


def test_shapes_of_a_tuple_with_layouts_and_memories():
  text = '(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[], u4[5]{0})'
  first, second, third = hlo_text.arrays(text)
  assert (first.dtype, first.dims, first.space) == ('bf16', (2, 3), 1)
  assert (first.bytes, second.bytes, third.bytes) == (12, 1, 3)
  assert second.space == 0


def test_an_attribute_ends_at_a_comma_outside_of_brackets_and_quotes():
  line = (
    "  ROOT %a.1 = f32[] all-reduce(%b, %c), groups=mesh['x'=2] {'x'},"
    ' note="a, \\"b\\", ]", to_apply=%sum.2'
  )
  module = hlo_text.parse(f'ENTRY %main () -> f32[] {{\n{line}\n}}')
  instruction = module.computations['main'].root
  assert instruction.operands == ('b', 'c')
  assert instruction.attribute('groups') == "mesh['x'=2] {'x'}"
  assert instruction.attribute('note') == r'"a, \"b\", ]"'
  assert instruction.called('to_apply') == 'sum.2'
  assert instruction.attribute('x') is None


def test_text_without_a_program_is_refused():
  with pytest.raises(ValueError, match='no ENTRY'):
    hlo_text.parse('HloModule empty')


def test_loops_in_loops_multiply_and_their_limits_are_found():
  module = hlo_text.parse(LOOPS)
  found = {
    use.instruction.name: use.times
    for use in hlo_loops.uses(module)
    if use.instruction.opcode in ('while', 'dot')
  }
  assert found == {'while.9': 1, 'loop': 3, 'dot.1': 3 * 6}
  assert hlo_costs.costs(module).flops == 3 * 6 * 2 * 5 * 7 * 7


def test_a_loop_without_a_limit_counts_once_and_is_named():
  text = LOOPS.replace(', backend_config={"known_trip_count":{"n":"6"}}', '')
  costs = hlo_costs.costs(hlo_text.parse(text))
  assert costs.unbounded_loops == ('loop',)
  assert costs.flops == 3 * 2 * 5 * 7 * 7


def test_a_scan_counts_like_the_unrolled_loop():
  def scanned(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0].sum()

  def unrolled(x, w):
    for n in range(w.shape[0]):
      x = jnp.tanh(x @ w[n])
    return x.sum()

  shapes = (24, 32), (5, 32, 32)
  forward = 5 * 2 * 24 * 32 * 32
  assert compiled(scanned, *shapes).flops == forward
  both = 0, 1
  counts = [
    compiled(jax.grad(f, argnums=both), *shapes).flops
    for f in (scanned, unrolled)
  ]
  assert counts == [3 * forward, 3 * forward]


def convolution(kernel, out, window, labels):
  return hlo_text.parse(
    'ENTRY %main () -> f32[] {\n'
    '  %a = bf16[16,12,128,64]{3,2,1,0} parameter(0)\n'
    f'  %b = bf16[{kernel}]{{3,2,1,0}} parameter(1)\n'
    f'  ROOT %c = f32[{out}]{{3,2,1,0}} convolution(%a, %b),'
    f' window={{{window}}}, dim_labels={labels}\n'
    '}'
  )


@pytest.mark.parametrize(
  ('kernel', 'out', 'window', 'labels'),
  [
    # [16, 12, 128, 64] x [16, 12, 512, 64]: 16 and 12 are batches, so that each
    # position of the window meets the one of its own batch.
    (
      '16,12,512,64',
      '16,12,128,512',
      'size=16x12 stride=15x11 lhs_dilate=16x12',
      '01bf_01oi->01bf',
    ),
    # The same with the padding that reaches beyond the edge.
    (
      '16,12,512,64',
      '16,12,128,512',
      'size=1x1 pad=0_0x0_0',
      '01bf_01oi->01bf',
    ),
  ],
)
def test_a_batched_product_as_a_convolution(kernel, out, window, labels):
  if 'size=1x1' in window:
    kernel = '1,1,512,64'
  module = convolution(kernel, out, window, labels)
  assert hlo_costs.costs(module).flops == 2 * 16 * 12 * 128 * 512 * 64


def test_a_window_that_lies_partly_outside_counts_what_lies_inside():
  # 'same' padding of a window of 3 over 4 positions: 2 + 3 + 3 + 2 pairs.
  text = (
    'ENTRY %main () -> f32[] {\n'
    '  %a = f32[5,4,7]{2,1,0} parameter(0)\n'
    '  %b = f32[3,7,11]{2,1,0} parameter(1)\n'
    '  ROOT %c = f32[5,4,11]{2,1,0} convolution(%a, %b),'
    ' window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f\n'
    '}'
  )
  assert hlo_costs.costs(hlo_text.parse(text)).flops == 2 * 5 * 7 * 11 * 10


def test_kernels_count_what_they_declare():
  kernel = (
    '  %k.{n} = f32[8]{{0}} custom-call(%a), custom_call_target='
    '"tpu_custom_call", backend_config={{"custom_call_config":{{"body":"A="'
    '{cost}}}}}\n'
  )
  declared = (
    ',"cost_estimate":{"bytes_accessed":"48","transcendentals":"3",'
    '"flops":"1000"}'
  )
  text = (
    'ENTRY %main () -> f32[] {\n  %a = f32[8]{0} parameter(0)\n'
    + kernel.format(n=1, cost=declared)
    + kernel.format(n=2, cost='')
    + '}'
  )
  costs = hlo_costs.costs(hlo_text.parse(text))
  assert (costs.kernel_flops, costs.uncounted_kernels) == (1000, 1)
  assert costs.flops == 1000
  # Of the first no more than it says, of the second all it is given.
  assert costs.bytes == 48 + 2 * 4 * 8


FUSED = """\
%slice_and_add (p.0: f32[6,9], p.1: s32[], p.2: f32[9]) -> f32[9] {
  %p.0 = f32[6,9]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %p.2 = f32[9]{0} parameter(2)
  %row = f32[1,9]{1,0} dynamic-slice(%p.0, %p.1, %p.1), \
dynamic_slice_sizes={1,9}
  %flat = f32[9]{0} bitcast(%row)
  ROOT %sum = f32[9]{0} add(%flat, %p.2)
}

%write (p.3: f32[6,9], p.4: f32[1,9], p.5: s32[]) -> f32[6,9] {
  %p.3 = f32[6,9]{1,0} parameter(0)
  %p.4 = f32[1,9]{1,0} parameter(1)
  %p.5 = s32[] parameter(2)
  ROOT %put = f32[6,9]{1,0} dynamic-update-slice(%p.3, %p.4, %p.5, %p.5)
}

ENTRY %main (a: f32[6,9], n: s32[], b: f32[9]) -> f32[6,9] {
  %a = f32[6,9]{1,0} parameter(0)
  %n = s32[] parameter(1)
  %b = f32[9]{0} parameter(2)
  %fast = f32[9]{0:T(128)S(1)} copy(%b)
  %c = f32[9]{0} fusion(%a, %n, %fast), kind=kLoop, calls=%slice_and_add
  %d = f32[1,9]{1,0} bitcast(%c)
  ROOT %e = f32[6,9]{1,0} fusion(%a, %d, %n), kind=kLoop, calls=%write
}
"""


def test_bytes_of_slices_updates_and_fast_memory():
  row, number = 4 * 9, 4
  copy = row  # read; the copy lies in fast memory
  slice_ = row + number + row  # the row, the index, the result
  update = row + number + row  # the row is read and put into its place
  costs = hlo_costs.costs(hlo_text.parse(FUSED))
  assert costs.bytes == copy + slice_ + update


def test_bytes_agree_with_the_compiler_where_nothing_loops():
  def f(x, w):
    return jnp.tanh(x @ w).sum(axis=0)

  shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((64, 96), (96, 48))]
  program = jax.jit(f).lower(*shapes).compile()
  own = hlo_costs.costs(hlo_text.parse(program.as_text()))
  theirs = program.cost_analysis()['bytes accessed']
  assert own.bytes == pytest.approx(theirs, rel=0.1)
