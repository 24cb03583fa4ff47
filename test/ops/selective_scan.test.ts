import { expect, test } from 'vitest'
import { selectiveScan, type Tensor } from '../../lib/index.js'
import { float32, NDArray } from '../reference/array.js'
import { selectiveScan as reference, type ScanInputs } from '../reference/selective_scan.js'
import { expectClose } from '../support/close.js'
import { describeOp, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, halfTypes, roundedTo } from '../support/floats.js'
import { loadGolden } from '../support/golden.js'
import { layouts, type Layout } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'
import { run, scanInputs, scanTypes, type ScanTypes } from '../support/scan.js'

/** Runs the kernel and the reference on the same values, and compares both results. */
async function check(
  given: ScanInputs,
  where: Partial<Record<keyof ScanInputs, Layout>> = {},
  types: ScanTypes = {},
): Promise<void> {
  const x = roundedTo(given, types)
  const got = run(x, where, types)
  expectKernel('selective_scan')
  const want = reference(x)
  expectClose(await take(got.out), want.out, {
    on,
    dtype: types.u ?? 'float32',
    plain: () => reference(x, float32).out,
  })
  // The state is float32, whatever it is made from.
  expectClose(await take(got.lastState), want.lastState, { on, plain: () => reference(x, float32).lastState })
}

describeOp('selectiveScan', () => {
  test.each(loadGolden('selective_scan'))('golden: $name', async ({ inputs: i, outputs, options }) => {
    const x = {
      ...(i as unknown as ScanInputs),
      deltaBias: i['delta_bias'],
      deltaSoftplus: options['delta_softplus'] as boolean,
      initialState: i['initial_state'],
      seqIdx: i['seq_idx'],
    }
    const { out, lastState } = run(x)
    expectKernel('selective_scan')
    expectClose(await take(out), outputs['out']!, { on, plain: () => reference(x, float32).out })
    expectClose(await take(lastState), outputs['last_state']!, { on, plain: () => reference(x, float32).lastState })
    for (const dtype of halfTypes) await check(x, {}, scanTypes(x, dtype))
  })

  const grid = pairwise({
    L: [1, 2, 7, 33, 64, 65, 257, 2050],
    n: [1, 3, 4, 8, 16, 17, 64, 256, 300],
    d: [1, 2, 5, 16, 19, 48, 150],
    b: [1, 2, 3],
    u: layouts,
    delta: layouts,
    z: [false, 'plain', 'swapped', 'offset', 'fused'] as const,
    B: ['constant', 'shared', 'grouped'] as const,
    C: ['constant', 'shared', 'grouped'] as const,
    layoutB: layouts,
    layoutC: layouts,
    D: [false, true],
    bias: [false, true],
    softplus: [false, true],
    initial: [false, true],
    seqIdx: [false, true],
    dtype: floatTypes,
    weightType: [...floatTypes, 'each'] as const,
    stateType: floatTypes,
  })
  test.each(grid.map((c) => ({ c, name: describeCase(c) })))('$name', async ({ c, name }) => {
    const random = new Random(name)
    // The largest combinations are cut down, so that the reference stays quick.
    const d = Math.max(1, Math.min(c.d, Math.floor(4e5 / (c.L * c.n))))
    const b = Math.max(1, Math.min(c.b, Math.floor(4e5 / (c.L * c.n * d))))
    const groups = d % 2 === 0 ? 2 : d
    const x: ScanInputs = scanInputs(random, { b, d, L: c.L, n: c.n, groups, B: c.B, C: c.C, softplus: c.softplus })
    if (!c.z) delete x.z
    if (!c.D) delete x.D
    if (!c.bias) delete x.deltaBias
    if (!c.initial) delete x.initialState
    if (!c.seqIdx) delete x.seqIdx
    const where = { u: c.u, delta: c.delta, z: c.z || 'plain', B: c.layoutB, C: c.layoutC } as const
    await check(x, where, scanTypes(x, c.dtype, c.weightType, c.stateType))
  })

  test.each(['plain', 'swapped', 'fused', 'reversed'] as const)(
    'sequences of one token, and resets at the edges of blocks (%s)',
    async (layout) => {
      const random = new Random('resets')
      const x = scanInputs(random, { b: 3, d: 9, L: 200, n: 16 })
      const edges = [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 198, 199]
      x.seqIdx = random.sequences(3, 200, edges)
      for (const dtype of floatTypes) await check(x, { u: layout, delta: layout, z: layout }, scanTypes(x, dtype))
      x.seqIdx = new NDArray([3, 200]).map((_, i) => i % 200) // every token by itself
      await check(x, { u: layout, delta: layout, z: layout })
      x.seqIdx = new NDArray([3, 200]).map((_, i) => [0, 5, 0][Math.floor((i % 200) / 70)]!) // numbers may come again
      await check(x, { u: layout, delta: layout, z: layout })
      x.seqIdx = new NDArray([3, 200]).map(() => -1)
      await check(x, { u: layout, delta: layout, z: layout })
    },
  )

  test.each([
    [8, 1],
    [8, 2],
    [8, 4],
    [8, 8],
    [48, 3],
    [33, 3],
    [34, 17],
  ])('%i channels in %i groups', async (d, groups) => {
    const random = new Random(d * 100 + groups)
    await check(scanInputs(random, { b: 2, d, L: 40, n: 16, groups, B: 'grouped', C: 'grouped' }), { u: 'swapped' })
    await check(scanInputs(random, { b: 2, d, L: 40, n: 5, groups, B: 'grouped', C: 'shared' }))
  })

  test.each([63, 64, 65, 127, 128, 129, 200, 257, 300])('%i channels', async (d) => {
    for (const layout of ['plain', 'swapped', 'fused'] as const)
      for (const dtype of floatTypes) {
        const x = scanInputs(new Random(d), { b: 1, d, L: 70, n: 16 })
        await check(x, { u: layout, delta: layout, z: layout, B: layout, C: layout }, scanTypes(x, dtype))
      }
    const groups = d % 5 === 0 ? 5 : 1
    await check(scanInputs(new Random(d), { b: 2, d, L: 20, n: 8, B: 'grouped', C: 'constant', groups }))
  })

  test.each([
    ['very small, softplus', -100, true],
    ['very small', 1e-30, false],
    ['zero', 0, false],
    ['large, softplus', 90, true],
    ['very large', 1e4, false],
    ['enormous', 1e30, false],
    ['around 20, where softplus turns into its argument', 20, true],
    ['negative', -0.5, false],
  ] as const)('delta %s', async (_, size, softplus) => {
    const random = new Random(size)
    const x = scanInputs(random, { b: 2, d: 20, L: 70, n: 16 })
    delete x.deltaBias
    x.deltaSoftplus = softplus
    x.delta = random.uniform([2, 20, 70], 0.9, 1.1).map((v) => Math.fround(v * size))
    if (size === 20) x.delta = random.uniform([2, 20, 70], 19.5, 20.5)
    if (size < 0 && !softplus) x.A = x.A.map((v) => Math.fround(v / 16)) // growing, but not past what float32 holds
    await check(x)
    await check(x, { u: 'swapped', delta: 'swapped', z: 'swapped' })
    await check(x, {}, scanTypes(x, 'bfloat16'))
    // Where the result has a place in float16.
    if (softplus || (size >= 0 && size < 1e3)) await check(x, { u: 'swapped' }, scanTypes(x, 'float16'))
  })

  test('extreme values of every size side by side give no NaN', async () => {
    const random = new Random('mixed')
    const x = scanInputs(random, { b: 1, d: 19, L: 130, n: 16 })
    const sizes = [-3e38, -1e10, -200, -104, -87.5, -20, -1e-3, 0, 1e-38, 1e-6, 1, 19.999, 20.001, 88, 200, 1e6, 1e20]
    x.delta = x.delta.map(() => Math.fround(random.pick(sizes)))
    delete x.deltaBias
    for (const layout of ['plain', 'swapped'] as const) {
      const { out, lastState } = run(x, { u: layout, delta: layout, z: layout })
      const want = reference(x)
      expectClose(await take(out), want.out, { on, plain: () => reference(x, float32).out })
      expectClose(await take(lastState), want.lastState, { on })
      await check(x, { u: layout, delta: layout, z: layout }, scanTypes(x, 'bfloat16'))
    }
  })

  test('z so large and so small that its silu ends', async () => {
    const random = new Random('gate')
    const x = scanInputs(random, { b: 1, d: 18, L: 50, n: 4 })
    x.z = x.z!.map(() => random.pick([-3e38, -1e4, -104, -90, -88, -87, -20, 0, 1e-40, 20, 88, 100, 1e4]))
    await check(x)
    await check(x, { u: 'swapped', z: 'swapped' })
    await check(x, { u: 'swapped', z: 'swapped' }, scanTypes(x, 'bfloat16'))
  })

  test.each(floatTypes)('slow decay over a long sequence keeps its accuracy (%s)', async (dtype) => {
    const random = new Random('slow')
    const x = scanInputs(random, { b: 1, d: 8, L: 4000, n: 16 })
    delete x.deltaBias
    x.deltaSoftplus = false
    x.delta = random.uniform([1, 8, 4000], 5e-4, 2e-3)
    await check(x, {}, scanTypes(x, dtype))
    await check(x, { u: 'swapped', delta: 'swapped' }, scanTypes(x, dtype))
  })

  test.each([
    [0, 5, 7],
    [2, 5, 0],
    [2, 0, 7],
  ])('empty: b %i, d %i, L %i', async (b, d, L) => {
    const random = new Random('empty')
    const x = scanInputs(random, { b, d, L, n: 4 })
    const { out, lastState } = run(x)
    expect([out.shape, lastState.shape]).toEqual([
      [b, d, L],
      [b, d, 4],
    ])
    // With no token the last state is the initial one.
    expectClose(await take(lastState), x.initialState!, { on })
    expect((await out.data()).length).toBe(0)
    delete x.initialState
    expectClose(await take(run(x).lastState), new NDArray([b, d, 4]), { on })
  })

  test('no states: D u, gated', async () => {
    const x = scanInputs(new Random('stateless'), { b: 2, d: 20, L: 70, n: 0 })
    for (const dtype of floatTypes) {
      await check(x, {}, scanTypes(x, dtype))
      await check(x, { u: 'swapped', z: 'swapped' }, scanTypes(x, dtype))
    }
  })

  test('the result alone, unless the last state is asked for', async () => {
    const x = scanInputs(new Random('alone'), { b: 1, d: 3, L: 5, n: 2 })
    const t = (a: NDArray): Tensor => put(a)
    const out: Tensor = selectiveScan(t(x.u), t(x.delta), t(x.A), t(x.B), t(x.C))
    const { D: _D, z: _z, deltaBias: _b, initialState: _i, deltaSoftplus: _s, seqIdx: _q, ...bare } = x
    expectClose(await take(out), reference(bare).out, { on })
    const same: Tensor = selectiveScan(t(x.u), t(x.delta), t(x.A), t(x.B), t(x.C), { returnLastState: false })
    expect(await same.data()).toEqual(await out.data())
  })

  test('the result lies in memory as u does', () => {
    const x = scanInputs(new Random('order'), { b: 2, d: 6, L: 5, n: 2 })
    expect(run(x, { u: 'plain' }).out.strides).toEqual([30, 5, 1])
    expect(run(x, { u: 'swapped' }).out.strides).toEqual([30, 1, 6])
    expect(run(x, { u: 'fused' }).out.strides).toEqual([30, 1, 6])
    expect(run(x, { u: 'offset' }).out.strides).toEqual([30, 5, 1])
    const types = scanTypes(x, 'bfloat16')
    expect(run(roundedTo(x, types), { u: 'fused' }, types).out.strides).toEqual([30, 1, 6])
  })

  test('inputs stay as they are', async () => {
    const x = scanInputs(new Random('inputs'), { b: 2, d: 6, L: 40, n: 4 })
    const tensors = [x.u, x.delta, x.A, x.B, x.C, x.initialState!].map((a) => put(a)) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ]
    const [u, delta, A, B, C, initialState] = tensors
    selectiveScan(u, delta, A, B, C, { initialState, returnLastState: true })
    for (const [i, a] of [x.u, x.delta, x.A, x.B, x.C, x.initialState!].entries())
      expect(Array.from((await tensors[i]!.data()) as Float32Array)).toEqual(Array.from(a.data))
  })

  test('plain inputs', async () => {
    const out = selectiveScan([[[1, 2]]], [[[0.5, 0.25]]], [[-1]], [[[1, 1]]], [[[2, 1]]])
    const h = [0.5, 0.5 * Math.exp(-0.25) + 0.5]
    expectClose(await take(out), new NDArray([1, 1, 2], [2 * h[0]!, h[1]!]), { on })
  })
})

describeOp('selectiveScan: what it refuses', () => {
  const [b, d, L, n] = [2, 4, 6, 3]
  const f = (...shape: number[]): Tensor => put(new NDArray(shape))
  const good = (): [Tensor, Tensor, Tensor, Tensor, Tensor] => [f(b, d, L), f(b, d, L), f(d, n), f(b, n, L), f(b, n, L)]
  const replaced = (i: number, t: Tensor): [Tensor, Tensor, Tensor, Tensor, Tensor] => {
    const list = good()
    list[i] = t
    return list
  }

  test.each([
    ['delta', 1, [b, d, L - 1]],
    ['A', 2, [d + 1, n]],
    ['B', 3, [b, n, L + 1]],
    ['B', 3, [b, 3, n, L]], // 4 channels in 3 groups
    ['C', 4, [b, n + 1, L]],
    ['u', 0, [d, L]],
  ] as const)('%s of a wrong shape', (name, at, shape) => {
    expect(() => selectiveScan(...replaced(at, f(...shape)))).toThrow(
      expect.objectContaining({
        name: 'RangeError',
        code: 'ERR_SHAPE',
        message: expect.stringMatching(new RegExp(`^${name}: expected .*, got `)),
      }),
    )
  })

  test.each([
    ['D', { D: [d + 1] }],
    ['z', { z: [b, d, L + 1] }],
    ['deltaBias', { deltaBias: [d, 1] }],
    ['initialState', { initialState: [b, d, n + 1] }],
  ] as const)('option %s of a wrong shape', (name, option) => {
    const options = Object.fromEntries(Object.entries(option).map(([k, shape]) => [k, f(...(shape as number[]))]))
    expect(() => selectiveScan(...good(), options)).toThrow(
      expect.objectContaining({
        code: 'ERR_SHAPE',
        message: expect.stringMatching(new RegExp(`^${name}: expected .*, got `)),
      }),
    )
  })

  test('dtypes', () => {
    const wrong = put(new NDArray([b, d, L]), 'int32')
    expect(() => selectiveScan(...replaced(1, wrong))).toThrow(
      expect.objectContaining({
        name: 'TypeError',
        code: 'ERR_DTYPE',
        message: expect.stringMatching(/^delta: expected .*, got int32/),
      }),
    )
    expect(() => selectiveScan(...good(), { seqIdx: f(b, L) })).toThrow(expect.objectContaining({ code: 'ERR_DTYPE' }))
    const named = (message: string): unknown => expect.objectContaining({ code: 'ERR_DTYPE', message })
    for (const [i, what] of [
      [1, 'delta'],
      [3, 'B'],
      [4, 'C'],
    ] as const) {
      const other = put(new NDArray(i === 1 ? [b, d, L] : [b, n, L]), 'float16')
      expect(() => selectiveScan(...replaced(i, other))).toThrow(
        named(`${what}: expected float32 as u has, got float16`),
      )
    }
    const z = put(new NDArray([b, d, L]), 'bfloat16')
    expect(() => selectiveScan(...good(), { z })).toThrow(named('z: expected float32 as u has, got bfloat16'))
  })

  test('a misspelt option', () => {
    expect(() => selectiveScan(...good(), { deltaSoftPlus: true } as object)).toThrow(
      expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringContaining('deltaSoftplus') }),
    )
  })
})
