// The same attention in other ways: in chunks, a token at a time, from pages, with a mask for a window.
import { expect, test } from 'vitest'
import { cat, flashAttention, flashAttentionWithKvCache, zeros, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { attention, type ScoreOptions } from '../reference/attention.js'
import { attentionInputs, heldIn, scoreOptions, withExtras, type Extras } from '../support/attention.js'
import { expectClose } from '../support/close.js'
import { describeOp, dut, on, put, take } from '../support/device.js'
import { floatTypes } from '../support/floats.js'
import { Random } from '../support/random.js'

const [b, L, hq, hk, d] = [2, 75, 4, 2, 32]

describeOp('one attention, many ways', () => {
  const splits = [[75], [1, 74], [40, 35], [13, 1, 1, 60], new Array<number>(75).fill(1), [30, 30, 15]]
  const cases: [string, ScoreOptions, Extras][] = [
    ['causal', {}, {}],
    ['with a window', { window: [20, 0] }, {}],
    ['with softcap', { softcap: 10 }, {}],
    ['with ALiBi and sinks', {}, { alibi: 'rows', sinks: true }],
  ]
  for (const [name, options, extras] of cases)
    test(`a prompt in any chunks, and token by token: ${name}`, async () => {
      for (const dtype of floatTypes) {
        const random = new Random('chunks')
        const x = heldIn(
          {
            ...withExtras(random, attentionInputs(random, { b, sq: L, sk: L, hq, hk, d }), extras),
            ...options,
            causal: true,
          },
          dtype,
        )
        const { returnLse: _, ...given } = scoreOptions(x)
        const want = attention(x).out
        const [q, k, v] = [put(x.q, dtype), put(x.k, dtype), put(x.v, dtype)]
        expectClose(await take(flashAttention(q, k, v, given)), want, { on, dtype })
        for (const split of splits) {
          const [kCache, vCache] = [
            zeros([b, 90, hk, d], { dtype, device: dut }),
            zeros([b, 90, hk, d], { dtype, device: dut }),
          ]
          const parts: Tensor[] = []
          let at = 0
          for (const n of split) {
            parts.push(
              flashAttentionWithKvCache(q.narrow(1, at, n), kCache, vCache, {
                ...{ ...given, k: k.narrow(1, at, n), v: v.narrow(1, at, n), cacheSeqlens: at },
              }),
            )
            at += n
          }
          expectClose(await take(cat(parts, 1)), want, { on, dtype })
        }
      }
    })

  test('in parts of a batch, heads and groups', async () => {
    const random = new Random('parts')
    const x = attentionInputs(random, { b: 3, sq: 20, sk: 33, hq: 6, hk: 2, d: 16 })
    const [q, k, v] = [put(x.q), put(x.k), put(x.v)]
    const whole = await flashAttention(q, k, v, { causal: true }).data()
    const rows = [0, 1, 2].map((r) =>
      flashAttention(q.narrow(0, r, 1), k.narrow(0, r, 1), v.narrow(0, r, 1), { causal: true }),
    )
    expect(await cat(rows, 0).data()).toEqual(whole)
    const groups = [0, 1].map((g) =>
      flashAttention(q.narrow(2, 3 * g, 3), k.narrow(2, g, 1), v.narrow(2, g, 1), { causal: true }),
    )
    expect(await cat(groups, 2).data()).toEqual(whole)
    // KV heads repeated, as a library without groups would need them
    const repeated = (t: Tensor): Tensor =>
      cat(
        [0, 0, 0, 1, 1, 1].map((g) => t.narrow(2, g, 1)),
        2,
      )
    const heads = flashAttention(q, repeated(k), repeated(v), { causal: true })
    expectClose(await take(heads), new NDArray([3, 20, 6, 16], whole as Float32Array), { on })
  })

  test('parts of the keys, joined by their lse', async () => {
    const random = new Random('joined')
    const x = attentionInputs(random, { b: 1, sq: 9, sk: 70, hq: 2, hk: 2, d: 16 })
    const want = attention(x).out
    const parts = await Promise.all(
      [
        [0, 30],
        [30, 40],
      ].map(async ([from, n]) => {
        const part = (a: NDArray): Tensor => put(a.slice(1, from!, n!))
        const { out, lse } = flashAttention(put(x.q), part(x.k), part(x.v), { returnLse: true })
        return { out: await take(out), lse: await take(lse) }
      }),
    )
    const joined = new NDArray(want.shape).map((_, at) => {
      const [i, h] = [Math.floor(at / 32), Math.floor(at / 16) % 2]
      const lse = parts.map((p) => p.lse.data[h * 9 + i]!)
      const total = Math.log(lse.reduce((a, l) => a + Math.exp(l), 0))
      return parts.reduce((a, p, n) => a + p.out.data[at]! * Math.exp(lse[n]! - total), 0)
    })
    expectClose(joined, want, { on })
  })
})
