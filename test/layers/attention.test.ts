// The attention layer and its caches against the float64 definition: whole, in any split, and step by step.

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { cat, scope, tensor, type Tensor } from '../../lib/index.js'
import {
  Attention,
  PagePool,
  restoreKVCache,
  type AttentionConfig,
  type KVCache,
  type KVCacheOptions,
} from '../../lib/layers/index.js'
import { attentionShapes } from '../../lib/layers/attention.js'
import { readTensors } from '../../lib/layers/cache.js'
import { kvKinds } from '../../lib/layers/kv/index.js'
import { liveTensors } from '../models/support.js'
import { NDArray } from '../reference/array.js'
import { expectClose } from '../support/close.js'
import { dut, on, take, type Values } from '../support/device.js'
import { floatTypes, halfTypes, rounded, roundTo, type FloatType } from '../support/floats.js'
import { Random } from '../support/random.js'
import { attentionLayer, type Sees } from './attention-reference.js'

const base = {
  hidden_size: 32,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  rope_theta: 100,
  max_position_embeddings: 64,
}

const configs: Record<string, AttentionConfig> = {
  'grouped heads': base,
  'a head of its own for each query head': { ...base, num_key_value_heads: 4, attention_bias: true },
  'one KV head, wide heads': {
    ...base,
    num_key_value_heads: 1,
    head_dim: 24,
    attention_bias: true,
    attention_out_bias: false,
  },
  'neighbours turned, a part of each head': {
    ...base,
    head_dim: 16,
    rope_interleave: true,
    partial_rotary_factor: 0.5,
  },
  'no positions': { hidden_size: 32, num_attention_heads: 4 },
  'normalised q and k': { ...base, qk_norm: true, rms_norm_eps: 1e-3 },
  'a window, a cap and a scale': { ...base, sliding_window: 9, attn_logit_softcapping: 2, query_pre_attn_scalar: 3 },
  'learned sinks': { ...base, attention_sinks: true },
}

interface Case {
  readonly layer: Attention
  readonly x: NDArray
  /** what it computes from */
  readonly weights: Record<string, NDArray>
}

/** A layer with random weights of a dtype, and an input. */
function make(config: AttentionConfig, batch: number, length: number, dtype: FloatType = 'float32'): Case {
  const random = new Random(JSON.stringify(config))
  const weights: Record<string, NDArray> = {}
  for (const [name, shape] of Object.entries(attentionShapes(config))) {
    const near = name.includes('norm') ? 1 : 0
    const scale = shape.length === 2 ? 1.5 / Math.sqrt(shape[1]!) : 0.3
    weights[name] = rounded(random.normal(shape, scale, near), dtype)
  }
  const state = Object.fromEntries(Object.entries(weights).map(([name, t]) => [name, placed(t, dtype)]))
  const layer = new Attention(config, state)
  for (const t of Object.values(state)) t.dispose()
  return { layer, weights, x: rounded(random.normal([batch, length, config.hidden_size]), dtype) }
}

function placed(t: NDArray, dtype: FloatType): Tensor {
  return tensor(Float32Array.from(t.data), { shape: [...t.shape], dtype, device: dut })
}

/** The layer over x in pieces, of one token by step where that is wanted. */
async function inPieces(
  { layer }: Case,
  x: NDArray,
  cache: KVCache,
  bounds: readonly number[],
  stepping = true,
  dtype: FloatType = 'float32',
): Promise<Values> {
  const [batch, , hidden] = x.shape as [number, number, number]
  const whole = placed(x, dtype)
  const outs = bounds.slice(1).map((to, i) => {
    const from = bounds[i]!
    return scope(() => {
      const part = whole.narrow(1, from, to - from)
      if (!stepping || to - from > 1) return layer.forward(part, cache)
      return layer.step(part.reshape([batch, hidden]), cache).reshape([batch, 1, hidden])
    })
  })
  const all = cat(outs, 1)
  const values = await take(all)
  for (const t of [whole, all, ...outs]) t.dispose()
  return values
}

describe.each(Object.entries(configs))('%s', (_, config) => {
  test.each(floatTypes)('forward in %s', async (dtype) => {
    const before = liveTensors()
    const { layer, weights, x } = make(config, 2, 37, dtype)
    const out = scope(() => layer.forward(placed(x, dtype)))
    const r = dtype === 'float32' ? undefined : roundTo(dtype)
    expectClose(await take(out), attentionLayer(config, weights, x, r), {
      ...{ on, dtype },
      plain: () => attentionLayer(config, weights, x, Math.fround),
    })
    out.dispose()
    layer.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('any split, and step by step, with the cache that it gets by default', async () => {
    const made = make(config, 2, 37)
    const want = attentionLayer(config, made.weights, made.x)
    const plain = () => attentionLayer(config, made.weights, made.x, Math.fround)
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.integer({ min: 1, max: 36 }), { maxLength: 8 }),
        fc.boolean(),
        async (cuts, stepping) => {
          const cache = made.layer.newCache(2)
          const bounds = [0, ...cuts.sort((a, b) => a - b), 37]
          expectClose(await inPieces(made, made.x, cache, bounds, stepping), want, { on, plain })
          expect(cache.length).toBe(37)
          cache.dispose()
        },
      ),
      { numRuns: 12 },
    )
    const cache = made.layer.newCache(2)
    expectClose(
      await inPieces(
        made,
        made.x,
        cache,
        Array.from({ length: 38 }, (_, i) => i),
      ),
      want,
      { on, plain },
    )
    cache.dispose()
    made.layer.dispose()
  })
})

// Longer than the rings are, so that they are gone round.
const LENGTH = 150
const kinds: Record<string, { options: KVCacheOptions; sees: Sees; rollback: number }> = {
  contiguous: { options: { kind: 'contiguous' }, sees: {}, rollback: LENGTH },
  'contiguous, of a token at first': { options: { kind: 'contiguous', capacity: 1 }, sees: {}, rollback: LENGTH },
  paged: { options: { kind: 'paged' }, sees: {}, rollback: LENGTH },
  sliding: { options: { kind: 'sliding', window: 7 }, sees: { window: 7 }, rollback: 40 },
  'sliding, of one token': { options: { kind: 'sliding', window: 1 }, sees: { window: 1 }, rollback: 40 },
  sinks: { options: { kind: 'sinks', window: 9, sinks: 3 }, sees: { window: 9, sinks: 3 }, rollback: 40 },
}

describe.each(Object.entries(kinds))('a cache of kind %s', (_, { options, sees, rollback }) => {
  const config = configs['grouped heads']!
  const every = Array.from({ length: LENGTH + 1 }, (_, i) => i)
  const splits = [[0, LENGTH], [0, 1, 2, 3, 90, LENGTH], [0, 11, 12, 13, 14, 100, 149, LENGTH], every]

  test('any split gives what its mask says', async () => {
    const before = liveTensors()
    const made = make(config, 2, LENGTH)
    const want = attentionLayer(config, made.weights, made.x, undefined, sees)
    const plain = () => attentionLayer(config, made.weights, made.x, Math.fround, sees)
    for (const bounds of splits) {
      const cache = made.layer.newCache(2, options)
      expectClose(await inPieces(made, made.x, cache, bounds), want, { on, plain })
      expect([cache.length, cache.batch]).toEqual([LENGTH, 2])
      cache.dispose()
      cache.dispose()
    }
    made.layer.dispose()
    expect(liveTensors()).toBe(before)
  })

  test.each(halfTypes)('in %s', async (dtype) => {
    const made = make(config, 2, LENGTH, dtype)
    const exact = attentionLayer(config, made.weights, made.x, undefined, sees)
    const rounding = attentionLayer(config, made.weights, made.x, roundTo(dtype), sees)
    const norm = (t: NDArray): number => Math.hypot(...t.data)
    // What the roundings of each op lose, and a third for luck. Sinks and window are two attentions, each of which is rounded
    // before they are joined.
    const lost = norm(rounding.map((v, i) => v - exact.data[i]!)) / norm(exact)
    const bound = (sees.sinks === undefined ? 1.33 : 1.6) * lost
    expect(lost).toBeLessThan(dtype === 'float16' ? 1e-3 : 8e-3)
    for (const bounds of splits.slice(1, 3)) {
      const cache = made.layer.newCache(2, { ...options, dtype })
      expectClose(await inPieces(made, made.x, cache, bounds, true, dtype), exact, { on, dtype, bound })
      cache.dispose()
    }
    made.layer.dispose()
  })

  test('is cloned, saved, restored, reset, and rolled back', async () => {
    const before = liveTensors()
    const made = make(config, 2, LENGTH)
    const want = attentionLayer(config, made.weights, made.x, undefined, sees)
    const plain = () => attentionLayer(config, made.weights, made.x, Math.fround, sees).slice(1, 110, 40)
    const rest = made.x.slice(1, 110, 40)
    const limits = { on, plain }
    const cache = made.layer.newCache(2, options)
    await inPieces(made, made.x.slice(1, 0, 110), cache, [0, 3, 17, 110])
    const saved = await cache.save()
    const fork = cache.clone()
    await inPieces(made, made.x.slice(1, 60, 40), cache, [0, 1, 40], false) // goes on otherwise; the copies must not
    const restored = restoreKVCache(saved, dut)
    for (const copy of [fork, restored]) {
      expect([copy.length, copy.batch, copy.kind]).toEqual([110, 2, cache.kind])
      expectClose(await inPieces(made, rest, copy, [0, 1, 2, 40]), want.slice(1, 110, 40), limits)
    }
    // Other tokens, taken back, and the right ones.
    expect(restored.rollbackMost).toBeGreaterThanOrEqual(Math.min(rollback, 150))
    restored.rollback(40)
    await inPieces(made, made.x.slice(1, 0, 33), restored, [0, 32, 33])
    restored.rollback(33)
    expectClose(await inPieces(made, rest, restored, [0, 1, 40]), want.slice(1, 110, 40), limits)
    expect(() => restored.rollback(restored.rollbackMost + 1)).toThrow(/^tokens: expected a whole number from 0 to/)
    expect(() => restored.rollback(-1)).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
    cache.reset()
    expect(cache.length).toBe(0)
    expectClose(await inPieces(made, made.x, cache, [0, 40, LENGTH]), want, { on })
    for (const c of [cache, fork, restored, made.layer]) c.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('steps by a captured graph', async () => {
    const made = make(config, 2, LENGTH)
    const want = attentionLayer(config, made.weights, made.x, undefined, sees)
    const cache = made.layer.newCache(2, options)
    await inPieces(made, made.x.slice(1, 0, 5), cache, [0, 5])
    const whole = placed(made.x, 'float32')
    const token = (t: number): Tensor => scope(() => whole.narrow(1, t, 1).reshape([2, 32]).clone())
    let graph: ReturnType<typeof capture> | undefined
    const capture = (x: Tensor) => dut.capture((t: Tensor) => made.layer.step(t, cache), x)
    for (let t = 5; t < LENGTH; t++) {
      const x = token(t)
      if (cache.prepare(1) || !graph) {
        graph?.dispose()
        graph = capture(x)
      }
      const got = await take(graph.run(x))
      cache.counted(1)
      x.dispose()
      expectClose(got, want.slice(1, t, 1).reshape([2, 32]), { on, bound: on === 'cpu' ? 4e-6 : 2e-5 })
    }
    graph?.dispose()
    for (const c of [whole, cache, made.layer]) c.dispose()
  })
})

describe('a cache in int8', () => {
  const config = configs['grouped heads']!

  test('is as near as an element held to a part in 254 of its key’s largest', async () => {
    const made = make(config, 2, LENGTH)
    const want = attentionLayer(config, made.weights, made.x)
    const got: ArrayLike<number>[] = []
    for (const bounds of [
      [0, LENGTH],
      [0, 1, 2, 70, 150],
    ]) {
      const cache = made.layer.newCache(2, { kind: 'int8', capacity: 16 })
      const out = await inPieces(made, made.x, cache, bounds)
      got.push(out.data)
      // Errors of a half of 1/127 at most, of which each key's elements have 1/√3 on average, and an element is less than
      // the largest of 8 by a factor of two or so: below 1/127 of the whole.
      expectClose(out, want, { on, bound: 1 / 127 })
      const copy = cache.clone()
      const restored = restoreKVCache(await cache.save(), dut)
      const next = made.x.slice(1, 0, 3)
      const [a, b, c] = [
        await inPieces(made, next, cache, [0, 3]),
        await inPieces(made, next, copy, [0, 3]),
        await inPieces(made, next, restored, [0, 3]),
      ]
      expect(Array.from(b.data)).toEqual(Array.from(a.data))
      expect(Array.from(c.data)).toEqual(Array.from(a.data))
      for (const t of [cache, copy, restored]) t.dispose()
    }
    made.layer.dispose()
  })

  test('takes a quarter of the bytes, and the scales', () => {
    const { layer } = make(config, 2, 1)
    const [plain, int8] = [layer.newCache(2, { capacity: 100 }), layer.newCache(2, { kind: 'int8', capacity: 100 })]
    expect(plain.bytes).toBe(2 * 2 * 100 * 2 * 8 * 4 + 8)
    expect(int8.bytes).toBe(2 * 2 * 100 * 2 * (8 + 4) + 8)
    for (const t of [plain, int8, layer]) t.dispose()
  })
})

describe('memory', () => {
  const config = configs['grouped heads']!

  test('of rings it does not grow but for the table of pages', async () => {
    const made = make(config, 1, LENGTH)
    for (const kind of ['sliding', 'sinks'] as const) {
      const cache = made.layer.newCache(1, { kind, window: 8 })
      const before = cache.bytes
      await inPieces(made, made.x, cache, [0, 100, LENGTH])
      expect(cache.bytes - before).toBeLessThanOrEqual(4 * (LENGTH / 16))
      cache.dispose()
    }
    made.layer.dispose()
  })

  test('of pages forks have what is theirs alone', async () => {
    const before = liveTensors()
    const made = make(config, 1, LENGTH)
    const want = attentionLayer(config, made.weights, made.x)
    const pool = new PagePool({ pages: 8, pageSize: 16 })
    const cache = made.layer.newCache(1, { kind: 'paged', pool })
    expect(pool.free).toBe(8)
    await inPieces(made, made.x.slice(1, 0, 40), cache, [0, 40]) // two pages and a half
    expect(pool.free).toBe(5)
    const forks = [cache.clone(), cache.clone()]
    expect(pool.free).toBe(5)
    for (const fork of forks) await inPieces(made, made.x.slice(1, 40, 2), fork, [0, 1, 2])
    expect(pool.free).toBe(3) // each has copied the page that it writes to
    for (const fork of [...forks, cache]) {
      const from = fork.length
      const out = await inPieces(made, made.x.slice(1, from, 3), fork, [0, 3])
      expectClose(out, want.slice(1, from, 3), { on, bound: on === 'cpu' ? 4e-6 : 2e-5 })
    }
    expect(() => scope(() => made.layer.forward(placed(made.x, 'float32'), cache))).toThrow(
      expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }),
    )
    forks[0]!.rollback(30)
    for (const c of [...forks, cache]) c.dispose()
    expect(pool.free).toBe(8)
    pool.dispose()
    made.layer.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('of one prompt for many answers', async () => {
    const made = make(config, 1, 40)
    for (const kind of ['paged', 'contiguous'] as const) {
      const cache = made.layer.newCache(1, { kind })
      await inPieces(made, made.x.slice(1, 0, 30), cache, [0, 30])
      const three = (cache as ReturnType<Attention['newCache']> & { select(rows: number[]): KVCache }).select([0, 0, 0])
      const next = new NDArray(
        [3, 10, 32],
        [0, 1, 2].flatMap(() => [...made.x.slice(1, 30, 10).data]),
      )
      const out = await inPieces(made, next, three, [0, 1, 10])
      const want = attentionLayer(config, made.weights, made.x).slice(1, 30, 10)
      for (const r of [0, 1, 2])
        expectClose({ ...out, shape: [1, 10, 32], data: Array.from(out.data).slice(r * 320, (r + 1) * 320) }, want, {
          on,
          bound: on === 'cpu' ? 4e-6 : 2e-5,
        })
      for (const c of [cache, three]) c.dispose()
    }
    made.layer.dispose()
  })
})

describe('what is refused', () => {
  test('by the layer', () => {
    const before = liveTensors()
    const config = configs['grouped heads']!
    const { layer, weights } = make(config, 1, 1)
    const state = Object.fromEntries(
      Object.entries(weights).map(([name, t]) => [
        name,
        { type: 'float32', data: Float32Array.from(t.data), dims: [...t.shape] },
      ]),
    )
    const cases: [() => unknown, string, RegExp][] = [
      [() => new Attention({ ...config, num_key_value_heads: 3 }, state), 'ERR_OPTION', /^num_key_value_heads: expected a divisor of num_attention_heads, 4/],
      [() => new Attention({ ...config, head_dim: 12 }, state), 'ERR_OPTION', /^head_dim: expected a multiple of 8 up to 512, got 12/],
      [() => new Attention({ ...config, attention_bias: true }, state), 'ERR_CHECKPOINT', /^Attention: q_proj.bias: missing/],
      [() => new Attention({ ...config, head_dim: 16 }, state), 'ERR_CHECKPOINT', /^Attention: q_proj.weight: expected shape \(64, 32\), got \(32, 32\)/],
      [() => new Attention({ ...config, rope_parameters: { rope_type: 'longrope' } }, state), 'ERR_UNSUPPORTED', /^rope_type: expected one of default, linear, dynamic, yarn, llama3, got 'longrope'/],
      [() => new Attention({ ...config, rope_parameters: { rope_type: 'linear' } }, state), 'ERR_OPTION', /^factor: expected a number above 0, got undefined/],
      [() => new Attention({ ...config, partial_rotary_factor: 1.5 }, state), 'ERR_OPTION', /^partial_rotary_factor/],
      [() => new Attention({ ...config, attn_logit_softcapping: -1 }, state), 'ERR_OPTION', /^attn_logit_softcapping/],
      [() => layer.newCache(0), 'ERR_OPTION', /^batch: expected a whole number from 1 on, got 0/],
      [() => layer.newCache(1, { kind: 'ring' as 'paged' }), 'ERR_OPTION', /^kind: expected one of contiguous, paged, sliding, sinks, int8, got 'ring'/],
      [() => layer.newCache(1, { kind: 'sliding' }), 'ERR_OPTION', /^window: expected a number of tokens for kind 'sliding', got none/],
      [() => layer.newCache(1, { kind: 'sinks', window: 0.5 }), 'ERR_OPTION', /^window/],
      [() => layer.newCache(1, { capacity: 0 }), 'ERR_OPTION', /^capacity: expected a whole number from 1 to/],
      [() => layer.newCache(1, { pool: {} as PagePool }), 'ERR_OPTION', /^pool: expected a PagePool, got an object/],
      [() => layer.newCache(1, { dtype: 'int8' as 'float32' }), 'ERR_DTYPE', /^dtype: expected float32, float16 or bfloat16, got 'int8'/],
      [() => layer.newCache(1, { windows: 4 } as never), 'ERR_OPTION', /^options: expected window, got windows/],
      [() => new PagePool({ pageSize: 24 }), 'ERR_OPTION', /^pageSize: expected a multiple of 16, got 24/],
      [() => new PagePool({ pages: 0 }), 'ERR_OPTION', /^pages: expected a whole number from 1 on, got 0/],
    ] // prettier-ignore
    for (const [call, code, message] of cases) {
      expect(call).toThrow(expect.objectContaining({ code }))
      expect(call).toThrow(message)
    }
    layer.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('before a cache changes', () => {
    const { layer } = make(configs['grouped heads']!, 2, 1)
    const cache = layer.newCache(2)
    const x = placed(new NDArray([2, 3, 32]), 'float32')
    const cases: [() => unknown, RegExp][] = [
      [() => layer.forward(x, {} as KVCache), /^cache: expected what newCache returns, got an object/],
      [() => layer.forward(scope(() => x.narrow(0, 0, 1)), cache), /^cache: expected a batch of 1 as x has, got 2/],
      [() => layer.step(x, cache), /^x: expected shape \(b, hidden\), got \(2, 3, 32\)/],
      [() => layer.forward(x, cache, { residual: scope(() => x.narrow(1, 0, 1)) }), /^residual: expected shape \(2, 3, 32\) as x has/],
      [() => layer.forward(scope(() => x.narrow(2, 0, 16)), cache), /^weight: expected shape/],
      [() => layer.forward(x, cache, { residuals: x } as never), /^options: expected residual, got residuals/],
    ] // prettier-ignore
    for (const [call, message] of cases) expect(call).toThrow(message)
    expect(cache.length).toBe(0)
    // Memory is not found while ops are recorded.
    const record = (): unknown => dut.capture(() => layer.forward(x, cache)).run()
    expect(record).toThrow(/^cache: expected room for 3 more tokens inside a captured function/)
    cache.prepare(3)
    const graph = dut.capture(() => layer.forward(x, cache))
    graph.run()
    expect(cache.length).toBe(0)
    cache.counted(3)
    expect(cache.length).toBe(3)
    for (const t of [graph, x, cache, layer]) t.dispose()
  })

  test('bytes that are no cache', async () => {
    const made = make(configs['grouped heads']!, 1, 20)
    for (const kind of ['contiguous', 'int8', 'paged', 'sliding', 'sinks'] as const) {
      const cache = made.layer.newCache(1, { kind, window: 8 })
      await inPieces(made, made.x, cache, [0, 20])
      const { tensors, note } = readTensors(await cache.save())
      const before = liveTensors()
      const refused = (changed: typeof tensors): void => {
        expect(() => kvKinds[note.kind!]!(changed, dut)).toThrow(expect.objectContaining({ code: 'ERR_CHECKPOINT' }))
      }
      for (const name of Object.keys(tensors)) {
        refused(Object.fromEntries(Object.entries(tensors).filter(([key]) => key !== name)))
        refused({ ...tensors, [name]: { dtype: 'float32', shape: [1], data: Float32Array.of(1) } })
      }
      expect(liveTensors()).toBe(before)
      cache.dispose()
    }
    made.layer.dispose()
  })
})
