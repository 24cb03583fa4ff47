import { expect, test } from 'vitest'
import { debug, ssdChunkScan, type SsdMode, type Tensor } from '../../lib/index.js'
import { float32, NDArray } from '../reference/array.js'
import { ssdRecurrent as reference, type SsdInputs, type SsdResult } from '../reference/ssd_chunk_scan.js'
import { expectClose } from '../support/close.js'
import { describeOp, dut, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, halfTypes, type FloatType } from '../support/floats.js'
import { loadGolden } from '../support/golden.js'
import { layouts } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'
import {
  runSsd,
  seenBy,
  ssdBound,
  ssdInputs,
  ssdTypes,
  tensorCores,
  type SsdHow,
  type SsdSizes,
} from '../support/ssd.js'

const modes = ['auto', 'chunked', 'recurrent', 'quadratic'] as const

async function compare(got: { out: Tensor; finalStates: Tensor }, want: SsdResult, x: SsdInputs): Promise<void> {
  // One evaluation gives both of the results that a missed bound asks for.
  let plain: SsdResult | undefined
  const evaluated = (): SsdResult => (plain ??= reference(x, float32))
  const dtype = got.out.dtype as FloatType
  const bound = ssdBound(dtype)
  expectClose(await take(got.out), want.out, { on, dtype, ...bound, plain: () => evaluated().out })
  expectClose(await take(got.finalStates), want.finalStates, { on, ...bound, plain: () => evaluated().finalStates })
}

/** Runs the kernel and the reference on the same values, and compares both results. */
async function check(x: SsdInputs, how: SsdHow = {}): Promise<void> {
  const seen = seenBy(x, how.types)
  const got = runSsd(seen, how)
  expectKernel('ssd_chunk_scan')
  await compare(got, reference(seen), seen)
}

/** The same in each of the three forms. */
async function checkForms(x: SsdInputs, how: SsdHow = {}): Promise<void> {
  const seen = seenBy(x, how.types)
  const want = reference(seen)
  for (const mode of ['chunked', 'recurrent', 'quadratic'] as const)
    await compare(runSsd(seen, { ...how, mode }), want, seen)
}

describeOp('ssdChunkScan', () => {
  test.each(modes.flatMap((mode) => loadGolden('ssd').map((g) => ({ ...g, mode }))))(
    'golden: $name, $mode',
    async ({ inputs: i, outputs, options, mode }) => {
      const x: SsdInputs = {
        ...(i as unknown as SsdInputs),
        dtBias: i['dt_bias'],
        dtSoftplus: options['dt_softplus'] as boolean,
        dtLimit: options['dt_limit'] as [number, number] | null,
        initialStates: i['initial_states'],
        seqIdx: i['seq_idx'],
      }
      const got = runSsd(x, { mode })
      expectKernel('ssd_chunk_scan')
      await compare(got, { out: outputs['out']!, finalStates: outputs['final_states']! }, x)
    },
  )

  const grid = pairwise({
    mode: modes,
    chunkSize: [undefined, 16, 17, 64, 100, 256],
    L: [1, 2, 5, 16, 33, 64, 65, 130, 257, 700],
    p: [1, 3, 8, 16, 24, 33, 64, 100],
    n: [1, 4, 7, 16, 31, 64, 128, 200],
    h: [1, 2, 6],
    groups: [1, 2, 'all'] as const,
    b: [1, 3],
    x: layouts,
    dt: layouts,
    z: [false, ...layouts],
    B: layouts,
    C: layouts,
    D: [false, 'h', 'hp'] as const,
    bias: [false, true],
    softplus: [false, true],
    limit: [false, true],
    initial: [false, ...layouts],
    seqIdx: [false, true],
    dtype: floatTypes,
    dtType: ['as x', 'float32'] as const,
    weights: floatTypes,
    states: floatTypes,
  })
  test.each(grid.map((c) => ({ c, name: describeCase(c) })))('$name', async ({ c, name }) => {
    const random = new Random(name)
    // The largest combinations are cut down, so that the reference stays quick.
    const work = 6e5 / (c.L * c.n)
    const p = Math.max(1, Math.min(c.p, Math.floor(work)))
    const h = Math.max(1, Math.min(c.h, Math.floor(work / p)))
    const b = Math.max(1, Math.min(c.b, Math.floor(work / p / h)))
    const groups = c.groups === 'all' ? h : h % c.groups ? 1 : c.groups
    const sizes = { b, L: c.L, h, p, n: c.n, groups, wideD: c.D === 'hp', softplus: c.softplus }
    const x: SsdInputs = ssdInputs(random, sizes)
    if (!c.z) delete x.z
    if (!c.D) delete x.D
    if (!c.bias) delete x.dtBias
    if (!c.initial) delete x.initialStates
    if (!c.seqIdx) delete x.seqIdx
    if (c.limit) x.dtLimit = [0.01, 0.15]
    const dtType = c.dtType === 'as x' ? c.dtype : c.dtType
    await check(x, {
      where: { x: c.x, dt: c.dt, z: c.z || 'plain', B: c.B, C: c.C, initialStates: c.initial || 'plain' },
      types: ssdTypes(c.dtype, dtType, c.weights, c.states),
      mode: c.mode,
      chunkSize: c.chunkSize,
    })
  })

  test.each([8, 9, 15, 16, 17, 31, 32, 48, 63, 64, 65, 96, 128, 130, 256])('p = %i', async (p) => {
    await checkForms(ssdInputs(new Random(p), { b: 1, L: 70, h: 2, p, n: 20, wideD: true }))
  })

  test.runIf(on === 'cpu')('the form that a mode names, and with auto the fastest', () => {
    const form = (L: number, how: SsdHow): string => {
      runSsd(ssdInputs(new Random(L), { b: 1, L, h: 2, p: 8, n: 128 }), how)
      return debug.lastKernel(dut).split('.')[3]!
    }
    for (const mode of ['chunked', 'recurrent', 'quadratic'] as const) {
      expect(form(1, { mode })).toBe(mode)
      expect(form(100, { mode })).toBe(mode)
    }
    expect(form(1, {})).toBe(dut.info.target === 'avx512' ? 'chunked' : 'recurrent') // as ssd_table.h has it
    expect(form(1000, {})).toBe('chunked')
    expect(form(1, { chunkSize: 16 })).toBe('chunked')
  })

  test.runIf(on === 'cuda').each(halfTypes)('which sizes go to tensor cores (%s)', (dtype) => {
    const kernel = (sizes: Partial<SsdSizes>, how: SsdHow = {}, limit?: readonly [number, number]): string => {
      const all = { types: ssdTypes(dtype, dtype, 'float32', 'float32'), ...how }
      const x = seenBy(ssdInputs(new Random('kernel'), { b: 1, L: 70, h: 3, p: 20, n: 24, ...sizes }), all.types)
      if (limit) x.dtLimit = limit
      runSsd(x, all)
      return debug.lastKernel(dut)
    }
    for (const mode of ['auto', 'chunked', 'quadratic'] as const) expect(kernel({}, { mode })).toMatch(tensorCores)
    for (const sizes of [{ L: 16 }, { p: 64 }, { p: 17 }, { n: 16 }, { n: 256 }])
      expect(kernel(sizes)).toMatch(tensorCores)
    const hopper = dut.info.target === 'sm_90'
    for (const sizes of [{ p: 64 }, { p: 16, n: 16 }, { p: 72, n: 128 }, { p: 64, n: 64, h: 5 }])
      expect(kernel(sizes)).toBe(`cuda.${hopper ? 'sm90' : 'sm80'}.ssd_chunk_scan.chunked`)
    for (const sizes of [{ p: 17 }, { p: 64, n: 20 }, { p: 64, n: 136 }])
      expect(kernel(sizes)).toBe('cuda.sm80.ssd_chunk_scan.chunked')
    const plain = 'cuda.any.ssd_chunk_scan.plain'
    expect(kernel({}, { mode: 'recurrent' })).toBe(plain)
    expect(kernel({}, { types: {} })).toBe(plain)
    expect(kernel({}, {}, [-1, 1])).toBe(plain)
    for (const sizes of [{ L: 15 }, { p: 15 }, { n: 15 }, { n: 257 }]) expect(kernel(sizes)).toBe(plain)
  })

  test.each(halfTypes)("the sizes of Mamba-2's layers in %s", async (dtype) => {
    const types = ssdTypes(dtype, dtype, 'float32', 'float32')
    for (const [sizes, mode] of [
      [{ L: 200, h: 3, p: 64, n: 128 }, 'auto'],
      [{ L: 200, h: 2, p: 64, n: 128, groups: 2 }, 'recurrent'],
      [{ L: 90, h: 4, p: 64, n: 64, groups: 2, wideD: true }, 'chunked'],
      [{ L: 70, h: 2, p: 128, n: 256 }, 'auto'],
      [{ L: 1500, h: 1, p: 16, n: 16 }, 'chunked'],
    ] as const)
      await check(ssdInputs(new Random(dtype), { b: 1, ...sizes }), { types, mode })
  })

  test.each([0, 1, 2, 8, 13, 16, 17, 32, 64, 65, 128, 129, 255, 256, 300])('n = %i', async (n) => {
    await checkForms(ssdInputs(new Random(n), { b: 1, L: 70, h: 2, p: 20, n, groups: 2 }))
  })

  test.each([1, 2, 3, 5, 6, 7, 11, 12, 13, 14, 15, 28, 29, 63, 127, 128, 129, 255, 256, 257, 513, 1000])(
    'L = %i',
    async (L) => {
      const x = ssdInputs(new Random(L), { b: 1, L, h: 2, p: 18, n: 20 })
      delete x.seqIdx
      await checkForms(x)
      await check(x, { types: { x: 'bfloat16', z: 'bfloat16', B: 'bfloat16', C: 'bfloat16' } })
      delete x.initialStates
      await check(x)
      await check(x, { mode: 'quadratic' })
    },
  )

  test.each([16, 17, 23, 32, 48, 63, 64, 65, 96, 127, 128, 129, 200, 255, 256])('chunks of %i', async (chunkSize) => {
    const x = ssdInputs(new Random(chunkSize), { b: 1, L: 530, h: 3, p: 16, n: 16, groups: 3 })
    await check(x, { mode: 'chunked', chunkSize })
    delete x.seqIdx
    await check(x, { mode: 'chunked', chunkSize })
  })

  test.each([
    [6, 1],
    [6, 2],
    [6, 3],
    [6, 6],
    [5, 5],
    [17, 1],
  ])('%i heads in %i groups', async (h, groups) => {
    await checkForms(ssdInputs(new Random(h * 100 + groups), { b: 2, L: 90, h, p: 8, n: 16, groups }))
  })

  test.each(modes)('sequences of one token, and ends at the edges of chunks (%s)', async (mode) => {
    const random = new Random('resets')
    const L = 300
    const x = ssdInputs(random, { b: 3, L, h: 2, p: 9, n: 16 })
    const edges = [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 198, 199, 298, 299]
    x.seqIdx = random.sequences(3, L, edges)
    await check(x, { mode })
    x.seqIdx = new NDArray([3, L]).map((_, i) => i % L) // every token by itself
    await check(x, { mode })
    x.seqIdx = new NDArray([3, L]).map((_, i) => [0, 5, 0][Math.floor((i % L) / 110)]!) // numbers may come again
    await check(x, { mode })
    x.seqIdx = new NDArray([3, L]).map(() => -1)
    await check(x, { mode })
  })

  test.each([
    ['very small, softplus', -100, true],
    ['very small', 1e-30, false],
    ['zero', 0, false],
    ['large, softplus', 90, true],
    ['very large', 1e4, false],
    ['enormous', 1e30, false],
    ['around 20, where softplus turns into its argument', 20, true],
  ] as const)('dt %s', async (_, size, softplus) => {
    const random = new Random(size)
    const x = ssdInputs(random, { b: 1, L: 150, h: 3, p: 10, n: 16 })
    delete x.dtBias
    x.dtSoftplus = softplus
    x.dt = random.uniform([1, 150, 3], 0.9, 1.1).map((v) => Math.fround(v * size))
    if (size === 20) x.dt = random.uniform([1, 150, 3], 19.5, 20.5)
    await checkForms(x)
  })

  test('dt of every size side by side gives no NaN', async () => {
    const random = new Random('mixed')
    const x = ssdInputs(random, { b: 1, L: 330, h: 3, p: 10, n: 16 })
    const sizes = [0, 1e-38, 1e-6, 1e-3, 0.1, 1, 19.999, 20.001, 88, 200, 1e6, 1e20]
    x.dt = x.dt.map(() => Math.fround(random.pick(sizes)))
    delete x.dtBias
    for (const softplus of [false, true]) await checkForms({ ...x, dtSoftplus: softplus })
  })

  test('the order of bias, softplus and clamp', async () => {
    const random = new Random('clamp')
    const x = ssdInputs(random, { b: 1, L: 80, h: 2, p: 6, n: 8 })
    x.dt = random.uniform([1, 80, 2], -4, 4)
    x.A = new NDArray([2], [-0.05, -0.01]).map(Math.fround) // a negative step grows
    for (const dtLimit of [
      [0.05, 0.6],
      [0, Infinity],
      [0.5, 0.5],
      [-Infinity, 0.3],
    ] as const)
      for (const dtSoftplus of [true, false]) await checkForms({ ...x, dtLimit, dtSoftplus })
    // Without a limit what is negative is 0, as in mamba_ssm.
    const negative = { ...x, dtSoftplus: false, dt: x.dt.map((v) => -Math.abs(v)) }
    delete negative.dtBias
    delete negative.initialStates
    const { out } = runSsd({ ...negative, D: null })
    expect(Array.from((await take(out)).data).every((v) => v === 0)).toBe(true)
  })

  test.each([
    ['a little', 0.05],
    ['through a chunk by e^40', 0.6],
    ['up to what float32 holds', 1.2],
  ])('A > 0: the state grows, %s', async (_, rate) => {
    const random = new Random(rate)
    const L = 64
    const x = ssdInputs(random, { b: 1, L, h: 4, p: 10, n: 8, softplus: false })
    x.A = new NDArray([4], [rate, -2, rate / 3, 0]).map(Math.fround)
    x.dt = random.uniform([1, L, 4], 0.9, 1.1)
    delete x.dtBias
    await checkForms(x)
    // Growing at some tokens and decaying at others.
    x.dt = random.uniform([1, L, 4], -1.1, 1.1)
    x.dtLimit = [-Infinity, Infinity]
    await checkForms(x)
    x.A = new NDArray([4], [5, -7, 10, 3])
    x.dt = x.dt.map((v, i) => (Math.floor(i / 4) % 2 ? -1 : 1) * Math.fround(1 + v / 10))
    await checkForms(x)
  })

  test('A > 0 past what float32 holds: infinite where it is, and 0 stays 0', async () => {
    const L = 90
    const x = ssdInputs(new Random('overflow'), { b: 1, L, h: 2, p: 3, n: 4, softplus: false })
    for (const key of ['dtBias', 'seqIdx', 'z', 'D', 'initialStates'] as const) delete x[key]
    x.A = new NDArray([2], [100, 3])
    x.dt = new NDArray([1, L, 2]).map(() => 1)
    x.x = x.x.map((v, i) => (i % 3 === 1 ? 0 : v))
    const want = reference(x).out
    for (const mode of modes) {
      const { data } = await take(runSsd(x, { mode }).out)
      for (let i = 0; i < want.size; i++) {
        if (Math.abs(want.data[i]!) > 3.5e38 || Number.isNaN(want.data[i])) expect(Number.isFinite(data[i])).toBe(false)
        else if (Math.abs(want.data[i]!) < 3e38)
          expect(Math.abs(data[i]! - want.data[i]!)).toBeLessThanOrEqual(1e-4 * Math.abs(want.data[i]!))
      }
    }
  })

  test('z so large and so small that its silu ends', async () => {
    const random = new Random('gate')
    const x = ssdInputs(random, { b: 1, L: 50, h: 2, p: 18, n: 4 })
    x.z = x.z!.map(() => random.pick([-3e38, -1e4, -104, -90, -88, -87, -20, 0, 1e-40, 20, 88, 100, 1e4]))
    await checkForms(x)
  })

  test('slow decay over a long sequence keeps its accuracy', async () => {
    const random = new Random('slow')
    const x = ssdInputs(random, { b: 1, L: 4000, h: 2, p: 6, n: 16, softplus: false })
    for (const key of ['dtBias', 'seqIdx'] as const) delete x[key]
    x.A = new NDArray([2], [-1, -0.3]).map(Math.fround)
    for (const dt of [
      random.uniform([1, 4000, 2], 5e-4, 2e-3),
      new NDArray([1, 4000, 2]).map(() => Math.fround(1e-3)),
    ]) {
      x.dt = dt
      await check(x, { mode: 'recurrent' })
      // A plain evaluation loses what this is about; chunks have fewer steps to lose it in, and need not be compared with it.
      const got = runSsd(x, { mode: 'chunked' })
      const want = reference(x)
      expectClose(await take(got.out), want.out, { on })
      expectClose(await take(got.finalStates), want.finalStates, { on })
    }
  })

  test.each([
    [0, 5, 7, 3],
    [2, 0, 3, 4],
    [2, 5, 0, 3],
    [2, 5, 3, 0],
  ])('empty: b %i, L %i, h %i, p %i', async (b, L, h, p) => {
    const x = ssdInputs(new Random('empty'), { b, L, h, p, n: 4 })
    for (const mode of modes) {
      const { out, finalStates } = runSsd(x, { mode })
      expect([out.shape, finalStates.shape]).toEqual([
        [b, L, h, p],
        [b, h, p, 4],
      ])
      expect((await out.data()).length).toBe(0)
      // With no token the final states are the initial ones.
      if (L === 0) expectClose(await take(finalStates), x.initialStates!, { on })
      const bare: SsdInputs = { ...x, initialStates: null }
      if (L === 0) expectClose(await take(runSsd(bare, { mode }).finalStates), new NDArray([b, h, p, 4]), { on })
    }
  })

  test('the result alone, unless the final states are asked for', async () => {
    const x = ssdInputs(new Random('alone'), { b: 1, L: 5, h: 2, p: 3, n: 2 })
    const t = (a: NDArray): Tensor => put(a)
    const { D: _D, z: _z, dtBias: _b, initialStates: _i, dtSoftplus: _s, seqIdx: _q, ...bare } = x
    const out: Tensor = ssdChunkScan(t(x.x), t(x.dt), t(x.A), t(x.B), t(x.C))
    expectClose(await take(out), reference(bare).out, { on })
    const same: Tensor = ssdChunkScan(t(x.x), t(x.dt), t(x.A), t(x.B), t(x.C), { returnFinalStates: false })
    expect(await same.data()).toEqual(await out.data())
  })

  test.each(halfTypes)('%s in, out and states as the dtypes say', (dtype) => {
    const x = ssdInputs(new Random('types'), { b: 2, L: 5, h: 2, p: 6, n: 2 })
    const types = ssdTypes(dtype, 'float32', 'float32', dtype)!
    const got = runSsd(seenBy(x, types), { types, where: { x: 'reversed' } })
    expect([got.out.dtype, got.finalStates.dtype]).toEqual([dtype, 'float32'])
    expect(got.out.strides).toEqual([60, 12, 6, 1])
  })

  test('inputs stay as they are', async () => {
    const x = ssdInputs(new Random('inputs'), { b: 2, L: 40, h: 2, p: 6, n: 4 })
    const arrays = [x.x, x.dt, x.A, x.B, x.C, x.initialStates!]
    const tensors = arrays.map((a) => put(a)) as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    const [u, dt, A, B, C, initialStates] = tensors
    for (const mode of modes) ssdChunkScan(u, dt, A, B, C, { initialStates, returnFinalStates: true, mode })
    for (const [i, a] of arrays.entries())
      expect(Array.from((await tensors[i]!.data()) as Float32Array)).toEqual(Array.from(a.data))
  })

  test('plain inputs', async () => {
    const out = ssdChunkScan([[[[1]], [[2]]]], [[[0.5], [0.25]]], [-1], [[[[1]], [[1]]]], [[[[2]], [[1]]]])
    const h = [0.5, 0.5 * Math.exp(-0.25) + 0.5]
    expectClose(await take(out), new NDArray([1, 2, 1, 1], [2 * h[0]!, h[1]!]), { on })
  })
})

describeOp('ssdChunkScan: what it refuses', () => {
  const [b, L, h, p, g, n] = [2, 6, 4, 3, 2, 5]
  const f = (...shape: number[]): Tensor => put(new NDArray(shape))
  type Five = [Tensor, Tensor, Tensor, Tensor, Tensor]
  const good = (): Five => [f(b, L, h, p), f(b, L, h), f(h), f(b, L, g, n), f(b, L, g, n)]
  const replaced = (i: number, t: Tensor): Five => {
    const list = good()
    list[i] = t
    return list
  }

  test.each([
    ['x', 0, [b, L, h]],
    ['dt', 1, [b, L, h + 1]],
    ['A', 2, [h, n]],
    ['B', 3, [b, L + 1, g, n]],
    ['B', 3, [b, L, 3, n]], // 4 heads in 3 groups
    ['B', 3, [b, L, 0, n]],
    ['C', 4, [b, L, g, n + 1]],
    ['C', 4, [b, L, 1, n]],
  ] as const)('%s of a wrong shape', (name, at, shape) => {
    expect(() => ssdChunkScan(...replaced(at, f(...shape)))).toThrow(
      expect.objectContaining({
        name: 'RangeError',
        code: 'ERR_SHAPE',
        message: expect.stringMatching(new RegExp(`^${name}: expected .*, got `)),
      }),
    )
  })

  test.each([
    ['D', { D: [h, p + 1] }],
    ['D', { D: [p] }],
    ['z', { z: [b, L, h, p + 1] }],
    ['dtBias', { dtBias: [h, 1] }],
    ['initialStates', { initialStates: [b, h, n, p] }],
    ['seqIdx', { seqIdx: [b, L + 1] }],
  ] as const)('option %s of a wrong shape', (name, option) => {
    const options = Object.fromEntries(
      Object.entries(option).map(([k, shape]) => {
        const zeros = new NDArray(shape as number[])
        return [k, put(zeros, k === 'seqIdx' ? 'int32' : 'float32')]
      }),
    )
    expect(() => ssdChunkScan(...good(), options)).toThrow(
      expect.objectContaining({
        code: 'ERR_SHAPE',
        message: expect.stringMatching(new RegExp(`^${name}: expected .*, got `)),
      }),
    )
  })

  test('dtypes', () => {
    const half = (...shape: number[]): Tensor => put(new NDArray(shape), 'float16')
    const refused = (name: string): unknown =>
      expect.objectContaining({
        name: 'TypeError',
        code: 'ERR_DTYPE',
        message: expect.stringMatching(new RegExp(`^${name}: expected .*, got (int32|float16|float32)`)),
      })
    expect(() => ssdChunkScan(...replaced(1, half(b, L, h)))).toThrow(refused('dt'))
    expect(() => ssdChunkScan(...replaced(3, half(b, L, g, n)))).toThrow(refused('B'))
    expect(() => ssdChunkScan(...replaced(2, put(new NDArray([h]), 'int32')))).toThrow(refused('A'))
    expect(() => ssdChunkScan(...good(), { z: half(b, L, h, p) })).toThrow(refused('z'))
    expect(() => ssdChunkScan(...good(), { seqIdx: f(b, L) })).toThrow(refused('seqIdx'))
  })

  test.each([
    [{ chunkSize: 0 }, 'RangeError', 'chunkSize'],
    [{ chunkSize: 15 }, 'RangeError', 'chunkSize'],
    [{ chunkSize: 257 }, 'RangeError', 'chunkSize'],
    [{ chunkSize: 64.5 }, 'RangeError', 'chunkSize'],
    [{ chunkSize: '64' }, 'TypeError', 'chunkSize'],
    [{ dtLimit: [1, 0] }, 'RangeError', 'dtLimit'],
    [{ dtLimit: [0, NaN] }, 'RangeError', 'dtLimit'],
    [{ dtLimit: [0] }, 'TypeError', 'dtLimit'],
    [{ dtLimit: 3 }, 'TypeError', 'dtLimit'],
    [{ mode: 'fast' }, 'TypeError', 'mode'],
    [{ mode: null }, 'TypeError', 'mode'],
    [{ dtSoftplus: 1 }, 'TypeError', 'dtSoftplus'],
    [{ chunksize: 64 }, 'TypeError', 'options'],
  ])('%j', (options, name, what) => {
    expect(() => ssdChunkScan(...good(), options as { mode?: SsdMode })).toThrow(
      expect.objectContaining({
        name,
        code: 'ERR_OPTION',
        message: expect.stringMatching(new RegExp(`^${what}: expected .*, got `)),
      }),
    )
  })
})
