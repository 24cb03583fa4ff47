import { expect, test } from 'vitest'
import { selectiveStateUpdate, type Tensor } from '../../lib/index.js'
import { float32, NDArray } from '../reference/array.js'
import { selectiveStateUpdate as reference, type UpdateInputs } from '../reference/selective_state_update.js'
import { expectClose } from '../support/close.js'
import { describeOp, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, halfTypes, rounded, roundedTo, type FloatType } from '../support/floats.js'
import { layouts, place, type Layout } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

interface Sizes {
  b: number
  channels: number[] // [d], or [h, p]
  n: number
  groups?: number
  slots?: number
}

// State and C do not average to 0: a result of one channel would be what is left of hundreds of terms, and its error
// relative to that says nothing.
function inputs(random: Random, { b, channels, n, groups = 0, slots = b }: Sizes): UpdateInputs {
  return {
    state: random.normal([slots, ...channels, n], 1, 1),
    x: random.normal([b, ...channels]),
    dt: random.normal([b, ...channels], 0.7, -1),
    A: random.uniform([...channels, n], -16, -0.5),
    B: random.normal(groups ? [b, groups, n] : [b, n]),
    C: random.normal(groups ? [b, groups, n] : [b, n], 1, 0.5),
    D: random.normal(channels),
    z: random.normal([b, ...channels]),
    dtBias: random.uniform(channels, -5, -1),
    dtSoftplus: true,
  }
}

type Where = Partial<Record<keyof UpdateInputs, Layout>>
type Types = { readonly [K in keyof UpdateInputs]?: FloatType }

/** What each input is held in: activations, weights (`each`: one after the other another), and the state. */
function typesOf(
  activations: FloatType,
  weights: FloatType | 'each' = activations,
  state: FloatType = 'float32',
): Types {
  const weight = (i: number): FloatType => (weights === 'each' ? floatTypes[i]! : weights)
  const [x, dt, z, B, C] = Array<FloatType>(5).fill(activations)
  return { x, dt, z, B, C, A: weight(1), D: weight(2), dtBias: weight(0), state }
}

function run(q: UpdateInputs, where: Where = {}, types: Types = {}): { out: Tensor; state: Tensor } {
  const at = (key: 'x' | 'dt' | 'A' | 'B' | 'C' | 'D' | 'z' | 'dtBias'): Tensor | undefined =>
    q[key] ? place(q[key], where[key] ?? 'plain', types[key]) : undefined
  const state = place(q.state, where.state ?? 'plain', types.state)
  const out = selectiveStateUpdate(state, at('x')!, at('dt')!, at('A')!, at('B')!, at('C')!, {
    D: at('D'),
    z: at('z'),
    dtBias: at('dtBias'),
    dtSoftplus: q.dtSoftplus ?? false,
    stateIndices: q.stateIndices
      ? place(new NDArray([q.x.shape[0]!], q.stateIndices), where.stateIndices ?? 'plain', 'int32')
      : undefined,
  })
  return { out, state }
}

/** Runs kernel and reference, compares the result and the state that was changed in place. */
async function check(given: UpdateInputs, where: Where = {}, types: Types = {}): Promise<void> {
  const q = roundedTo(given, types)
  const got = run(q, where, types)
  expectKernel('selective_state_update')
  const want = { ...q, state: q.state.clone() }
  const plain = { ...q, state: q.state.clone() }
  expectClose(await take(got.out), reference(want), {
    on,
    dtype: types.x ?? 'float32',
    plain: () => reference(plain, float32),
  })
  expectClose(await take(got.state), want.state, { on, dtype: types.state ?? 'float32' })
}

describeOp('selectiveStateUpdate', () => {
  const grid = pairwise({
    b: [1, 2, 3],
    channels: ['1', '5', '16', '19', '64', '65', '200', '2x130', '1x1', '2x5', '4x16', '6x19'],
    n: [1, 3, 4, 8, 16, 17, 64, 256, 300],
    groups: [0, 1, 2],
    state: layouts,
    x: layouts,
    dt: layouts,
    B: layouts,
    C: layouts,
    z: [false, ...layouts],
    D: [false, true],
    bias: [false, true],
    softplus: [false, true],
    indices: [false, true],
    dtype: floatTypes,
    weightType: [...floatTypes, 'each'] as const,
    stateType: floatTypes,
  })
  test.each(grid.map((c) => ({ c, name: describeCase(c) })))('$name', async ({ c, name }) => {
    const random = new Random(name)
    const channels = c.channels.split('x').map(Number)
    const groups = c.groups && channels[0]! % c.groups === 0 ? c.groups : 0
    const heads = channels.length === 2
    const slots = c.indices ? c.b + 3 : c.b
    const q = inputs(random, { b: c.b, channels, n: c.n, groups: heads ? groups || 1 : groups, slots })
    if (!c.softplus) q.dt = random.uniform(q.dt.shape, 1e-3, 0.2)
    if (!c.softplus) q.dtBias = random.uniform(channels, 0, 0.1)
    q.dtSoftplus = c.softplus
    if (!c.z) delete q.z
    if (!c.D) delete q.D
    if (!c.bias) delete q.dtBias
    if (c.indices) q.stateIndices = [slots - 1, -1, 0].slice(0, c.b)
    const where = { state: c.state, x: c.x, dt: c.dt, B: c.B, C: c.C, z: c.z || 'plain' } as const
    await check(q, where, typesOf(c.dtype, c.weightType, c.stateType))
  })

  test.each(floatTypes)('per-head dt, A, D and dtBias stand for all of the head’s channels (%s)', async (dtype) => {
    const random = new Random('per head')
    const [b, h, p, n] = [2, 4, 6, 8]
    const types = typesOf(dtype, dtype, dtype)
    const full = roundedTo(inputs(random, { b, channels: [h, p], n, groups: 2 }), types)
    const perHead = roundedTo(
      {
        dt: random.normal([b, h]),
        A: random.uniform([h], -4, -0.5),
        D: random.normal([h]),
        dtBias: random.normal([h]),
      },
      types,
    )
    const spread = (a: NDArray, times: number, shape: number[]): NDArray =>
      new NDArray(shape).map((_, i) => a.data[Math.floor(i / times)]!)
    full.dt = spread(perHead.dt, p, [b, h, p])
    full.A = spread(perHead.A, p * n, [h, p, n])
    full.D = spread(perHead.D, p, [h, p])
    full.dtBias = spread(perHead.dtBias, p, [h, p])
    const at = (a: NDArray): Tensor => put(a, dtype)
    const state = at(full.state)
    const out = selectiveStateUpdate(state, at(full.x), at(perHead.dt), at(perHead.A), at(full.B), at(full.C), {
      D: at(perHead.D),
      z: at(full.z!),
      dtBias: at(perHead.dtBias),
      dtSoftplus: true,
    })
    const want = { ...full, state: full.state.clone() }
    expectClose(await take(out), reference(want), { on, dtype })
    expectClose(await take(state), want.state, { on, dtype })
  })

  test.each([-3e38, -200, -104, -20, 0, 19.99, 20.01, 88, 1e4, 1e20])('dt of %d gives no NaN', async (size) => {
    const q = inputs(new Random(size), { b: 2, channels: [20], n: 16 })
    delete q.dtBias
    q.dt = q.dt.map(() => Math.fround(size))
    await check(q)
    await check(q, {}, typesOf('bfloat16', 'bfloat16', 'bfloat16'))
    if (Math.abs(size) < 100) await check(q, {}, typesOf('float16', 'float16', 'float16'))
  })

  // Every step rounds the state, which forgets at the rate at which it decays.
  test.each(halfTypes)('a state in %s, rounded at every one of many steps', async (dtype) => {
    const random = new Random(dtype)
    const [b, d, n] = [2, 20, 16]
    const first = roundedTo(inputs(random, { b, channels: [d], n }), { state: dtype })
    const want = { ...first, state: first.state.clone() }
    const state = put(first.state, dtype)
    for (let step = 0; step < 50; step++) {
      const { x, dt, B, C, z } = inputs(random, { b, channels: [d], n })
      Object.assign(want, { x, dt, B, C, z })
      const { A, D, dtBias } = first
      const out = selectiveStateUpdate(state, put(x), put(dt), put(A), put(B), put(C), {
        D: put(D!),
        z: put(z!),
        dtBias: put(dtBias!),
        dtSoftplus: true,
      })
      // float32 comes out of what is not rounded yet. Where the two sides once rounded to different sides, they differ by a
      // unit in the last place: of 16 states, one in hundreds.
      expectClose(await take(out), reference(want), { on, bound: dtype === 'float16' ? 4e-5 : 3e-4 })
      want.state = rounded(want.state, dtype)
      expectClose(await take(state), want.state, { on, dtype, bound: dtype === 'float16' ? 4e-5 : 3e-4 })
    }
  })

  test.each(floatTypes)('a view of the state changes what it views, and nothing around it (%s)', async (dtype) => {
    const random = new Random('around')
    const q = inputs(random, { b: 2, channels: [5], n: 4 })
    const whole = rounded(random.normal([4, 9, 7]), dtype)
    const t = put(whole, dtype)
    const view = t.narrow(0, 1, 2).narrow(1, 3, 5).narrow(2, 2, 4)
    q.state = whole.slice(0, 1, 2).slice(1, 3, 5).slice(2, 2, 4)
    const out = selectiveStateUpdate(view, put(q.x), put(q.dt), put(q.A), put(q.B), put(q.C), {
      D: put(q.D!),
      z: put(q.z!),
      dtBias: put(q.dtBias!),
      dtSoftplus: true,
    })
    expectClose(await take(out), reference(q), { on })
    const want = whole.clone()
    for (let i = 0; i < 2; i++)
      for (let c = 0; c < 5; c++) for (let s = 0; s < 4; s++) want.set(q.state.at(i, c, s), 1 + i, 3 + c, 2 + s)
    const got = await take(t)
    expectClose(got, want, { on, dtype })
    const touched = new NDArray([4, 9, 7]).map((_, o) => (whole.data[o] === got.data[o] ? 0 : 1))
    expect(touched.data.reduce((a, v) => a + v)).toBe(2 * 5 * 4)
  })

  test('what data() gave out before stays as it was', async () => {
    const q = inputs(new Random('handed out'), { b: 2, channels: [5], n: 4 })
    const state = put(q.state)
    const before = await state.data()
    const copy = Array.from(before as Float32Array)
    selectiveStateUpdate(state, put(q.x), put(q.dt), put(q.A), put(q.B), put(q.C))
    const after = await state.data()
    expect(Array.from(before as Float32Array)).toEqual(copy)
    expect(Array.from(after as Float32Array)).not.toEqual(copy)
  })

  test('a negative index gives a row of 0 and touches no state', async () => {
    const q = inputs(new Random('negative'), { b: 3, channels: [5], n: 4, slots: 2 })
    q.stateIndices = [-1, 1, -7]
    const { out, state } = run(q)
    const rows = await take(out)
    expect(Array.from(rows.data).slice(0, 5)).toEqual([0, 0, 0, 0, 0])
    expect(Array.from(rows.data).slice(10)).toEqual([0, 0, 0, 0, 0])
    expect(Array.from((await take(state)).data).slice(0, 20)).toEqual(Array.from(q.state.data.slice(0, 20)))
    expect((await take(state)).data[20]).not.toBe(q.state.data[20])
  })

  test('an index past the slots is told at the next read, once, and its row is 0', async () => {
    const q = inputs(new Random('past'), { b: 2, channels: [5], n: 4, slots: 3 })
    q.stateIndices = [3, 1]
    const { out, state } = run(q)
    await expect(out.data()).rejects.toThrow(
      expect.objectContaining({
        name: 'SeqmixError',
        code: 'ERR_INDEX',
        message: expect.stringMatching(/selectiveStateUpdate|selective_state_update/),
      }),
    )
    const rows = await take(out)
    expect(Array.from(rows.data).slice(0, 5)).toEqual([0, 0, 0, 0, 0])
    const want = { ...q, state: q.state.clone(), stateIndices: [-1, 1] }
    expectClose(rows, reference(want), { on })
    expectClose(await take(state), want.state, { on })
    expect(() => run({ ...q, stateIndices: [2 ** 31 - 1, 0] }).out.dataSync()).toThrow(
      expect.objectContaining({ code: 'ERR_INDEX' }),
    )
  })

  test.each([
    [0, 4, 3],
    [2, 0, 3],
  ])('empty: b %i, d %i, n %i', async (b, d, n) => {
    const { out, state } = run(inputs(new Random('empty'), { b, channels: [d], n }))
    expect([out.shape, state.shape]).toEqual([
      [b, d],
      [b, d, n],
    ])
    expect((await out.data()).length).toBe(0)
  })

  test('no states: D x, gated', async () => {
    for (const dtype of floatTypes) {
      await check(inputs(new Random('stateless'), { b: 2, channels: [20], n: 0 }), {}, typesOf(dtype))
      await check(inputs(new Random('stateless'), { b: 2, channels: [3, 20], n: 0, groups: 3 }), {}, typesOf(dtype))
    }
  })

  test('what it refuses', () => {
    const q = inputs(new Random('refused'), { b: 2, channels: [4], n: 3 })
    const shape = (what: string): unknown =>
      expect.objectContaining({
        code: 'ERR_SHAPE',
        message: expect.stringMatching(new RegExp(`^${what}: expected .*, got `)),
      })
    expect(() => run({ ...q, dt: new NDArray([2, 5]) })).toThrow(shape('dt'))
    expect(() => run({ ...q, state: new NDArray([3, 4, 3]) })).toThrow(shape('state'))
    expect(() => run({ ...q, B: new NDArray([2, 4]) })).toThrow(shape('B'))
    expect(() => run({ ...q, D: new NDArray([5]) })).toThrow(shape('D'))
    expect(() => run({ ...q, A: new NDArray([4, 4]) })).toThrow(shape('A'))
  })
})
