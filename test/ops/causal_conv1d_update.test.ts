import { expect, test } from 'vitest'
import { causalConv1dUpdate, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { causalConv1dUpdate as reference, type ConvUpdateInputs } from '../reference/causal_conv1d_update.js'
import { expectClose } from '../support/close.js'
import { describeOp, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, halfTypes, rounded, roundedTo, type FloatType } from '../support/floats.js'
import { layouts, place, type Layout } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

type Where = Partial<Record<keyof ConvUpdateInputs, Layout>>
type Types = { readonly [K in keyof ConvUpdateInputs]?: FloatType }

function run(q: ConvUpdateInputs, where: Where = {}, types: Types = {}): { out: Tensor; convState: Tensor } {
  const at = (key: 'x' | 'convState' | 'weight' | 'bias'): Tensor => place(q[key]!, where[key] ?? 'plain', types[key])
  const convState = at('convState')
  const row = (list?: ArrayLike<number> | null): Tensor | undefined =>
    list ? place(new NDArray([list.length], list), where.stateIndices ?? 'plain', 'int32') : undefined
  const out = causalConv1dUpdate(at('x'), convState, at('weight'), {
    bias: q.bias ? at('bias') : undefined,
    activation: q.activation ?? null,
    cacheSeqlens: row(q.cacheSeqlens),
    stateIndices: row(q.stateIndices),
  })
  return { out, convState }
}

async function check(given: ConvUpdateInputs, where: Where = {}, types: Types = {}): Promise<void> {
  const q = roundedTo(given, types)
  const got = run(q, where, types)
  expectKernel('causal_conv1d_update')
  const want = { ...q, convState: q.convState.clone() }
  expectClose(await take(got.out), reference(want), { on, dtype: types.x ?? 'float32' })
  // The state holds inputs, and so is exact, or rounded once to its own dtype.
  const stateType = types.convState ?? 'float32'
  const state = await take(got.convState)
  expect([state.shape, state.dtype]).toEqual([want.convState.shape, stateType])
  expect(Array.from(state.data)).toEqual(Array.from(rounded(want.convState, stateType).data))
}

const all = (dtype: FloatType): Types => ({ x: dtype, convState: dtype, weight: dtype, bias: dtype })

function inputs(random: Random, b: number, d: number, s: number, w: number, m: number, slots = b): ConvUpdateInputs {
  return {
    x: random.normal(s === 0 ? [b, d] : [b, d, s]),
    convState: random.normal([slots, d, m]),
    weight: random.normal([d, w]),
    bias: random.normal([d]),
    activation: 'silu',
  }
}

describeOp('causalConv1dUpdate', () => {
  const grid = pairwise({
    s: [0, 1, 2, 3, 5, 11], // 0: x (b, d)
    w: [1, 2, 3, 4, 5, 9],
    longer: [0, 1, 3, 6], // than w − 1
    d: [1, 2, 5, 16, 19, 48, 130],
    b: [1, 2, 3],
    x: layouts,
    state: layouts,
    weight: layouts,
    bias: [false, true],
    activation: [false, 'silu'] as const,
    ring: [false, true],
    indices: [false, true],
    dtype: floatTypes,
    stateType: floatTypes,
    weightType: floatTypes,
    biasType: floatTypes,
  })
  test.each(grid.map((c) => ({ c, name: describeCase(c) })))('$name', async ({ c, name }) => {
    const random = new Random(name)
    const slots = c.indices ? c.b + 2 : c.b
    const m = Math.max(c.ring ? 1 : 0, c.w - 1 + c.longer)
    const q = inputs(random, c.b, c.d, c.s, c.w, m, slots)
    if (!c.bias) delete q.bias
    if (!c.activation) q.activation = null
    if (c.ring) q.cacheSeqlens = [random.int(0, 40), 0, random.int(0, 3 * m)].slice(0, c.b)
    if (c.indices) q.stateIndices = [slots - 1, -1, 0].slice(0, c.b)
    const types = { x: c.dtype, convState: c.stateType, weight: c.weightType, bias: c.biasType }
    await check(q, { x: c.x, convState: c.state, weight: c.weight }, types)
  })

  test('a ring at every position, for many tokens more than it holds', async () => {
    const random = new Random('ring')
    for (let at = 0; at < 12; at++)
      for (const s of [1, 2, 4, 5, 6, 13]) {
        const q = inputs(random, 2, 3, s, 4, 5)
        q.cacheSeqlens = [at, 2 ** 31 - 20 + at]
        if (at + 13 > 20) q.cacheSeqlens = [at, at + 1]
        await check(q)
        await check(q, {}, all(halfTypes[at % 2]!))
        await check(q, {}, { convState: 'bfloat16' })
      }
  })

  test.each(floatTypes)('a view of the state changes what it views, and nothing around it (%s)', async (dtype) => {
    const random = new Random('around')
    const q = roundedTo(inputs(random, 2, 5, 0, 4, 3), all(dtype))
    const whole = rounded(random.normal([4, 9, 7]), dtype)
    const t = put(whole, dtype)
    q.convState = whole.slice(0, 1, 2).slice(1, 3, 5).slice(2, 2, 3)
    causalConv1dUpdate(put(q.x, dtype), t.narrow(0, 1, 2).narrow(1, 3, 5).narrow(2, 2, 3), put(q.weight, dtype))
    reference(q)
    const want = whole.clone()
    for (let i = 0; i < 2; i++)
      for (let c = 0; c < 5; c++) for (let k = 0; k < 3; k++) want.set(q.convState.at(i, c, k), 1 + i, 3 + c, 2 + k)
    expect(Array.from((await take(t)).data)).toEqual(Array.from(want.data))
  })

  test('what data() gave out before stays as it was', async () => {
    const q = inputs(new Random('handed out'), 2, 5, 0, 4, 3)
    const state = put(q.convState)
    const before = (await state.data()) as Float32Array
    const copy = Array.from(before)
    causalConv1dUpdate(put(q.x), state, put(q.weight))
    expect(Array.from((await state.data()) as Float32Array)).not.toEqual(copy)
    expect(Array.from(before)).toEqual(copy)
  })

  test('an index past the slots is told at the next read, once, and its row is 0', async () => {
    const q = inputs(new Random('past'), 2, 5, 0, 4, 3)
    q.stateIndices = [2, 1]
    const { out, convState } = run(q)
    await expect(out.data()).rejects.toThrow(
      expect.objectContaining({
        name: 'SeqmixError',
        code: 'ERR_INDEX',
        message: expect.stringMatching(/causalConv1dUpdate|causal_conv1d_update/),
      }),
    )
    const want = { ...q, convState: q.convState.clone(), stateIndices: [-1, 1] }
    expectClose(await take(out), reference(want), { on })
    expect(Array.from((await take(convState)).data)).toEqual(Array.from(want.convState.data))
  })

  test.each([
    [0, 4, 2],
    [2, 0, 2],
  ])('empty: b %i, d %i, s %i', async (b, d, s) => {
    await check(inputs(new Random('empty'), b, d, s, 4, 3))
  })

  test('a filter of one tap needs no state', async () => {
    for (const cacheSeqlens of [undefined, [3, 0]])
      for (const m of [0, 1])
        for (const dtype of floatTypes)
          await check({ ...inputs(new Random(m), 2, 20, 3, 1, m), cacheSeqlens }, {}, all(dtype))
  })

  test('no new token changes nothing', async () => {
    const q = inputs(new Random('none'), 2, 3, 1, 4, 3)
    q.x = new NDArray([2, 3, 0])
    await check(q)
    await check({ ...q, cacheSeqlens: [1, 2] })
  })

  test('what it refuses', () => {
    const q = inputs(new Random('refused'), 2, 3, 0, 4, 3)
    const error = (code: string, what: string): unknown =>
      expect.objectContaining({ code, message: expect.stringMatching(new RegExp(`^${what}: expected .*, got `)) })
    expect(() => run({ ...q, weight: new NDArray([4, 4]) })).toThrow(error('ERR_SHAPE', 'weight'))
    expect(() => run({ ...q, convState: new NDArray([2, 3, 2]) })).toThrow(error('ERR_SHAPE', 'convState'))
    expect(() => run({ ...q, convState: new NDArray([3, 3, 3]) })).toThrow(error('ERR_SHAPE', 'convState'))
    expect(() => run({ ...q, cacheSeqlens: [1] })).toThrow(error('ERR_SHAPE', 'cacheSeqlens'))
  })
})
