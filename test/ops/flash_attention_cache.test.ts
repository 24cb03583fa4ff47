import { expect, test } from 'vitest'
import { flashAttention, flashAttentionWithKvCache, zeros, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { quantised, type RotaryInputs } from '../reference/attention.js'
import { append, attentionOverCache, type CacheInputs } from '../reference/attention_cache.js'
import { expectAttention, ints, paged, scoreOptions } from '../support/attention.js'
import { expectClose } from '../support/close.js'
import { describeOp, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, rounded, roundTo, type FloatType } from '../support/floats.js'
import { place, type Layout } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

/** A cache on the device. */
interface Cache {
  k: Tensor
  v: Tensor
  kScale: Tensor | null
  vScale: Tensor | null
}

function run(x: CacheInputs, cache: Cache, dtype: FloatType, more: { q?: Layout; numSplits?: number } = {}) {
  const held = (a: NDArray | null | undefined): Tensor | null => (a ? place(a, more.q ?? 'plain', dtype) : null)
  return flashAttentionWithKvCache(held(x.q)!, cache.k, cache.v, {
    ...scoreOptions(x),
    ...{ k: held(x.k), v: held(x.v), kScale: cache.kScale, vScale: cache.vScale },
    cacheSeqlens: ints(x.cacheSeqlens),
    rotaryCos: x.rotary ? put(x.rotary.cos) : null,
    rotarySin: x.rotary ? put(x.rotary.sin) : null,
    rotaryInterleaved: x.rotary?.interleaved ?? false,
    cacheBatchIdx: ints(x.cacheBatchIdx),
    blockTable: x.blockTable ? put(x.blockTable, 'int32') : null,
    cuSeqlensQ: ints(x.cuSeqlensQ),
    leftPad: ints(x.leftPad),
    numSplits: more.numSplits ?? 0,
  })
}

/** The keys of a cache as it holds them, multiplied by their scales where it has some. */
async function held(t: Tensor, scale: Tensor | null): Promise<NDArray> {
  const values = await take(t)
  const all = new NDArray(values.shape, values.data)
  if (!scale) return all
  const s = await take(scale)
  const d = values.shape[3]!
  return all.map((x, i) => x * s.data[Math.floor(i / d)]!)
}

/** A cache in int8: random whole numbers, and scales that are NaN where the values are. */
function int8Cache(random: Random, k: NDArray, v: NDArray): Cache {
  const quantise = (a: NDArray): [Tensor, Tensor] => {
    const d = a.shape[3]!
    const q = a.map((x) => (Number.isNaN(x) ? 77 : random.int(-127, 127)))
    const scale = new NDArray(a.shape.slice(0, 3)).map((_, i) =>
      Number.isNaN(a.data[i * d]!) ? NaN : Math.fround(0.02 * (0.2 + random.next())),
    )
    return [put(q, 'int8'), put(scale)]
  }
  const [[kq, kScale], [vq, vScale]] = [quantise(k), quantise(v)]
  return { k: kq, v: vq, kScale, vScale }
}

/** Calls the op, and compares what it wrote and what it returned. */
async function check(
  x: CacheInputs,
  cache: Cache,
  dtype: FloatType,
  more: Parameters<typeof run>[3] = {},
): Promise<void> {
  const before = { ...x, kCache: await held(cache.k, cache.kScale), vCache: await held(cache.v, cache.vScale) }
  const got = run(x, cache, dtype, more)
  expectKernel('flash_attention')
  const after = { ...x, kCache: await held(cache.k, cache.kScale), vCache: await held(cache.v, cache.vScale) }
  // What was not written is as it was, and what was is what the reference writes, to the cache's precision.
  const int8 = cache.kScale !== null
  const round = roundTo(dtype)
  append({
    ...before,
    keep: (key) => {
      if (!int8) return key.map((v) => round(v))
      const { scale, values } = quantised(key.data)
      return new NDArray(key.shape, values).map((v) => v * scale)
    },
  })
  const bound = int8 && x.rotary ? { bound: 3e-3 } : {} // rounding falls the other way now and then
  for (const [now, want] of [
    [after.kCache, before.kCache],
    [after.vCache, before.vCache],
  ] as const) {
    const clean = (a: NDArray): NDArray => a.map((v) => (Number.isNaN(v) ? 0 : v))
    expect(Array.from(now.data, Number.isNaN)).toEqual(Array.from(want.data, Number.isNaN))
    expectClose(clean(now), clean(want), { on, dtype: int8 ? 'float32' : dtype, ...bound })
  }
  await expectAttention(got, attentionOverCache(after))
}

function rotaryTable(random: Random, positions: number, r: number, interleaved: boolean): RotaryInputs {
  const angle = new NDArray([positions, r / 2]).map(
    (_, i) => Math.floor(i / (r / 2)) * 0.7 ** (i % (r / 2)) + random.next(),
  )
  return {
    cos: angle.map((a) => Math.fround(Math.cos(a))),
    sin: angle.map((a) => Math.fround(Math.sin(a))),
    interleaved,
  }
}

describeOp('flashAttentionWithKvCache', () => {
  const grid = pairwise({
    dtype: floatTypes,
    int8: [false, true],
    where: ['slots', 'batchIdx', 'pages of 16', 'pages of 64'],
    sq: [1, 2, 5, 20],
    fresh: ['none', 'as queries', 3, 'packed'] as const,
    used: [
      [0, 0, 0],
      [1, 40, 7],
      [130, 64, 100],
    ],
    seqlens: [true, false],
    heads: ['1', '4 of 2', '8 of 1'],
    d: [8, 40, 64, 128],
    dv: ['d', 24],
    rotary: ['none', 'half', 'interleaved', 'partial'],
    causal: [false, true],
    window: [null, [20, 1], [0, 0]] as const,
    softcap: [0, 10],
    alibi: [false, true],
    sinks: [false, true],
    leftPad: [false, true],
    splits: [0, 1, 3],
    q: ['plain', 'offset', 'rows'] as const,
  })
  test.each(grid.map((c) => [describeCase(c), c] as const))('%s', async (name, c) => {
    const random = new Random(name)
    const [hq, hk] = [Number(c.heads.split(' ')[0]), Number(c.heads.split(' ').at(-1))]
    const [b, d, dv] = [3, c.d, c.dv === 'd' ? c.d : c.dv]
    const packed = c.fresh === 'packed'
    const counts = packed ? [c.sq, 1, 9] : [c.sq, c.sq, c.sq]
    const fresh = packed || c.fresh === 'as queries' ? counts : [3, 3, 3].map((n) => (c.fresh === 'none' ? 0 : n))
    const append = c.fresh !== 'none'
    const used = c.used.map((n) => (append || c.seqlens ? n : 150))
    const room = Math.max(...used.map((n, r) => n + fresh[r]!), 150)
    const random_ = (shape: number[], scale = 1) => rounded(random.normal(shape, scale), c.dtype)
    const rows = (width: number): NDArray[] => used.map((n) => random_([n, hk, width]))
    const [keys, values] = [rows(d), rows(dv)]
    const shape = (heads: number, width: number, n: number): number[] =>
      packed ? [counts.reduce((a, x) => a + x), heads, width] : [b, n, heads, width]
    const x: CacheInputs = {
      q: random_(shape(hq, d, c.sq), 2),
      k: append ? random_(shape(hk, d, fresh[0]!)) : null,
      v: append ? random_(shape(hk, dv, fresh[0]!)) : null,
      kCache: new NDArray([0]),
      vCache: new NDArray([0]),
      cuSeqlensQ: packed ? [0, counts[0]!, counts[0]! + 1, counts[0]! + 10] : null,
      ...{ causal: c.causal, window: c.window, softcap: c.softcap },
      alibiSlopes: c.alibi ? random.uniform([b, hq], 0.01, 0.3) : null,
      sinks: c.sinks ? random.normal([hq]) : null,
      leftPad: c.leftPad ? used.map((n) => random.int(0, Math.min(n, 12))) : null,
    }
    if (append && c.rotary !== 'none')
      x.rotary = rotaryTable(random, 256, c.rotary === 'partial' ? 8 : d, c.rotary === 'interleaved')
    if (c.where.startsWith('pages')) {
      const page = Number(c.where.split(' ').at(-1))
      const p = paged(random, page, keys, values, 30)
      Object.assign(x, { kCache: p.k, vCache: p.v, blockTable: p.blockTable, cacheSeqlens: used })
    } else {
      const slots = c.where === 'batchIdx' ? [4, -1, 0] : [0, 1, 2]
      const place = (from: NDArray[], width: number): NDArray => {
        const cache = new NDArray([c.where === 'batchIdx' ? 5 : 3, room, hk, width])
        cache.data.fill(NaN)
        slots.forEach((slot, r) => slot >= 0 && cache.data.set(from[r]!.data, cache.offset(slot)))
        return cache
      }
      Object.assign(x, { kCache: place(keys, d), vCache: place(values, dv) })
      if (c.where === 'batchIdx') x.cacheBatchIdx = slots
      if (append || c.seqlens) x.cacheSeqlens = used
    }
    const cache = c.int8
      ? int8Cache(random, x.kCache, x.vCache)
      : { k: put(x.kCache, c.dtype), v: put(x.vCache, c.dtype), kScale: null, vScale: null }
    await check(x, cache, c.dtype, { q: c.q, numSplits: c.splits })
  })

  test('long caches, in parts of their own and of ours', async () => {
    const random = new Random('long caches')
    const [S, hq, hk, d] = [1500, 4, 2, 64]
    for (const dtype of floatTypes) {
      const [q, k, v] = [
        [2, 1, hq, d],
        [2, S, hk, d],
        [2, S, hk, d],
      ].map((shape) => rounded(random.normal(shape), dtype)) as [NDArray, NDArray, NDArray]
      const x: CacheInputs = { q, kCache: k, vCache: v, causal: true, cacheSeqlens: [1400, 17] }
      const cache = { k: put(k, dtype), v: put(v, dtype), kScale: null, vScale: null }
      const want = attentionOverCache(x)
      for (const numSplits of [0, 1, 2, 7, 1000]) await expectAttention(run(x, cache, dtype, { numSplits }), want)
    }
  })

  test('paged is contiguous to the bit', async () => {
    const random = new Random('paged')
    const [n, hk, d] = [1500, 2, 64]
    for (const sq of [1, 4, 40]) {
      const [k, v] = [random.normal([n, hk, d]), random.normal([n, hk, d])]
      const q = put(random.normal([1, sq, 4, d]))
      const flat = (a: NDArray): Tensor => put(a.reshape([1, n, hk, d]))
      const want = flashAttentionWithKvCache(q, flat(k), flat(v), { causal: true, returnLse: true })
      for (const page of [16, 48, 256]) {
        const p = paged(random, page, [k], [v])
        const got = flashAttentionWithKvCache(q, put(p.k), put(p.v), {
          ...{ causal: true, returnLse: true, cacheSeqlens: n, blockTable: put(p.blockTable, 'int32') },
        })
        expect(await got.out.data()).toEqual(await want.out.data())
        expect(await got.lse.data()).toEqual(await want.lse.data())
      }
    }
  })

  test('one length for all rows as a number, and a cache of one tensor for keys and values', async () => {
    const random = new Random('shared')
    const [b, S, h, d] = [2, 20, 2, 16]
    const both = zeros([2, b, S, h, d], { device: on })
    const [kCache, vCache] = [0, 1].map((i) => both.narrow(0, i, 1).reshape(b, S, h, d)) as [Tensor, Tensor]
    const parts: NDArray[][] = [[], []]
    for (let t = 0; t < 5; t++) {
      const [q, k, v] = [0, 1, 2].map(() => random.normal([b, 1, h, d])) as [NDArray, NDArray, NDArray]
      parts[0]!.push(k)
      parts[1]!.push(v)
      const out = flashAttentionWithKvCache(put(q), kCache, vCache, { k: put(k), v: put(v), cacheSeqlens: t })
      const whole = (list: NDArray[]): Tensor => {
        const all = new NDArray([b, list.length, h, d])
        list.forEach((a, i) => {
          for (let r = 0; r < b; r++) all.data.set(a.slice(0, r, 1).data, all.offset(r, i))
        })
        return put(all)
      }
      const want = flashAttention(put(q), whole(parts[0]!), whole(parts[1]!))
      expectClose(await take(out), new NDArray(want.shape, await want.toFloat32()), { on })
    }
    expect((await both.narrow(2, 5, 15).data()).every((x) => x === 0)).toBe(true)
  })

  test('what was read from a cache before does not change under the reader', async () => {
    const random = new Random('read')
    const kCache = zeros([1, 8, 1, 8], { device: on })
    const vCache = zeros([1, 8, 1, 8], { device: on })
    const before = await kCache.data()
    const token = (): Tensor => put(random.normal([1, 1, 1, 8]))
    flashAttentionWithKvCache(token(), kCache, vCache, { k: token(), v: token(), cacheSeqlens: 0 })
    expect((await kCache.data()).some((x) => x !== 0)).toBe(true)
    expect(before.every((x) => x === 0)).toBe(true)
  })

  test('int8: what a key becomes, to the bit', async () => {
    const random = new Random('int8')
    const [n, d] = [6, 16]
    const k = random.normal([1, n, 1, d])
    k.data.fill(0, 0, d) // a key of zeros
    k.data[d] = 1e30
    k.data.fill(1e-39, 2 * d, 3 * d)
    k.data[3 * d + 4] = NaN
    k.data[4 * d + 2] = -Infinity
    const [kc, vc] = [
      zeros([1, n, 1, d], { dtype: 'int8', device: on }),
      zeros([1, n, 1, d], { dtype: 'int8', device: on }),
    ]
    const [ks, vs] = [zeros([1, n, 1], { device: on }), zeros([1, n, 1], { device: on })]
    flashAttentionWithKvCache(put(random.normal([1, 1, 1, d])), kc, vc, {
      ...{ k: put(k), v: put(k), cacheSeqlens: 0, kScale: ks, vScale: vs },
    })
    const [values, scales] = [await take(kc), await take(ks)]
    for (const j of [0, 1, 2, 5]) {
      const want = quantised(k.data.slice(j * d, (j + 1) * d))
      expect(scales.data[j]).toBe(want.scale)
      expect(Array.from(values.data).slice(j * d, (j + 1) * d)).toEqual(want.values.map((v) => v + 0))
    }
    for (const j of [3, 4]) expect(scales.data[j]).toBeNaN()
    expect(await vc.data()).toEqual(await kc.data())
  })
})
