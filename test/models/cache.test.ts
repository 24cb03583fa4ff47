// A model's memory of its context: the same wherever the context is cut, and as good after being copied or saved.

import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { scope } from '../../lib/index.js'
import { load, ModelCache, type LanguageModel } from '../../lib/models/index.js'
import { difference, directory, golden, liveTensors, take } from './support.js'

// Cutting a sequence elsewhere changes the order of float32 sums and nothing else: 2.5e-7 was seen.
const TOLERANCE = 2e-6

describe.each(['mamba', 'falcon_mamba', 'mamba-tied-bias', 'mamba2'] as const)('the cache of %s', (name) => {
  let model: LanguageModel
  let ids: number[][]
  let whole: Float32Array
  let vocabulary: number
  beforeAll(async () => {
    const gold = await golden(name)
    model = await load(gold.dir, { dtype: 'float32' })
    ids = gold.inputIds
    vocabulary = gold.vocabulary
    whole = await take(model.forward(ids))
  })
  afterAll(() => model.dispose())

  const piece = (from: number, to: number) => ids.map((row) => row.slice(from, to))
  // Logits of the positions from … to of every row of the whole.
  const wanted = (from: number, to: number) => {
    const rows = ids.map((row, r) =>
      whole.subarray((r * row.length + from) * vocabulary, (r * row.length + to) * vocabulary),
    )
    return rows.flatMap((row) => [...row])
  }

  test('any split of the sequence gives what the whole gives', async () => {
    const length = ids[0]!.length
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(fc.integer({ min: 1, max: length - 1 }), { maxLength: 6 }), async (cuts) => {
        const bounds = [0, ...cuts.sort((a, b) => a - b), length]
        const cache = model.newCache(ids.length)
        try {
          for (let i = 1; i < bounds.length; i++) {
            const [from, to] = [bounds[i - 1]!, bounds[i]!]
            expect(difference(await take(model.forward(piece(from, to), cache)), wanted(from, to))).toBeLessThan(
              TOLERANCE,
            )
          }
        } finally {
          cache.dispose()
        }
      }),
      { numRuns: 20 },
    )
  })

  test('is cloned, saved, restored and reset', async () => {
    const before = liveTensors()
    const cache = model.newCache(ids.length)
    const length = ids[0]!.length
    await take(model.forward(piece(0, 20), cache))
    const bytes = await cache.save()
    const fork = cache.clone()
    await take(model.forward(piece(20, 30), cache)) // goes on; the copies must not
    const restored = [fork, model.restoreCache(bytes), ModelCache.restore(bytes, model.device.name)]
    for (const copy of restored) {
      expect(copy.batch).toBe(ids.length)
      expect(copy.bytes).toBe(cache.bytes)
      expect(difference(await take(model.forward(piece(20, length), copy)), wanted(20, length))).toBeLessThan(TOLERANCE)
      copy.dispose()
    }
    cache.reset()
    expect(difference(await take(model.forward(piece(0, length), cache)), whole)).toBeLessThan(TOLERANCE)
    cache.dispose()
    cache.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('lives when a scope returns it', async () => {
    const cache = scope(() => model.newCache(ids.length))
    expect(difference(await take(model.forward(ids, cache)), whole)).toBeLessThan(TOLERANCE)
    cache.dispose()
  })
})

describe('bytes that are no cache', () => {
  test('are refused with a reason', async () => {
    const model = await load(directory('mamba'))
    const cache = model.newCache(2)
    const bytes = await cache.save()
    const refused = (what: Uint8Array) => {
      expect(() => ModelCache.restore(what)).toThrow(expect.objectContaining({ code: 'ERR_CHECKPOINT' }))
    }
    const before = liveTensors()
    refused(new Uint8Array(0))
    refused(bytes.subarray(0, bytes.length - 4))
    for (const [from, to] of [
      ['seqmix-cache-1', 'seqmix-cache-9'],
      ['mamba,', 'mambo,'],
      ['"model"', '"layer"'],
      ['0.conv_state', '0.conv_stale'],
    ]) {
      const text = Buffer.from(bytes).toString('latin1').replace(from!, to!)
      refused(Uint8Array.from(Buffer.from(text, 'latin1')))
    }
    expect(liveTensors()).toBe(before)
    cache.dispose()
    model.dispose()
  })

  test('a cache of another batch is an error at the call', async () => {
    const model = await load(directory('mamba'))
    const cache = model.newCache(2)
    expect(() => model.forward([1, 2, 3], cache)).toThrow('cache: expected a batch of 1 as ids has, got 2')
    expect(() => model.generate([1, 2, 3], { cache })).toThrow('cache: expected a batch of 1 as ids has, got 2')
    expect(() => model.newCache(0)).toThrow('batch: expected a whole number from 1 on, got 0')
    cache.dispose()
    model.dispose()
  })
})
