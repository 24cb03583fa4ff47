// What is wrong in one key, query or sequence stays with those that see it: masks choose, they do not multiply by 0.
import { expect, test } from 'vitest'
import { flashAttention, flashAttentionWithKvCache, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { attention, type AttentionInputs } from '../reference/attention.js'
import { attentionInputs, heldIn, ints, runAttention, scoreOptions } from '../support/attention.js'
import { expectClose } from '../support/close.js'
import { describeOp, on, put, take, type Values } from '../support/device.js'
import { floatTypes, type FloatType } from '../support/floats.js'
import { Random } from '../support/random.js'

/** NaN or infinite exactly where the reference is not finite, and near it everywhere else. */
function expectSame(out: Values, ref: NDArray, dtype: FloatType): void {
  const lost = (data: ArrayLike<number>): number[] =>
    Array.from(data, (v, i) => (Number.isFinite(v) ? -1 : i)).filter((i) => i >= 0)
  expect(lost(out.data)).toEqual(lost(ref.data))
  const clean = (data: ArrayLike<number>): NDArray =>
    new NDArray(
      ref.shape,
      Array.from(data, (v) => (Number.isFinite(v) ? v : 0)),
    )
  expectClose(clean(out.data), clean(ref.data), { on, dtype })
}

const masks: [string, Partial<AttentionInputs>][] = [
  ['causal', { causal: true }],
  ['a window', { window: [10, 3] }],
  ['causal, with softcap', { causal: true, softcap: 20 }],
]

describeOp('isolation in flash attention', () => {
  for (const [name, mask] of masks)
    for (const sq of [3, 90])
      test(`${name}, ${sq} queries: a bad value stays with queries that see it`, async () => {
        for (const dtype of floatTypes)
          for (const wrong of [NaN, Infinity]) {
            const random = new Random(`${name} ${sq}`)
            const given = heldIn(
              { ...attentionInputs(random, { b: 2, sq, sk: 100, hq: 4, hk: 2, d: 40, dv: 24 }), ...mask },
              dtype,
            )
            given.v.data[given.v.offset(0, 97, 1, 5)] = wrong // seen by a few of the last queries
            given.v.data[given.v.offset(1, 20, 0, 23)] = wrong
            expectSame(await take(runAttention(given, { dtype }).out), attention(given).out, dtype)
          }
      })

  test('a NaN in a key, a query, or a sink', async () => {
    const random = new Random('keys')
    for (const dtype of floatTypes)
      for (const sq of [2, 40]) {
        const given = { ...attentionInputs(random, { b: 1, sq, sk: 60, hq: 4, hk: 2, d: 16 }), causal: true }
        const x = heldIn({ ...given, sinks: new NDArray([4], [0, NaN, 0.5, 0]) }, dtype)
        x.k.data[x.k.offset(0, 59, 0, 3)] = NaN
        x.q.data[x.q.offset(0, 1, 3, 0)] = NaN
        const got = await take(runAttention(x, { dtype }).out)
        for (let i = 0; i < sq; i++)
          for (let h = 0; h < 4; h++) {
            const bad = h === 1 || (h === 0 && i === sq - 1) || (h === 3 && i === 1)
            const row = Array.from(got.data).slice((i * 4 + h) * 16, (i * 4 + h + 1) * 16)
            expect(row.every((v) => Number.isNaN(v) === bad)).toBe(true)
          }
      }
  })

  test('what lies beyond the keys of a cache is not looked at', async () => {
    const random = new Random('beyond')
    for (const dtype of floatTypes)
      for (const sq of [1, 20]) {
        const x = heldIn(attentionInputs(random, { b: 2, sq, sk: 80, hq: 4, hk: 1, d: 16 }), dtype)
        const want = attention({ ...x, k: x.k.slice(1, 0, 45), v: x.v.slice(1, 0, 45), leftPad: [3, 7], causal: true })
        for (const a of [x.k, x.v])
          for (let r = 0; r < 2; r++) {
            a.data.fill(NaN, a.offset(r, 45), a.offset(r, 45) + 35 * 16)
            a.data.fill(NaN, a.offset(r, 0), a.offset(r, 0) + [3, 7][r]! * 16)
          }
        const cache = (a: NDArray): Tensor => put(a, dtype)
        const got = flashAttentionWithKvCache(put(x.q, dtype), cache(x.k), cache(x.v), {
          ...{ ...scoreOptions({ causal: true }), cacheSeqlens: 45, leftPad: ints([3, 7]) },
        })
        expectSame(await take(got.out), want.out, dtype)
      }
  })

  test('one row of a batch of NaN leaves the others as they are', async () => {
    const random = new Random('rows')
    const x = attentionInputs(random, { b: 3, sq: 30, sk: 30, hq: 2, hk: 2, d: 16 })
    const run = () => flashAttention(put(x.q), put(x.k), put(x.v), { causal: true }).data()
    const before = await run()
    for (const a of [x.q, x.k, x.v]) a.data.fill(NaN, a.offset(1), a.offset(2))
    const after = await run()
    const size = before.length / 3
    expect(after.slice(0, size)).toEqual(before.slice(0, size))
    expect(after.slice(2 * size)).toEqual(before.slice(2 * size))
    expect(Array.from(after.slice(size, 2 * size), Number).every(Number.isNaN)).toBe(true)
  })
})
