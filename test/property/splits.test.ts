import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  causalConv1d,
  causalConv1dUpdate,
  cat,
  selectiveScan,
  selectiveStateUpdate,
  type Tensor,
} from '../../lib/index.js'
import { concat, NDArray } from '../reference/array.js'
import type { ScanInputs } from '../reference/selective_scan.js'
import { expectClose } from '../support/close.js'
import { describeOp, on, put, take } from '../support/device.js'
import { floatTypes, rounded, roundedTo } from '../support/floats.js'
import { Random } from '../support/random.js'
import { run, scanInputs, scanTypes } from '../support/scan.js'

const runs = { numRuns: 25, seed: 20240229 }

/** What tests of equality between two ways compare with: the other way's values. */
async function values(t: Tensor): Promise<NDArray> {
  const { shape, data } = await take(t)
  return new NDArray(shape, data)
}

/** The cut of every input that has a time to [from, from + length). */
function cut(x: ScanInputs, from: number, length: number): ScanInputs {
  const time = (a: NDArray): NDArray => a.slice(a.shape.length - 1, from, length)
  return {
    ...x,
    u: time(x.u),
    delta: time(x.delta),
    z: x.z && time(x.z),
    B: x.B.shape.length === 2 ? x.B : time(x.B),
    C: x.C.shape.length === 2 ? x.C : time(x.C),
    seqIdx: x.seqIdx && time(x.seqIdx),
  }
}

const sizes = fc.record({
  b: fc.integer({ min: 1, max: 3 }),
  d: fc.integer({ min: 1, max: 36 }),
  n: fc.constantFrom(1, 3, 4, 8, 16, 17, 40),
  parts: fc.array(fc.integer({ min: 0, max: 70 }), { minLength: 1, maxLength: 5 }),
  B: fc.constantFrom('constant', 'shared', 'grouped'),
  C: fc.constantFrom('constant', 'shared', 'grouped'),
  layout: fc.constantFrom('plain', 'swapped', 'offset', 'fused'),
  dtype: fc.constantFrom(...floatTypes),
  seed: fc.integer(),
} as const)

// In 16 bits too: the states between are float32, so that two ways differ by no more than one rounding each.
describeOp('any split of a sequence gives what the whole gives', () => {
  test('selectiveScan, its state carried on', async () => {
    await fc.assert(
      fc.asyncProperty(sizes, fc.boolean(), async ({ b, d, n, parts, B, C, layout, dtype, seed }, packed) => {
        const L = parts.reduce((a, m) => a + m, 0)
        const given: ScanInputs = scanInputs(new Random(seed), { b, d, n, L, groups: d % 2 ? 1 : 2, B, C })
        const types = scanTypes(given, dtype)
        const x = roundedTo(given, types)
        if (!packed) delete x.seqIdx
        const where = { u: layout, delta: layout, z: layout }
        const whole = run(x, where, types)
        const outs: NDArray[] = []
        let state = x.initialState!
        let from = 0
        for (const length of parts) {
          const part = cut(x, from, length)
          // A sequence that begins with the part begins with no state.
          part.initialState = state.map((v, i) => {
            const row = Math.floor(i / (d * n))
            const anew = x.seqIdx && from > 0 && length > 0 && x.seqIdx.at(row, from) !== x.seqIdx.at(row, from - 1)
            return anew ? 0 : v
          })
          const got = run(part, where, types)
          outs.push(await values(got.out))
          state = length > 0 ? await values(got.lastState) : state
          if (length === 0) expectClose(await take(got.lastState), part.initialState, { on })
          from += length
        }
        expectClose(concat(outs, 2), await values(whole.out), { on, dtype })
        if (L > 0) expectClose(state, await values(whole.lastState), { on })
      }),
      runs,
    )
  })

  test('selectiveStateUpdate, token by token', async () => {
    await fc.assert(
      fc.asyncProperty(sizes, async ({ b, d, n, parts, layout, dtype, seed }) => {
        const L = Math.min(20, parts[0]! + 1)
        const grouped = seed % 2 === 0
        const groups = d % 2 ? 1 : 2
        const given: ScanInputs = scanInputs(new Random(seed), {
          b,
          d,
          n,
          L,
          groups,
          ...(grouped ? { B: 'grouped', C: 'grouped' } : {}),
        })
        delete given.seqIdx
        const types = scanTypes(given, dtype)
        const x = roundedTo(given, types)
        const whole = run(x, { u: layout, delta: layout, z: layout }, types)
        const state = put(x.initialState!)
        const [u, delta, z, B, C] = [x.u, x.delta, x.z!, x.B, x.C].map((a) => put(a, dtype)) as [
          Tensor,
          Tensor,
          Tensor,
          Tensor,
          Tensor,
        ]
        const [A, D, dtBias] = [x.A, x.D!, x.deltaBias!].map((a) => put(a, dtype)) as [Tensor, Tensor, Tensor]
        const outs: Tensor[] = []
        for (let t = 0; t < L; t++) {
          const now = (a: Tensor): Tensor => a.narrow(a.shape.length - 1, t, 1).reshape(a.shape.slice(0, -1))
          outs.push(
            selectiveStateUpdate(state, now(u), now(delta), A, now(B), now(C), {
              D,
              z: now(z),
              dtBias,
              dtSoftplus: true,
            }).reshape(b, d, 1),
          )
        }
        expectClose(await take(cat(outs, 2)), await values(whole.out), { on, dtype })
        expectClose(await take(state), await values(whole.lastState), { on })
      }),
      runs,
    )
  })

  test('causalConv1d, its states carried on, and causalConv1dUpdate by tokens or by runs of them', async () => {
    const conv = fc.record({
      b: fc.integer({ min: 1, max: 3 }),
      d: fc.integer({ min: 1, max: 36 }),
      w: fc.integer({ min: 1, max: 7 }),
      longer: fc.integer({ min: 0, max: 4 }),
      parts: fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 6 }),
      activation: fc.constantFrom(null, 'silu' as const),
      dtype: fc.constantFrom(...floatTypes),
      seed: fc.integer(),
    })
    await fc.assert(
      fc.asyncProperty(conv, async ({ b, d, w, longer, parts, activation, dtype, seed }) => {
        const random = new Random(seed)
        const normal = (shape: number[]): Tensor => put(rounded(random.normal(shape), dtype), dtype)
        const L = parts.reduce((a, m) => a + m, 0)
        const [x, weight, bias, initial] = [[b, d, L], [d, w], [d], [b, d, w - 1]].map(normal) as [
          Tensor,
          Tensor,
          Tensor,
          Tensor,
        ]
        const options = { bias, activation }
        const whole = causalConv1d(x, weight, { ...options, initialStates: initial, returnFinalStates: true })

        // The window that shifts holds some inputs more than the taps need; the ring begins at any position.
        const m = Math.max(1, w - 1 + longer)
        const start = random.int(0, 50)
        const pad = normal([b, d, m - (w - 1)])
        const shifting = cat([pad, initial], 2)
        const ring = put(new NDArray([b, d, m]), dtype)
        for (let k = 0; k < w - 1; k++) {
          const slot = (((start - (w - 1) + k) % m) + m) % m
          ring.narrow(2, slot, 1).copyFrom(initial.narrow(2, k, 1))
        }
        const outs: Tensor[][] = [[], [], []]
        let states = initial
        let from = 0
        for (const length of parts) {
          const part = x.narrow(2, from, length)
          const got = causalConv1d(part, weight, { ...options, initialStates: states, returnFinalStates: true })
          outs[0]!.push(got.out)
          states = got.finalStates
          outs[1]!.push(causalConv1dUpdate(part, shifting, weight, options))
          const cacheSeqlens = put(
            new NDArray([b]).map(() => start + from),
            'int32',
          )
          outs[2]!.push(causalConv1dUpdate(part, ring, weight, { ...options, cacheSeqlens }))
          from += length
        }
        const want = await values(whole.out)
        for (const list of outs) expectClose(await take(cat(list, 2)), want, { on, dtype })
        const final = await values(whole.finalStates)
        expect(await take(states)).toEqual({
          dtype,
          shape: final.shape,
          data: Float32Array.from(final.data),
        })
        expect((await values(shifting)).slice(2, m - (w - 1), w - 1).data).toEqual(final.data)
      }),
      runs,
    )
  })

  test('selectiveScan of rows by themselves is that of the batch', async () => {
    const x: ScanInputs = scanInputs(new Random('rows'), { b: 3, d: 20, n: 16, L: 100 })
    const whole = await values(run(x).out)
    for (let i = 0; i < 3; i++) {
      const row = (a: NDArray): NDArray => a.slice(0, i, 1)
      const alone = run({
        ...x,
        u: row(x.u),
        delta: row(x.delta),
        z: row(x.z!),
        B: row(x.B),
        C: row(x.C),
        initialState: row(x.initialState!),
        seqIdx: row(x.seqIdx!),
      })
      expectClose(await take(alone.out), row(whole), { on })
    }
  })

  test('packed sequences are what each gives by itself', async () => {
    const lengths = [1, 30, 2, 64, 3, 17]
    const L = lengths.reduce((a, n) => a + n)
    const x: ScanInputs = scanInputs(new Random('packed'), { b: 1, d: 20, n: 16, L })
    delete x.initialState
    x.seqIdx = new NDArray(
      [1, L],
      lengths.flatMap((n, i) => Array<number>(n).fill(i)),
    )
    const whole = await values(run(x).out)
    let from = 0
    for (const length of lengths) {
      const part = cut(x, from, length)
      delete part.seqIdx
      expectClose(await take(run(part).out), whole.slice(2, from, length), { on })
      from += length
    }
  })
})

describeOp('linearity', () => {
  test('selectiveScan without gate is linear in u and the initial state', async () => {
    const random = new Random('linear')
    const x: ScanInputs = scanInputs(random, { b: 2, d: 20, n: 8, L: 50 })
    delete x.z
    const y: ScanInputs = { ...x, u: random.normal(x.u.shape), initialState: random.normal(x.initialState!.shape) }
    const sum = {
      ...x,
      u: x.u.map((v, i) => Math.fround(v + y.u.data[i]!)),
      initialState: x.initialState!.map((v, i) => Math.fround(v + y.initialState!.data[i]!)),
    }
    const [a, b] = [await values(run(x).out), await values(run(y).out)]
    expectClose(
      await take(run(sum).out),
      a.map((v, i) => v + b.data[i]!),
      { on },
    )
  })

  test('no options is every option at its default', async () => {
    const x = scanInputs(new Random('defaults'), { b: 1, d: 5, n: 4, L: 20, softplus: false })
    const inputs = [x.u, x.delta, x.A, x.B, x.C].map((a) => put(a)) as [Tensor, Tensor, Tensor, Tensor, Tensor]
    const bare = await selectiveScan(...inputs).data()
    const zeros = await selectiveScan(...inputs, {
      D: put(new NDArray([5])),
      deltaBias: put(new NDArray([5])),
      deltaSoftplus: false,
      initialState: put(new NDArray([1, 5, 4])),
      seqIdx: put(new NDArray([1, 20]), 'int32'),
    }).data()
    expectClose({ shape: [1, 5, 20], data: zeros as Float32Array }, new NDArray([1, 5, 20], bare as Float32Array), {
      on,
    })
  })
})
