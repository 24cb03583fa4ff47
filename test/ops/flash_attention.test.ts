import { expect, test } from 'vitest'
import { flashAttention, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { attention } from '../reference/attention.js'
import {
  attentionInputs,
  checkAttention,
  expectAttention,
  goldenInputs,
  heldIn,
  runAttention,
  scoreOptions,
  withExtras,
} from '../support/attention.js'
import { describeOp, dut, expectKernel, put } from '../support/device.js'
import { floatTypes, halfTypes } from '../support/floats.js'
import { loadGolden } from '../support/golden.js'
import { layouts } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

describeOp('flashAttention', () => {
  test.each(loadGolden('attention').filter((g) => !g.inputs['kv_lens']))(
    'golden: $name',
    async ({ inputs, outputs, options }) => {
      const x = goldenInputs(inputs, options)
      const got = runAttention(x)
      expectKernel('flash_attention')
      await expectAttention(got, { out: outputs['out']!, lse: outputs['lse']! }, x)
    },
  )

  const grid = pairwise({
    dtype: floatTypes,
    sq: [1, 2, 3, 7, 8, 14, 15, 29, 33, 64, 100, 130],
    sk: [1, 2, 5, 16, 31, 33, 64, 100, 255, 256, 257, 300],
    heads: ['1', '2', '4 of 2', '6 of 2', '8 of 1'],
    d: [8, 16, 24, 40, 64, 72, 96, 128],
    dv: ['d', 8, 24, 64, 80],
    b: [1, 2],
    causal: [false, true],
    window: ['none', 'left', 'right', 'both', 'narrow', 'past'],
    softcap: [0, 15],
    scale: ['default', 0.2, -0.1],
    alibi: [false, 'heads', 'rows'] as const,
    sinks: [false, true],
    q: layouts,
    k: layouts,
    v: layouts,
  })
  const windows = {
    none: null,
    left: [20, -1],
    right: [-1, 5],
    both: [17, 3],
    narrow: [0, 0],
    past: [400, 400],
  } as const
  test.each(grid.map((c) => [describeCase(c), c] as const))('%s', async (name, c) => {
    const random = new Random(name)
    const [hq, hk] = [Number(c.heads.split(' ')[0]), Number(c.heads.split(' ').at(-1))]
    const { b, sq, sk, d, causal, softcap } = c
    const x = withExtras(random, attentionInputs(random, { b, sq, sk, hq, hk, d, dv: c.dv === 'd' ? d : c.dv }), c)
    const options = { causal, softcap, window: windows[c.window], scale: c.scale === 'default' ? null : c.scale }
    await checkAttention({ ...x, ...options }, { dtype: c.dtype, q: c.q, k: c.k, v: c.v })
  })

  test.each([8, 16, 24, 32, 56, 104, 112, 120, 136, 160, 192, 200, 248, 256, 320, 512])('head dim %i', async (d) => {
    for (const [sq, sk] of [
      [1, 70],
      [20, 70],
    ] as const) {
      const random = new Random(`head dim ${d}`)
      const x = attentionInputs(random, { b: 1, sq, sk, hq: 2, hk: 1, d })
      for (const dtype of floatTypes) await checkAttention({ ...x, causal: true }, { dtype })
    }
  })

  test('a head dim of values that is not that of keys', async () => {
    for (const [d, dv] of [
      [192, 128],
      [64, 256],
      [8, 512],
      [512, 8],
    ] as const)
      for (const sq of [1, 17]) {
        const x = attentionInputs(new Random(`${d} ${dv}`), { b: 1, sq, sk: 40, hq: 2, hk: 2, d, dv })
        await checkAttention({ ...x, causal: true })
      }
  })

  test('long: more than a few hundred queries and keys, causal and with a window', async () => {
    const random = new Random('long')
    const x = attentionInputs(random, { b: 1, sq: 700, sk: 900, hq: 2, hk: 1, d: 16 })
    await checkAttention({ ...x, causal: true })
    await checkAttention({ ...x, window: [100, 0] })
    await checkAttention({ ...x, window: [64, 30] }, { dtype: 'bfloat16' })
  })

  test('few queries over many keys, in parts', async () => {
    const random = new Random('many keys')
    for (const sq of [1, 3, 20]) {
      const x = attentionInputs(random, { b: 1, sq, sk: 5000, hq: 2, hk: 2, d: 64 })
      await checkAttention({ ...x, causal: true })
      await checkAttention({ ...x, window: [3000, 0], sinks: random.normal([2]) })
    }
  })

  test('views of one projection', async () => {
    const [b, L, hq, hk, d] = [2, 50, 4, 2, 32]
    const random = new Random('fused')
    for (const dtype of floatTypes) {
      const all = random.normal([b, L, hq + 2 * hk, d])
      const x = heldIn(
        { q: all.slice(2, 0, hq), k: all.slice(2, hq, hk), v: all.slice(2, hq + hk, hk), causal: true },
        dtype,
      )
      const held = heldIn({ q: all, k: all, v: all }, dtype).q
      const qkv = put(held.reshape([b, L, (hq + 2 * hk) * d]), dtype)
      const part = (from: number, heads: number): Tensor => qkv.narrow(2, from * d, heads * d).reshape(b, L, heads, d)
      const got = flashAttention(part(0, hq), part(hq, hk), part(hq + hk, hk), scoreOptions(x))
      await expectAttention(got, attention(x), x)
    }
  })

  test('heads before tokens, as other libraries have them', async () => {
    const random = new Random('heads first')
    for (const sq of [1, 40]) {
      const x = { ...attentionInputs(random, { b: 2, sq, sk: 90, hq: 4, hk: 2, d: 32 }), causal: true }
      const turned = (a: NDArray): Tensor => put(a.permute([0, 2, 1, 3])).transpose(1, 2)
      await expectAttention(flashAttention(turned(x.q), turned(x.k), turned(x.v), scoreOptions(x)), attention(x), x)
    }
  })

  test('one key for all rows and heads, by strides of 0', async () => {
    const random = new Random('repeated')
    const x = attentionInputs(random, { b: 1, sq: 5, sk: 30, hq: 4, hk: 1, d: 16 })
    const [k, v] = [put(x.k), put(x.v)]
    await expectAttention(flashAttention(put(x.q), k, v, scoreOptions(x)), attention(x), x)
    await expectAttention(flashAttention(put(x.k), k, k, scoreOptions({})), attention({ q: x.k, k: x.k, v: x.k }))
  })

  test('out alone without returnLse', async () => {
    const x = attentionInputs(new Random('out'), { b: 1, sq: 5, sk: 9, hq: 2, hk: 2, d: 8 })
    const { out } = runAttention(x)
    const alone = flashAttention(put(x.q), put(x.k), put(x.v))
    expect(alone.shape).toEqual([1, 5, 2, 8])
    expect(await alone.data()).toEqual(await out.data())
  })

  test('queries that see nothing', async () => {
    const random = new Random('nothing')
    for (const [sq, sk] of [
      [30, 10],
      [3, 1],
      [20, 0],
      [1, 0],
    ] as const)
      for (const sinks of [false, true]) {
        const sizes = { b: 2, sq, sk, hq: 2, hk: 1, d: 16 }
        await checkAttention({ ...withExtras(random, attentionInputs(random, sizes), { sinks }), causal: true })
      }
  })

  test('no queries, no heads, no rows', async () => {
    for (const shape of [
      [2, 0, 2, 8],
      [0, 3, 2, 8],
      [2, 3, 0, 8],
    ] as const) {
      const q = put(new NDArray(shape))
      const kv = put(new NDArray([shape[0], 4, 1, 8]))
      const { out, lse } = flashAttention(q, kv, kv, { returnLse: true })
      expect([out.shape, lse.shape]).toEqual([[...shape], [shape[0], shape[2], shape[1]]])
      expect((await out.data()).length + (await lse.data()).length).toBe(0)
    }
  })

  test('extreme scores: the largest wins, nothing overflows', async () => {
    const random = new Random('extreme')
    const x = attentionInputs(random, { b: 1, sq: 20, sk: 40, hq: 1, hk: 1, d: 16 })
    await checkAttention({ ...x, q: x.q.map((v) => v * 1000) })
    await checkAttention({ ...x, q: x.q.map((v) => v * 1e-20) })
    await checkAttention({ ...x, q: x.q.slice(1, 0, 2).map((v) => v * 1000), causal: true })
    await checkAttention({ ...x, softcap: 5, q: x.q.map((v) => v * 1000) })
    await checkAttention({ ...x, softcap: 50, q: x.q.map((v) => v * 1e-3) })
    await checkAttention({ ...x, sinks: new NDArray([1], [200]) })
    await checkAttention({ ...x, sinks: new NDArray([1], [-200]) })
  })

  test('small operands of 16 bits', async () => {
    const random = new Random('weights')
    for (const dtype of halfTypes) {
      const x = withExtras(random, attentionInputs(random, { b: 2, sq: 9, sk: 20, hq: 4, hk: 2, d: 16 }), {
        alibi: 'heads',
        sinks: true,
      })
      const held = {
        ...x,
        sinks: heldIn({ ...x, q: x.sinks! }, dtype).q,
        alibiSlopes: heldIn({ ...x, q: x.alibiSlopes! }, dtype).q,
      }
      const options = {
        ...scoreOptions(held),
        sinks: put(held.sinks, dtype),
        alibiSlopes: put(held.alibiSlopes, dtype),
      }
      await expectAttention(flashAttention(put(x.q), put(x.k), put(x.v), options), attention(held), held)
    }
  })

  test('plain inputs', async () => {
    const x = attentionInputs(new Random('plain'), { b: 1, sq: 2, sk: 3, hq: 1, hk: 1, d: 8 })
    const plain = (a: NDArray) => ({ type: 'float32', data: Float32Array.from(a.data), dims: a.shape })
    const out = flashAttention(put(x.q), plain(x.k), plain(x.v))
    expect(out.device).toBe(dut)
    expect(await out.data()).toEqual(await flashAttention(put(x.q), put(x.k), put(x.v)).data())
  })
})
