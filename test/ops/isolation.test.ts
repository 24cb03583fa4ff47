// What is wrong in one place must not spread: a NaN or an infinity stays in its row, channel and sequence. Kernels work
// on many of these at a time and mask what does not belong, and a mask that multiplies by 0 lets NaN through.
import { expect, test } from 'vitest'
import { causalConv1dUpdate, selectiveStateUpdate, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { causalConv1d as convReference } from '../reference/causal_conv1d.js'
import { causalConv1dUpdate as convUpdateReference } from '../reference/causal_conv1d_update.js'
import { selectiveScan as scanReference, type ScanInputs } from '../reference/selective_scan.js'
import { ssdRecurrent as ssdReference, type SsdInputs } from '../reference/ssd_chunk_scan.js'
import { expectClose } from '../support/close.js'
import { runConv } from '../support/conv.js'
import { describeOp, on, put, take, type Values } from '../support/device.js'
import { floatTypes, halfTypes, rounded, roundedTo, type FloatType } from '../support/floats.js'
import { Random } from '../support/random.js'
import { run, scanInputs, scanTypes } from '../support/scan.js'
import { runSsd, seenBy, ssdBound, ssdInputs, ssdTypes, type SsdHow } from '../support/ssd.js'

/** NaN exactly where the reference has it, and near the reference everywhere else. */
function expectSame(out: Values, ref: NDArray, dtype: FloatType = 'float32', bound?: number): void {
  const lost = (data: ArrayLike<number>): number[] => {
    const at: number[] = []
    for (let i = 0; i < data.length; i++) if (!Number.isFinite(data[i])) at.push(i)
    return at
  }
  expect(lost(out.data)).toEqual(lost(ref.data))
  const cleaned = (data: ArrayLike<number>): NDArray =>
    new NDArray(
      ref.shape,
      Array.from(data, (v) => (Number.isFinite(v) ? v : 0)),
    )
  expect(out.dtype).toBe(dtype)
  expectClose(cleaned(out.data), cleaned(ref.data), { on, dtype, ...(bound ? { bound } : {}) })
}

const [b, d, L, n] = [2, 37, 150, 16]

async function checkScan(given: ScanInputs, layout: 'plain' | 'swapped' | 'fused'): Promise<void> {
  for (const dtype of floatTypes) {
    const types = scanTypes(given, dtype)
    const x = roundedTo(given, types)
    const got = run(x, { u: layout, delta: layout, z: layout }, types)
    const want = scanReference(x)
    expectSame(await take(got.out), want.out, dtype)
    expectSame(await take(got.lastState), want.lastState)
  }
}

const ssdForms: SsdHow[] = [
  { mode: 'recurrent' },
  { mode: 'quadratic' },
  { mode: 'chunked' },
  { mode: 'chunked', chunkSize: 17 },
  { mode: 'chunked', chunkSize: 256 },
  ...halfTypes.map((dtype) => ({ mode: 'chunked' as const, types: ssdTypes(dtype, dtype, 'float32', 'float32') })),
]

async function checkSsd(given: SsdInputs, how: SsdHow): Promise<void> {
  const x = seenBy(given, how.types)
  const got = runSsd(x, how)
  const dtype = how.types?.x ?? 'float32'
  const { bound } = ssdBound(dtype)
  const want = ssdReference(x)
  expectSame(await take(got.out), want.out, dtype, bound)
  expectSame(await take(got.finalStates), want.finalStates, 'float32', bound)
}

describeOp('NaN stays where it belongs', () => {
  test.each(['plain', 'swapped', 'fused'] as const)('selectiveScan, in one channel (%s)', async (layout) => {
    for (const key of ['u', 'delta', 'z', 'initialState'] as const) {
      const x: ScanInputs = scanInputs(new Random(key), { b, d, L, n })
      delete x.seqIdx
      x[key] = x[key]!.clone()
      if (key === 'initialState') x[key].set(NaN, 1, 17, 3)
      else x[key].set(NaN, 1, 17, 70)
      await checkScan(x, layout)
    }
  })

  test.each(['plain', 'swapped', 'fused'] as const)('selectiveScan, in one sequence (%s)', async (layout) => {
    for (const value of [NaN, Infinity])
      for (const [at, next] of [
        [0, 1],
        [5, 9],
        [63, 64],
        [64, 65],
        [100, 128],
      ] as const) {
        const x: ScanInputs = scanInputs(new Random(at), { b, d, L, n })
        x.u = x.u.clone()
        for (let c = 0; c < d; c++) x.u.set(value, 0, c, at)
        x.seqIdx = new Random('ids').sequences(b, L, [next])
        delete x.z
        await checkScan(x, layout)
      }
  })

  test('selectiveScan, in a group of B and C', async () => {
    const x: ScanInputs = scanInputs(new Random('groups'), {
      b,
      d: 36,
      L: 40,
      n,
      groups: 3,
      B: 'grouped',
      C: 'grouped',
    })
    delete x.seqIdx
    x.B.set(NaN, 0, 1, 4, 20)
    x.C.set(NaN, 1, 2, 5, 10)
    await checkScan(x, 'plain')
    await checkScan(x, 'swapped')
  })

  test.each(ssdForms)('ssdChunkScan, in one head, channel or group, from its token on (%j)', async (how) => {
    // Two groups of two heads; more than one block of tokens, and channels that fill no vector.
    const [p, h] = [19, 4]
    for (const [key, at] of [
      ['x', [1, 270, 2, 17]],
      ['dt', [1, 270, 2]],
      ['dt', [0, 0, 1]],
      ['z', [1, 269, 2, 17]],
      ['initialStates', [1, 2, 17, 3]],
      ['B', [1, 270, 1, 5]],
      ['C', [0, 100, 0, 5]],
      ['A', [2]],
      ['dtBias', [3]],
      ['D', [1]],
    ] as const) {
      const x = ssdInputs(new Random(key), { b, L: 290, h, p, n, groups: 2 })
      delete x.seqIdx
      x[key] = x[key]!.clone()
      x[key].set(NaN, ...at)
      await checkSsd(x, how)
    }
  })

  test.each(ssdForms)('ssdChunkScan, in one sequence (%j)', async (how) => {
    for (const [at, ends] of [
      [0, [1]],
      [5, [5, 9]],
      [63, [64]],
      [64, [64, 65]],
      [15, [3, 16, 17]],
      [100, [30, 128]],
    ] as const)
      for (const [key, value] of [
        ['x', NaN],
        ['x', Infinity],
        ['B', NaN],
        ['dt', NaN],
      ] as const) {
        const x = ssdInputs(new Random(at), { b, L, h: 2, p: 19, n, groups: 2 })
        const poisoned = x[key].clone()
        for (let i = 0; i < poisoned.size / b / L; i++) poisoned.data[(poisoned.size / b / L) * at + i] = value
        x[key] = poisoned
        x.seqIdx = new Random('ids').sequences(b, L, [...ends])
        delete x.z
        await checkSsd(x, how)
      }
  })

  test.each(['plain', 'swapped', 'fused'] as const)('causalConv1d, in one channel and sequence (%s)', async (x) => {
    const random = new Random('conv')
    for (const w of [2, 4, 7])
      for (const at of [0, 1, 15, 62, 63, 64, 149]) {
        const q = {
          x: random.normal([b, d, L]),
          weight: random.normal([d, w]),
          initialStates: random.normal([b, d, w - 1]),
          seqIdx: random.sequences(b, L, [1, 16, 64, 65]),
        }
        q.x.set(NaN, 0, 17, at)
        q.x.set(Infinity, 1, 5, at)
        q.initialStates.set(NaN, 1, 9, w - 2)
        for (const dtype of floatTypes) {
          const types = { x: dtype, weight: dtype, initialStates: dtype }
          const r = roundedTo(q, types)
          expectSame(await take(runConv(r, { x }, types).out), convReference(r).out, dtype)
        }
      }
  })

  test.each(floatTypes)(
    'causalConv1dUpdate, older than the taps reach, in other slots and rows (%s)',
    async (dtype) => {
      const random = new Random('update')
      for (const ring of [false, true]) {
        const [w, m] = [4, 9]
        const q = {
          x: rounded(random.normal([3, 20, 2]), dtype),
          convState: rounded(random.normal([5, 20, m]), dtype),
          weight: rounded(random.normal([20, w]), dtype),
          stateIndices: [4, -1, 1],
          ...(ring ? { cacheSeqlens: [7, 0, 12] } : {}),
        }
        for (let c = 0; c < 20; c++) {
          for (let k = 0; k < m; k++) for (const slot of [0, 2, 3]) q.convState.set(NaN, slot, c, k)
          // Slots 4 and 1 at positions 7 and 12: the taps read 4…6 and 9…11, modulo 9, or the last three.
          for (const k of ring ? [0, 7, 8] : [0, 1, 5]) q.convState.set(NaN, 4, c, k)
          for (const k of ring ? [3, 7, 8] : [0, 1, 5]) q.convState.set(NaN, 1, c, k)
        }
        const state = put(q.convState, dtype)
        const row = (list: number[]): Tensor => put(new NDArray([3], list), 'int32')
        const out = causalConv1dUpdate(put(q.x, dtype), state, put(q.weight, dtype), {
          stateIndices: row(q.stateIndices),
          cacheSeqlens: q.cacheSeqlens && row(q.cacheSeqlens),
        })
        const want = convUpdateReference(q)
        expect(want.data.some(Number.isNaN)).toBe(false)
        expectSame(await take(out), want, dtype)
        expect(Array.from((await take(state)).data)).toEqual(Array.from(q.convState.data))
      }
    },
  )

  test.each(floatTypes)('selectiveStateUpdate, in other channels, slots and rows (%s)', async (dtype) => {
    const random = new Random('state')
    const state = rounded(random.normal([4, 20, 16]), dtype).map((v, i) => (i < 320 || i >= 960 ? NaN : v))
    state.set(NaN, 1, 7, 3)
    const t = put(state, dtype)
    const f = (...shape: number[]): Tensor => put(rounded(random.normal(shape), dtype), dtype)
    const out = selectiveStateUpdate(t, f(3, 20), f(3, 20), f(20, 16), f(3, 16), f(3, 16), {
      stateIndices: put(new NDArray([3], [1, -5, 2]), 'int32'),
      dtSoftplus: true,
    })
    const lost = Array.from((await take(out)).data, (v, i) => (Number.isNaN(v) ? i : -1)).filter((i) => i >= 0)
    expect(lost).toEqual([7])
    const after = (await take(t)).data
    expect(Array.from(after).filter(Number.isNaN)).toHaveLength(641)
  })
})
