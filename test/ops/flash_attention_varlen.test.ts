import { expect, test } from 'vitest'
import { flashAttention, flashAttentionVarlen, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { attentionVarlen, type PackedInputs } from '../reference/attention_cache.js'
import { expectAttention, goldenInputs, heldIn, ints, paged, scoreOptions } from '../support/attention.js'
import { expectClose } from '../support/close.js'
import { describeOp, expectKernel, on, put } from '../support/device.js'
import { floatTypes, type FloatType } from '../support/floats.js'
import { loadGolden } from '../support/golden.js'
import { layouts, place, type Layout } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

const offsets = (lengths: readonly number[]): number[] => lengths.reduce((a, n) => [...a, a.at(-1)! + n], [0])

function run(x: PackedInputs, dtype: FloatType = 'float32', q: Layout = 'plain', kv: Layout = 'plain') {
  return flashAttentionVarlen(
    place(x.q, q, dtype),
    place(x.k, kv, dtype),
    place(x.v, kv, dtype),
    ints(x.cuSeqlensQ)!,
    ints(x.cuSeqlensK),
    { ...scoreOptions(x), seqUsedK: ints(x.seqUsedK), blockTable: x.blockTable ? put(x.blockTable, 'int32') : null },
  )
}

describeOp('flashAttentionVarlen', () => {
  test.each(loadGolden('attention').filter((g) => g.inputs['kv_lens']))('golden: $name', async (g) => {
    const { q, k, v, ...rest } = goldenInputs(g.inputs, g.options)
    const [b, sq, hq, d] = q.shape as [number, number, number, number]
    const flat = (a: NDArray): NDArray => a.reshape([a.shape[0]! * a.shape[1]!, ...a.shape.slice(2)])
    const sk = k.shape[1]!
    const x = {
      ...{ ...rest, q: flat(q), k: flat(k), v: flat(v) },
      cuSeqlensQ: offsets(new Array<number>(b).fill(sq)),
      cuSeqlensK: offsets(new Array<number>(b).fill(sk)),
      seqUsedK: Array.from(g.inputs['kv_lens']!.data),
    }
    const { out, lse } = run(x)
    expectKernel('flash_attention')
    const want = { out: g.outputs['out']!.reshape([b * sq, hq, d]), lse: g.outputs['lse']!.permute([1, 0, 2]) }
    await expectAttention({ out, lse }, { ...want, lse: want.lse.reshape([hq, b * sq]) })
  })

  const grid = pairwise({
    dtype: floatTypes,
    queries: [[1], [3, 0, 40], [1, 1, 1, 1], [17, 33, 2], [130, 5], [0, 0], []],
    keys: ['as queries', 'more', 'fewer', 'ragged'],
    heads: ['1', '4 of 2', '6 of 1'],
    d: [8, 32, 64, 80],
    causal: [false, true],
    window: [null, [10, 2], [-1, 4], [5, -1]] as const,
    alibi: [false, 'heads', 'rows'],
    sinks: [false, true],
    used: [false, true],
    page: [0, 16, 48],
    spare: [0, 3],
    q: layouts,
    kv: layouts,
  })
  test.each(grid.map((c) => [describeCase(c), c] as const))('%s', async (name, c) => {
    const random = new Random(name)
    const [hq, hk] = [Number(c.heads.split(' ')[0]), Number(c.heads.split(' ').at(-1))]
    const n = c.queries.length
    const more = { 'as queries': () => 0, more: () => 30, fewer: () => -2, ragged: () => random.int(-5, 80) }[c.keys]
    const lengths = c.queries.map((q) => Math.max(0, q + more()))
    const total = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0)
    const k = random.normal([total(lengths), hk, c.d])
    const v = random.normal([total(lengths), hk, c.d])
    const plain: PackedInputs = {
      q: random.normal([total(c.queries) + c.spare, hq, c.d], 2), // rows beyond the last sequence are in none
      ...{ k, v, cuSeqlensQ: offsets(c.queries), cuSeqlensK: offsets(lengths), causal: c.causal, window: c.window },
      seqUsedK: c.used ? lengths.map((l) => random.int(0, l)) : null,
      alibiSlopes: c.alibi ? random.uniform(c.alibi === 'rows' ? [n, hq] : [hq], 0.01, 0.5) : null,
      sinks: c.sinks ? random.normal([hq]) : null,
    }
    const cut = (a: NDArray): NDArray[] => lengths.map((l, r) => a.slice(0, plain.cuSeqlensK![r]!, l))
    const x = c.page && n > 0 ? { ...plain, ...paged(random, c.page, cut(k), cut(v)) } : plain
    const held = heldIn(x, c.dtype)
    await expectAttention(run(held, c.dtype, c.q, c.kv), attentionVarlen(held))
  })

  test('a sequence at a time is the same, on the CPU to the bit', async () => {
    const random = new Random('apart')
    const [queries, keys] = [
      [300, 7, 64, 1],
      [300, 20, 600, 3000],
    ]
    const [q, k, v] = [random.normal([372, 4, 32]), random.normal([3920, 2, 32]), random.normal([3920, 2, 32])]
    const x: PackedInputs = { q, k, v, cuSeqlensQ: offsets(queries), cuSeqlensK: offsets(keys), causal: true }
    const all = await run(x).out.data()
    for (let r = 0; r < queries.length; r++) {
      const part = (a: NDArray, at: ArrayLike<number>): Tensor => {
        const s = a.slice(0, at[r]!, at[r + 1]! - at[r]!)
        return put(s.reshape([1, ...s.shape]))
      }
      const alone = flashAttention(part(q, x.cuSeqlensQ), part(k, x.cuSeqlensK!), part(v, x.cuSeqlensK!), {
        causal: true,
      })
      const one = (await alone.data()) as Float32Array
      const among = all.slice(x.cuSeqlensQ[r]! * 128, x.cuSeqlensQ[r + 1]! * 128) as Float32Array
      // A GPU cuts keys into parts by the sizes of the whole call.
      if (on === 'cpu') expect(one).toEqual(among)
      else expectClose({ shape: [one.length], data: one }, new NDArray([among.length], among), { on })
    }
  })

  test('lengths alone, beside pages: seqUsedK for cuSeqlensK', async () => {
    const random = new Random('lengths')
    const lengths = [40, 7]
    const parts = () => lengths.map((l) => random.normal([l, 1, 16]))
    const x: PackedInputs = {
      q: random.normal([9, 2, 16]),
      ...paged(random, 16, parts(), parts()),
      cuSeqlensQ: [0, 4, 9],
      seqUsedK: lengths,
      causal: true,
    }
    await expectAttention(run(x), attentionVarlen(x))
    const hinted = flashAttentionVarlen(put(x.q), put(x.k), put(x.v), ints(x.cuSeqlensQ)!, ints([0, 40, 47]), {
      ...{ ...scoreOptions(x), blockTable: put(x.blockTable!, 'int32'), maxSeqlenQ: 5, maxSeqlenK: 40 },
    })
    await expectAttention(hinted, attentionVarlen(x))
  })
})
