// llama, mistral and gemma2 in every dtype against float64, and with every kind of cache; what does not depend on the dtype is in
// golden.test.ts.

import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { cat, device, scope, type Tensor } from '../../lib/index.js'
import { PagePool } from '../../lib/layers/index.js'
import { load, ModelCache, type CacheOptions, type LanguageModel } from '../../lib/models/index.js'
import { failure, temporaryFolder } from '../checkpoint/files.js'
import { expectClose } from '../support/close.js'
import { take as takeValues, type Values } from '../support/device.js'
import { floatTypes, halfTypes, roundTo } from '../support/floats.js'
import { decoderLogits } from './decoder-reference.js'
import { readModel, withMatrices } from './reference.js'
import { collect, decoders, difference, directory, golden, liveTensors } from './support.js'

const on = device().type
const folder = temporaryFolder()

/** Logits of ids in pieces, of one token by step. */
async function pieces(
  model: LanguageModel,
  ids: number[][],
  cuts: readonly number[],
  cache?: ModelCache,
): Promise<Values> {
  const bounds = [0, ...cuts, ids[0]!.length]
  const own = cache ?? model.newCache(ids.length)
  const outs = bounds.slice(1).map((to, i): Tensor =>
    model.forward(
      ids.map((row) => row.slice(bounds[i], to)),
      own,
    ),
  )
  const all = cat(outs, 1)
  const values = await takeValues(all)
  for (const t of [all, ...outs]) t.dispose()
  if (!cache) own.dispose()
  return values
}

describe.each(decoders)('%s', (name) => {
  test('the reference is the model that transformers ran', async () => {
    const gold = await golden(name)
    const reference = await readModel(gold.dir)
    expect(difference(decoderLogits(reference, gold.inputIds).data, gold.logits)).toBeLessThan(3e-6) // its float32
  })

  test.each(halfTypes)('in %s', async (dtype) => {
    const { inputIds } = await golden(name)
    const model = await load(directory(name), { dtype })
    const reference = await readModel(directory(name))
    const [exact, rounding] = [decoderLogits(reference, inputIds), decoderLogits(reference, inputIds, roundTo(dtype))]
    const norm = (data: ArrayLike<number>): number => Math.sqrt(Array.from(data).reduce((sum, v) => sum + v * v, 0))
    // One rounding that goes another way moves all that follows it, and what it moves is rounded: no two evaluations agree. But
    // none is farther from what is right than the roundings of each op make it; a third more is left to luck.
    const bound = (1.33 * norm(rounding.map((v, i) => v - exact.data[i]!).data)) / norm(exact.data)
    expect(bound).toBeLessThan(dtype === 'float16' ? 2e-3 : 1.5e-2)
    const whole = scope(() => model.forward(inputIds))
    expect([model.dtype, whole.dtype]).toEqual([dtype, dtype])
    expectClose(await takeValues(whole), exact, { on, dtype, bound })
    expectClose(await pieces(model, inputIds, [1, 2, 9, 10, 14]), exact, { on, dtype, bound })
    whole.dispose()
    model.dispose()
  })

  test.each(floatTypes)('in float32, with matrices in %s', async (weights) => {
    const { inputIds } = await golden(name)
    const model = await load(directory(name), { dtype: 'float32', weights })
    const want = decoderLogits(withMatrices(await readModel(directory(name)), roundTo(weights)), inputIds)
    expect(difference((await pieces(model, inputIds, [1, 2, 9])).data, want.data)).toBeLessThan(2e-5)
    model.dispose()
  })

  test('any split gives what the whole gives, with every kind of cache that sees all', async () => {
    const { inputIds, logits } = await golden(name)
    const model = await load(directory(name), { dtype: 'float32' })
    const options: CacheOptions[] = [
      {},
      { kind: 'contiguous', capacity: 3 },
      { kind: 'paged' },
      { kind: 'sliding', window: 64 },
    ]
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.integer({ min: 1, max: 36 }), { maxLength: 6 }),
        fc.constantFrom(...options),
        async (cuts, option) => {
          const cache = model.newCache(inputIds.length, option)
          const got = await pieces(
            model,
            inputIds,
            cuts.sort((a, b) => a - b),
            cache,
          )
          cache.dispose()
          expect(difference(got.data, logits)).toBeLessThan(2e-5)
        },
      ),
      { numRuns: 15 },
    )
    model.dispose()
  })

  test('greedy ids are the same with every kind of cache, those that see less as long as they see all', async () => {
    const before = liveTensors()
    const gold = await golden(name)
    const prompt = gold.greedyIds.slice(0, gold.promptLength)
    const rest = gold.greedyIds.slice(gold.promptLength)
    const pool = new PagePool({ pages: 8 })
    for (const cache of [
      { kind: 'paged' },
      { kind: 'paged', pool },
      { kind: 'contiguous', capacity: 1 },
      { kind: 'sinks', window: 40 },
    ] satisfies CacheOptions[]) {
      const model = await load(gold.dir, { dtype: 'float32', cache })
      expect(await collect(model.generate(prompt, { maxNewTokens: rest.length, ignoreEos: true }))).toEqual(rest)
      model.dispose()
    }
    pool.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('int8 keys and values move the logits by little', async () => {
    const { inputIds, logits } = await golden(name)
    const model = await load(directory(name), { dtype: 'float32' })
    const cache = model.newCache(inputIds.length, { kind: 'int8' })
    // Each layer's attention is within 1/127 of itself (test/layers/attention.test.ts), and adds to a stream that has more.
    expect(difference((await pieces(model, inputIds, [20], cache)).data, logits)).toBeLessThan(3e-2)
    for (const t of [cache, model]) t.dispose()
  })

  test('a cache is cloned, saved, restored, rolled back and reset', async () => {
    const before = liveTensors()
    const { inputIds, logits, vocabulary } = await golden(name)
    const model = await load(directory(name), { dtype: 'float32' })
    const part = (from: number, to: number): number[][] => inputIds.map((row) => row.slice(from, to))
    const wanted = inputIds.flatMap((row, r) => [
      ...logits.subarray((r * row.length + 20) * vocabulary, (r + 1) * row.length * vocabulary),
    ])
    const cache = model.newCache(2)
    model.forward(part(0, 20), cache).dispose()
    const bytes = await cache.save()
    const copies = [cache.clone(), model.restoreCache(bytes), ModelCache.restore(bytes, model.device)]
    model.forward(part(3, 19), cache).dispose()
    expect([cache.length, ...copies.map((c) => c.length)]).toEqual([36, 20, 20, 20])
    cache.rollback(16)
    for (const copy of [cache, ...copies]) {
      expect(difference((await pieces(model, part(20, 37), [1, 2, 9], copy)).data, wanted)).toBeLessThan(2e-5)
    }
    expect(() => cache.rollback(38)).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
    cache.reset()
    expect(cache.length).toBe(0)
    expect(difference((await pieces(model, inputIds, [5], cache)).data, logits)).toBeLessThan(2e-5)
    for (const t of [cache, ...copies, model]) t.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('generates on in a cache of the caller’s', async () => {
    const gold = await golden(name)
    const model = await load(gold.dir, { dtype: 'float32' })
    const cache = model.newCache()
    const prompt = gold.greedyIds.slice(0, gold.promptLength)
    const first = await collect(model.generate(prompt, { maxNewTokens: 7, ignoreEos: true, cache }))
    expect(cache.length).toBe(gold.promptLength + 7)
    cache.rollback(1)
    const more = await collect(model.generate(first.slice(-1), { maxNewTokens: 17, ignoreEos: true, cache }))
    expect([...first, ...more]).toEqual(gold.greedyIds.slice(gold.promptLength))
    for (const t of [cache, model]) t.dispose()
  })
})

test('mamba’s cache cannot be rolled back, and says so', async () => {
  const model = await load(directory('mamba'))
  const cache = model.newCache()
  expect(cache.length).toBeUndefined()
  expect(() => cache.rollback(1)).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED' }))
  for (const t of [cache, model]) t.dispose()
})

test('a config that makes no sense is the file’s fault', async () => {
  const dir = join(folder, 'llama')
  mkdirSync(dir)
  copyFileSync(join(directory('llama'), 'model.safetensors'), join(dir, 'model.safetensors'))
  const config = JSON.parse(readFileSync(join(directory('llama'), 'config.json'), 'utf8')) as Record<string, unknown>
  const cases: [Record<string, unknown>, string, RegExp][] = [
    [{ num_key_value_heads: 3 }, 'ERR_CHECKPOINT', /config\.json: num_key_value_heads: expected a divisor/],
    [{ head_dim: 12 }, 'ERR_CHECKPOINT', /config\.json: head_dim: expected a multiple of 8/],
    [{ rope_parameters: { rope_type: 'spiral' } }, 'ERR_UNSUPPORTED', /rope_type: expected one of default/],
    [
      { rope_parameters: { rope_type: 'yarn', factor: 'two' } },
      'ERR_CHECKPOINT',
      /config\.json: factor: expected a number/,
    ],
    [{ rope_parameters: 'linear' }, 'ERR_CHECKPOINT', /config\.json: rope_parameters: expected an object/],
    [{ hidden_act: 'relu' }, 'ERR_UNSUPPORTED', /hidden_act: expected one of silu/],
    [{ attention_bias: true }, 'ERR_CHECKPOINT', /missing: model\.layers\.0\.self_attn\.q_proj\.bias/],
    [{ mlp_bias: true }, 'ERR_CHECKPOINT', /missing: model\.layers\.0\.mlp\.gate_proj\.bias/],
    [{ use_bidirectional_attention: true }, 'ERR_UNSUPPORTED', /use_bidirectional_attention is not supported/],
    [{ num_hidden_layers: 3 }, 'ERR_CHECKPOINT', /missing: model\.layers\.2\./],
    [{ layer_types: 'all' }, 'ERR_CHECKPOINT', /layer_types: expected a list of strings/],
  ]
  for (const [change, code, message] of cases) {
    const before = liveTensors()
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...config, ...change }))
    const error = await failure(load(dir))
    expect(error.message).toMatch(message)
    expect(error).toMatchObject({ code })
    expect(liveTensors()).toBe(before)
  }
  expect(await failure(load(directory('llama'), { cache: { kind: 'none' as 'paged' } }))).toMatchObject({
    code: 'ERR_OPTION',
  })
})
