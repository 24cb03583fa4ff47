import { expect, test } from 'vitest'
import { flashAttention, flashAttentionVarlen, flashAttentionWithKvCache, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { attention } from '../reference/attention.js'
import { ints } from '../support/attention.js'
import { expectClose } from '../support/close.js'
import { describeOp, on, put, take } from '../support/device.js'
import { Random } from '../support/random.js'

const random = new Random('errors')
const of = (...shape: number[]): Tensor => put(random.normal(shape))

const coded = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) })

describeOp('what flash attention refuses', () => {
  const q = of(2, 3, 4, 16)
  const kv = of(2, 5, 2, 16)
  const refusals: [string, () => unknown, string, RegExp][] = [
    ['q of three dimensions', () => flashAttention(of(2, 3, 16), kv, kv), 'ERR_SHAPE', /^q: expected shape \(b, sq, hq, d\), got/],
    ['k of other rows', () => flashAttention(q, of(3, 5, 2, 16), of(3, 5, 2, 16)), 'ERR_SHAPE', /^k: expected as many rows/],
    ['k of another d', () => flashAttention(q, of(2, 5, 2, 8), kv), 'ERR_SHAPE', /^k: expected a last dimension of d = 16/],
    ['v of other keys', () => flashAttention(q, kv, of(2, 6, 2, 16)), 'ERR_SHAPE', /^v: expected the shape of k/],
    ['heads that do not divide', () => flashAttention(q, of(2, 5, 3, 16), of(2, 5, 3, 16)), 'ERR_SHAPE', /^k: expected a number of heads that divides hq = 4, got 3/],
    ['d of no multiple of 8', () => flashAttention(of(1, 2, 1, 12), of(1, 2, 1, 12), of(1, 2, 1, 12)), 'ERR_SHAPE', /^q: expected d a multiple of 8/],
    ['d above 512', () => flashAttention(of(1, 2, 1, 520), of(1, 2, 1, 520), of(1, 2, 1, 520)), 'ERR_SHAPE', /^q: expected d a multiple of 8 from 8 to 512/],
    ['dv of no multiple of 8', () => flashAttention(q, kv, of(2, 5, 2, 17)), 'ERR_SHAPE', /^v: expected dv a multiple of 8/],
    ['mixed dtypes', () => flashAttention(q, kv.to('float16'), kv.to('float16')), 'ERR_DTYPE', /^k: expected float32 as q has, got float16/],
    ['whole numbers', () => flashAttention(q.to('int32'), kv, kv), 'ERR_DTYPE', /^q: expected float32, float16 or bfloat16, got int32/],
    ['int8 outside a cache', () => flashAttention(q, kv.to('int8'), kv.to('int8')), 'ERR_DTYPE', /^k: expected float32/],
    ['a misspelled option', () => flashAttention(q, kv, kv, { casual: true } as object), 'ERR_OPTION', /causal/],
    ['a window of one number', () => flashAttention(q, kv, kv, { window: 5 as never }), 'ERR_OPTION', /^window: expected two whole numbers/],
    ['a window below -1', () => flashAttention(q, kv, kv, { window: [-2, 0] }), 'ERR_OPTION', /^window: expected/],
    ['a softcap below 0', () => flashAttention(q, kv, kv, { softcap: -1 }), 'ERR_OPTION', /^softcap: expected/],
    ['a scale that is NaN', () => flashAttention(q, kv, kv, { scale: NaN }), 'ERR_OPTION', /^scale: expected a finite number/],
    ['an infinite scale', () => flashAttention(q, kv, kv, { scale: Infinity }), 'ERR_OPTION', /^scale: expected a finite number/],
    ['slopes of other heads', () => flashAttention(q, kv, kv, { alibiSlopes: of(3) }), 'ERR_SHAPE', /^alibiSlopes: expected shape \(4,\)/],
    ['sinks of other heads', () => flashAttention(q, kv, kv, { sinks: of(2) }), 'ERR_SHAPE', /^sinks: expected shape \(4,\)/],
    ['offsets that are not int32', () => flashAttentionVarlen(of(3, 2, 8), of(3, 2, 8), of(3, 2, 8), of(2), ints([0, 3])), 'ERR_DTYPE', /^cuSeqlensQ: expected int32/],
    ['offsets of other sequences', () => flashAttentionVarlen(of(3, 2, 8), of(3, 2, 8), of(3, 2, 8), ints([0, 3])!, ints([0, 1, 3])), 'ERR_SHAPE', /^cuSeqlensK: expected shape \(2,\)/],
    ['no offsets of keys', () => flashAttentionVarlen(of(3, 2, 8), of(3, 2, 8), of(3, 2, 8), ints([0, 3])!, null), 'ERR_SHAPE', /^cuSeqlensK: expected/],
    ['pages of 20 keys', () => flashAttentionVarlen(of(3, 2, 8), of(4, 20, 2, 8), of(4, 20, 2, 8), ints([0, 3])!, ints([0, 3]), { blockTable: put(new NDArray([1, 1]), 'int32') }), 'ERR_SHAPE', /^k: expected pages of a multiple of 16/],
    ['a cache that is no Tensor', () => flashAttentionWithKvCache(q, [1] as never, kv), 'ERR_DTYPE', /^kCache: expected a Tensor/],
    ['a cache of other slots', () => flashAttentionWithKvCache(q, of(3, 5, 2, 16), of(3, 5, 2, 16)), 'ERR_SHAPE', /^kCache: expected as many slots/],
    ['keys without values', () => flashAttentionWithKvCache(q, kv, kv, { k: of(2, 1, 2, 16), cacheSeqlens: 0 }), 'ERR_OPTION', /^v: expected both k and v/],
    ['new keys without lengths', () => flashAttentionWithKvCache(q, kv, kv, { k: of(2, 1, 2, 16), v: of(2, 1, 2, 16) }), 'ERR_OPTION', /^k: expected cacheSeqlens/],
    ['rotary without new keys', () => flashAttentionWithKvCache(q, kv, kv, { rotaryCos: of(9, 8), rotarySin: of(9, 8) }), 'ERR_OPTION', /^rotaryCos: expected new keys/],
    ['cos without sin', () => flashAttentionWithKvCache(q, kv, kv, { k: of(2, 1, 2, 16), v: of(2, 1, 2, 16), cacheSeqlens: 1, rotaryCos: of(9, 8) }), 'ERR_OPTION', /^rotarySin: expected both/],
    ['rotation of more than d', () => flashAttentionWithKvCache(q, kv, kv, { k: of(2, 1, 2, 16), v: of(2, 1, 2, 16), cacheSeqlens: 1, rotaryCos: of(9, 9), rotarySin: of(9, 9) }), 'ERR_SHAPE', /^rotaryCos: expected/],
    ['scales beside floats', () => flashAttentionWithKvCache(q, kv, kv, { kScale: of(2, 5, 2), vScale: of(2, 5, 2) }), 'ERR_OPTION', /^kScale: expected an int8 cache/],
    ['int8 without scales', () => flashAttentionWithKvCache(q, kv.to('int8'), kv.to('int8')), 'ERR_SHAPE', /^kScale: expected a float32 tensor/],
    ['slots beside pages', () => flashAttentionWithKvCache(q, of(4, 16, 2, 16), of(4, 16, 2, 16), { blockTable: put(new NDArray([2, 1]), 'int32'), cacheBatchIdx: ints([0, 1]) }), 'ERR_OPTION', /^cacheBatchIdx: expected/],
    ['a cache whose keys are spread', () => flashAttentionWithKvCache(q, of(2, 5, 16, 2).transpose(2, 3), kv), 'ERR_SHAPE', /^kCache: expected the elements of a key side by side/],
    ['splits below 0', () => flashAttentionWithKvCache(q, kv, kv, { numSplits: -1 }), 'ERR_OPTION', /^numSplits: expected/],
  ] // prettier-ignore
  test.each(refusals)('%s', (_, call, code, message) => {
    expect(call).toThrow(coded(code, message))
  })

  test('a tensor that was disposed', () => {
    const gone = of(2, 5, 2, 16)
    gone.dispose()
    expect(() => flashAttention(q, gone, kv)).toThrow(coded('ERR_DISPOSED', /^k: /))
  })
})

describeOp('bad indices on the device', () => {
  const [sq, S, hq, hk, d] = [2, 20, 2, 1, 16]
  const q = random.normal([3, sq, hq, d])
  const k = random.normal([3, S, hk, d])
  const v = random.normal([3, S, hk, d])

  /** The op reports ERR_INDEX once; rows in `bad` are 0 and −∞, the others what attention over `lengths` gives. */
  async function expectReported(
    run: () => { out: Tensor; lse: Tensor },
    bad: number[],
    lengths: number[],
  ): Promise<void> {
    const { out, lse } = run()
    await expect(out.data()).rejects.toMatchObject({ code: 'ERR_INDEX' })
    const [o, l] = [await take(out), await take(lse)]
    for (let r = 0; r < 3; r++) {
      const row = new NDArray([1, sq, hq, d], Array.from(o.data).slice(r * sq * hq * d, (r + 1) * sq * hq * d))
      const rowLse = Array.from(l.data).slice(r * hq * sq, (r + 1) * hq * sq)
      if (bad.includes(r)) {
        expect(row.data.every((x) => x === 0)).toBe(true)
        expect(rowLse.every((x) => x === -Infinity)).toBe(true)
        continue
      }
      const one = (a: NDArray, n: number): NDArray => a.slice(0, r, 1).slice(1, 0, n)
      const want = attention({ q: q.slice(0, r, 1), k: one(k, lengths[r]!), v: one(v, lengths[r]!) })
      expectClose(row, want.out, { on })
    }
  }

  test.each([
    ['a length past the cache', [5, 21, 7]],
    ['a length below 0', [5, -1, 7]],
    ['a huge length', [5, 2 ** 31 - 1, 7]],
  ])('%s', async (_, lengths) => {
    const run = () =>
      flashAttentionWithKvCache(put(q), put(k), put(v), { cacheSeqlens: ints(lengths), returnLse: true })
    await expectReported(run, [1], lengths)
  })

  test('a slot past the cache; a slot below 0 is idle, and no error', async () => {
    const run = (slots: number[]) =>
      flashAttentionWithKvCache(put(q), put(k), put(v), { cacheBatchIdx: ints(slots), returnLse: true })
    await expectReported(() => run([0, 3, 2]), [1], [S, S, S])
    const idle = run([0, -5, 2])
    const out = await idle.out.data()
    expect(out.slice(sq * hq * d, 2 * sq * hq * d).every((x) => x === 0)).toBe(true)
  })

  test('padding past the keys', async () => {
    const lengths = [5, 6, 7]
    const run = () =>
      flashAttentionWithKvCache(put(q), put(k), put(v), {
        ...{ cacheSeqlens: ints(lengths), leftPad: ints([0, 7, 0]), returnLse: true },
      })
    await expectReported(run, [1], lengths)
  })

  test.each([
    ['past the pages', 6],
    ['below 0', -1],
    ['huge', 2 ** 31 - 1],
  ])('a page %s', async (_, entry) => {
    const pages = (a: NDArray): Tensor => {
      const p = new NDArray([6, 16, hk, d])
      for (let r = 0; r < 3; r++)
        for (let j = 0; j < S; j++) p.data.set(a.slice(0, r, 1).slice(1, j, 1).data, p.offset(2 * r + (j >> 4), j % 16))
      return put(p)
    }
    const table = put(new NDArray([3, 2], [0, 1, 2, entry, 4, 5]), 'int32')
    const run = () =>
      flashAttentionWithKvCache(put(q), pages(k), pages(v), {
        ...{ blockTable: table, cacheSeqlens: S, returnLse: true },
      })
    await expectReported(run, [1], [S, S, S])
  })

  test('new keys with no room leave the cache as it is', async () => {
    const [kc, vc] = [put(k), put(v)]
    const fresh = (): Tensor => put(random.normal([3, 2, hk, d]))
    const out = flashAttentionWithKvCache(put(q), kc, vc, {
      k: fresh(),
      v: fresh(),
      cacheSeqlens: ints([S - 1, S, 2 ** 30]),
    })
    await expect(out.data()).rejects.toMatchObject({ code: 'ERR_INDEX' })
    expect((await out.data()).every((x) => x === 0)).toBe(true)
    expect(Array.from(await kc.data(), Number)).toEqual(Array.from(k.data))
    expect(Array.from(await vc.data(), Number)).toEqual(Array.from(v.data))
  })

  test('rotary positions past the table', async () => {
    const table = (): Tensor => put(random.normal([10, 4]))
    const fresh = (): Tensor => put(random.normal([3, 1, hk, d]))
    const out = flashAttentionWithKvCache(put(q), put(k), put(v), {
      ...{ k: fresh(), v: fresh(), cacheSeqlens: ints([3, 10, 4]), rotaryCos: table(), rotarySin: table() },
    })
    await expect(out.data()).rejects.toMatchObject({ code: 'ERR_INDEX' })
    const got = await out.data()
    const row = (r: number) => got.slice(r * sq * hq * d, (r + 1) * sq * hq * d)
    expect(row(1).every((x) => x === 0)).toBe(true)
    expect(row(0).every((x) => x !== 0) && row(2).every((x) => x !== 0)).toBe(true)
  })

  test.each([
    ['that descend', [0, 4, 2, 6]],
    ['that begin late', [1, 2, 4, 6]],
    ['past the tokens', [0, 2, 4, 7]],
    ['below 0', [0, -2, 4, 6]],
  ])('offsets %s make all of out 0', async (_, offsets) => {
    const flat = (a: NDArray): Tensor => put(a.reshape([a.shape[0]! * a.shape[1]!, ...a.shape.slice(2)]))
    for (const bad of ['q', 'k'] as const) {
      const [cuQ, cuK] = [
        bad === 'q' ? offsets : [0, 2, 4, 6],
        bad === 'k' ? offsets.map((x) => x * 10) : [0, S, 2 * S, 3 * S],
      ]
      const { out, lse } = flashAttentionVarlen(flat(q), flat(k), flat(v), ints(cuQ)!, ints(cuK), { returnLse: true })
      await expect(out.data()).rejects.toMatchObject({ code: 'ERR_INDEX' })
      expect((await out.data()).every((x) => x === 0)).toBe(true)
      expect((await lse.data()).every((x) => x === -Infinity)).toBe(true)
    }
  })

  test('more keys used than there are', async () => {
    const flat = (a: NDArray): Tensor => put(a.reshape([a.shape[0]! * a.shape[1]!, ...a.shape.slice(2)]))
    const lengths = [5, S, 7]
    const run = () => {
      const { out, lse } = flashAttentionVarlen(
        flat(q),
        flat(k),
        flat(v),
        ints([0, 2, 4, 6])!,
        ints([0, S, 2 * S, 3 * S]),
        {
          ...{ seqUsedK: ints([5, S + 1, 7]), returnLse: true },
        },
      )
      return { out: out.reshape(3, sq, hq, d), lse: lse.reshape(hq, 3, sq).transpose(0, 1) }
    }
    await expectReported(run, [1], lengths)
  })
})
