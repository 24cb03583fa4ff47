import { expect, test } from 'vitest'
import { causalConv1d, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { causalConv1d as reference, type ConvInputs } from '../reference/causal_conv1d.js'
import { expectClose } from '../support/close.js'
import { runConv, type ConvTypes } from '../support/conv.js'
import { describeOp, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, halfTypes, rounded, roundedTo, type FloatType } from '../support/floats.js'
import { loadGolden } from '../support/golden.js'
import { layouts, type Layout } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

async function check(
  given: ConvInputs,
  where: Partial<Record<keyof ConvInputs, Layout>> = {},
  types: ConvTypes = {},
): Promise<void> {
  const q = roundedTo(given, types)
  const got = runConv(q, where, types)
  if (got.out.size > 0) expectKernel('causal_conv1d') // with nothing to write nothing need run
  const want = reference(q)
  const dtype = types.x ?? 'float32'
  expectClose(await take(got.out), want.out, { on, dtype })
  // The final states are inputs, and so exact, but for initial ones that x's dtype does not hold.
  const states = await take(got.finalStates)
  expect([states.shape, states.dtype]).toEqual([want.finalStates.shape, dtype])
  expect(Array.from(states.data)).toEqual(Array.from(rounded(want.finalStates, dtype).data))
}

function inputs(random: Random, b: number, d: number, L: number, w: number): ConvInputs {
  return {
    x: random.normal([b, d, L]),
    weight: random.normal([d, w]),
    bias: random.normal([d]),
    activation: 'silu',
    initialStates: random.normal([b, d, w - 1]),
    seqIdx: random.sequences(b, L),
  }
}

const all = (dtype: FloatType): ConvTypes => ({ x: dtype, weight: dtype, bias: dtype, initialStates: dtype })

describeOp('causalConv1d', () => {
  test.each(loadGolden('causal_conv1d'))('golden: $name', async ({ inputs: i, outputs, options }) => {
    const q = {
      x: i['x']!,
      weight: i['weight']!,
      bias: i['bias'],
      initialStates: i['initial_states'],
      seqIdx: i['seq_idx'],
    }
    const { out, finalStates } = runConv({ ...q, activation: options['activation'] as null | 'silu' })
    expectKernel('causal_conv1d')
    expectClose(await take(out), outputs['out']!, { on })
    expect(Array.from((await take(finalStates)).data)).toEqual(Array.from(outputs['final_states']!.data))
    for (const dtype of halfTypes)
      await check({ ...q, activation: options['activation'] as null | 'silu' }, {}, all(dtype))
  })

  const grid = pairwise({
    L: [1, 2, 3, 7, 33, 64, 65, 257, 2050, 4097],
    w: [1, 2, 3, 4, 5, 8, 13],
    d: [1, 2, 5, 16, 19, 48, 130],
    b: [1, 2, 3],
    x: layouts,
    weight: layouts,
    bias: [false, true],
    activation: [false, 'silu'] as const,
    initial: [false, ...layouts],
    seqIdx: [false, true],
    dtype: floatTypes,
    weightType: floatTypes,
    biasType: floatTypes,
    initialType: floatTypes,
  })
  test.each(grid.map((c) => ({ c, name: describeCase(c) })))('$name', async ({ c, name }) => {
    const q = inputs(new Random(name), c.b, c.d, c.L, c.w)
    if (!c.bias) delete q.bias
    if (!c.activation) q.activation = null
    if (!c.initial) delete q.initialStates
    if (!c.seqIdx) delete q.seqIdx
    const types = { x: c.dtype, weight: c.weightType, bias: c.biasType, initialStates: c.initialType }
    await check(q, { x: c.x, weight: c.weight, initialStates: c.initial || 'plain' }, types)
  })

  test.each(['plain', 'swapped', 'fused'] as const)(
    'sequences shorter than the taps reach, and a row that starts anew (%s)',
    async (x) => {
      const random = new Random('short')
      const q = inputs(random, 3, 18, 70, 4)
      q.seqIdx = random.sequences(3, 70, [1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 69])
      for (const dtype of floatTypes) await check(q, { x }, all(dtype))
      q.seqIdx = new NDArray([3, 70]).map((_, i) => i)
      await check(q, { x })
      q.seqIdx = new NDArray([3, 70]).map((_, i) => [0, 5, 0, -2][(i % 70) % 4]!) // numbers may come again
      await check(q, { x })
      q.seqIdx = new NDArray([3, 70]).map(() => 7)
      await check(q, { x })
    },
  )

  test.each(floatTypes)('extreme values through silu (%s)', async (dtype) => {
    const random = new Random('extreme')
    const q = inputs(random, 1, 18, 40, 1)
    q.weight = q.weight.map(() => 1)
    const largest = dtype === 'float16' ? 65504 : 3e38
    q.x = q.x.map(() => random.pick([-largest, -1e4, -104, -90, -88, -20, 0, 1e-40, 20, 88, 100, 1e4]))
    delete q.bias
    await check(q, {}, { x: dtype })
    await check(q, { x: 'swapped' }, { x: dtype })
  })

  test.each([
    [0, 5, 7],
    [2, 5, 0],
    [2, 0, 7],
  ])('empty: b %i, d %i, L %i', async (b, d, L) => {
    const q = inputs(new Random('empty'), b, d, L, 4)
    await check(q)
    delete q.initialStates
    await check(q)
  })

  test('the result alone, unless the final states are asked for; laid out as x is', async () => {
    const q = inputs(new Random('alone'), 2, 3, 5, 4)
    const out: Tensor = causalConv1d(put(q.x), put(q.weight), { bias: put(q.bias!) })
    expectClose(await take(out), reference({ x: q.x, weight: q.weight, bias: q.bias }).out, { on })
    expect(runConv(q, { x: 'swapped' }).out.strides).toEqual([15, 1, 3])
    expect(runConv(q, { x: 'offset' }).out.strides).toEqual([15, 5, 1])
    for (const dtype of halfTypes) {
      const r = roundedTo(q, all(dtype))
      expect(runConv(r, { x: 'swapped' }, all(dtype)).out.strides).toEqual([15, 1, 3])
    }
  })

  test('what it refuses', () => {
    const q = inputs(new Random('refused'), 2, 3, 5, 4)
    const error = (code: string, what: string): unknown =>
      expect.objectContaining({ code, message: expect.stringMatching(new RegExp(`^${what}: expected .*, got `)) })
    expect(() => runConv({ ...q, weight: new NDArray([4, 4]) })).toThrow(error('ERR_SHAPE', 'weight'))
    expect(() => runConv({ ...q, bias: new NDArray([4]) })).toThrow(error('ERR_SHAPE', 'bias'))
    expect(() => runConv({ ...q, initialStates: new NDArray([2, 3, 4]) })).toThrow(error('ERR_SHAPE', 'initialStates'))
    expect(() => runConv({ ...q, seqIdx: new NDArray([2, 4]) })).toThrow(error('ERR_SHAPE', 'seqIdx'))
    expect(() => runConv({ ...q, activation: 'gelu' as 'silu' })).toThrow(error('ERR_OPTION', 'activation'))
    expect(() => causalConv1d(put(q.x), put(q.weight), { activaton: 'silu' } as object)).toThrow(
      expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringContaining('activation') }),
    )
  })
})
