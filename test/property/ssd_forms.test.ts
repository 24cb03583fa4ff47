// ssdChunkScan is one function however it is computed: in chunks of any size, token by token, as attention does it, in
// parts of the sequence one after the other, packed beside other sequences.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { concat, NDArray } from '../reference/array.js'
import type { SsdInputs } from '../reference/ssd_chunk_scan.js'
import { expectClose } from '../support/close.js'
import { describeOp, on, take } from '../support/device.js'
import { Random } from '../support/random.js'
import { cutTime, runSsd, ssdInputs, type SsdHow } from '../support/ssd.js'

const runs = { numRuns: 25, seed: 20240531 }
const modes = ['auto', 'chunked', 'recurrent', 'quadratic'] as const

/** What the other way gives, to compare with. */
async function values(x: SsdInputs, how: SsdHow): Promise<{ out: NDArray; finalStates: NDArray }> {
  const got = runSsd(x, how)
  const [out, finalStates] = [await take(got.out), await take(got.finalStates)]
  return { out: new NDArray(out.shape, out.data), finalStates: new NDArray(finalStates.shape, finalStates.data) }
}

const sizes = fc.record({
  b: fc.integer({ min: 1, max: 2 }),
  h: fc.integer({ min: 1, max: 6 }),
  p: fc.integer({ min: 1, max: 70 }),
  n: fc.constantFrom(1, 3, 8, 16, 17, 40, 130),
  mode: fc.constantFrom(...modes),
  chunkSize: fc.integer({ min: 16, max: 256 }),
  packed: fc.boolean(),
  seed: fc.integer(),
} as const)

describeOp('ssdChunkScan, the same function in every form', () => {
  test('chunked, recurrent and quadratic agree', async () => {
    await fc.assert(
      fc.asyncProperty(sizes, fc.integer({ min: 1, max: 600 }), async ({ b, h, p, n, chunkSize, packed, seed }, L) => {
        const x = ssdInputs(new Random(seed), { b, h, p, n, L, groups: h % 2 ? 1 : 2 })
        if (!packed) delete x.seqIdx
        const want = await values(x, { mode: 'recurrent' })
        for (const how of [{ mode: 'chunked', chunkSize }, { mode: 'chunked' }, { mode: 'quadratic' }] as const) {
          const got = runSsd(x, how)
          expectClose(await take(got.out), want.out, { on })
          expectClose(await take(got.finalStates), want.finalStates, { on })
        }
      }),
      runs,
    )
  })

  test('in any split, the state carried on', async () => {
    const parts = fc.array(fc.integer({ min: 0, max: 90 }), { minLength: 1, maxLength: 5 })
    await fc.assert(
      fc.asyncProperty(sizes, parts, async ({ b, h, p, n, mode, chunkSize, packed, seed }, lengths) => {
        const L = lengths.reduce((a, m) => a + m, 0)
        const x = ssdInputs(new Random(seed), { b, h, p, n, L, groups: h })
        if (!packed) delete x.seqIdx
        const how = { mode, chunkSize }
        const whole = await values(x, how)
        const outs: NDArray[] = []
        let states = x.initialStates!
        let from = 0
        for (const length of lengths) {
          const part = cutTime(x, from, length)
          // A sequence that begins with the part begins with no state.
          part.initialStates = states.map((v, i) => {
            const row = Math.floor(i / (h * p * n))
            const anew = x.seqIdx && from > 0 && length > 0 && x.seqIdx.at(row, from) !== x.seqIdx.at(row, from - 1)
            return anew ? 0 : v
          })
          const got = await values(part, how)
          outs.push(got.out)
          if (length > 0) states = got.finalStates
          else expect(got.finalStates.data).toEqual(part.initialStates.data)
          from += length
        }
        const all = concat(outs, 1)
        expectClose(all, whole.out, { on })
        if (L > 0) expectClose(states, whole.finalStates, { on })
      }),
      runs,
    )
  })

  test.each(modes)('packed sequences are what each gives by itself (%s)', async (mode) => {
    const lengths = [1, 30, 2, 64, 3, 117, 300]
    const L = lengths.reduce((a, n) => a + n)
    const x = ssdInputs(new Random('packed'), { b: 1, h: 2, p: 20, n: 16, L })
    delete x.initialStates
    x.seqIdx = new NDArray(
      [1, L],
      lengths.flatMap((n, i) => Array<number>(n).fill(i)),
    )
    const whole = await values(x, { mode })
    let from = 0
    for (const length of lengths) {
      const part = cutTime(x, from, length)
      delete part.seqIdx
      const alone = await values(part, { mode })
      expectClose(alone.out, whole.out.slice(1, from, length), { on })
      from += length
      if (from === L) expectClose(alone.finalStates, whole.finalStates, { on })
    }
  })

  test.each(modes)('rows and heads by themselves are those of the whole (%s)', async (mode) => {
    const x = ssdInputs(new Random('rows'), { b: 2, h: 4, p: 20, n: 16, L: 100, groups: 2 })
    const whole = await values(x, { mode })
    for (let row = 0; row < 2; row++)
      for (let head = 0; head < 4; head++) {
        const cut = (a: NDArray, dim: number, at: number): NDArray => a.slice(0, row, 1).slice(dim, at, 1)
        const alone = await values(
          {
            ...x,
            x: cut(x.x, 2, head),
            dt: cut(x.dt, 2, head),
            z: cut(x.z!, 2, head),
            B: cut(x.B, 2, head >> 1),
            C: cut(x.C, 2, head >> 1),
            A: x.A.slice(0, head, 1),
            D: x.D!.slice(0, head, 1),
            dtBias: x.dtBias!.slice(0, head, 1),
            initialStates: cut(x.initialStates!, 1, head),
            seqIdx: x.seqIdx!.slice(0, row, 1),
          },
          { mode },
        )
        expectClose(alone.out, cut(whole.out, 2, head), { on })
        expectClose(alone.finalStates, cut(whole.finalStates, 1, head), { on })
      }
  })
})
