// Whole models against what transformers computed from the same checkpoints in float32.

import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { load, type LanguageModel } from '../../lib/models/index.js'
import { collect, difference, golden, liveTensors, names, take, type Golden } from './support.js'

// Sums of hundreds of products through up to six layers, in float32 on both sides: up to 1.8e-6 of the largest logit
// was seen on the CPU's instruction sets. Ten times that leaves room for another order of summation and for no mistake.
const TOLERANCE = 2e-5

describe.each(names)('%s', (name) => {
  let model: LanguageModel
  let gold: Golden
  let before: number
  beforeAll(async () => {
    before = liveTensors()
    gold = await golden(name)
    model = await load(gold.dir, { dtype: 'float32' }) // dtypes.test.ts has the others
  })
  afterAll(() => {
    model.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('logits', async () => {
    const logits = model.forward(gold.inputIds)
    expect(logits.shape).toEqual([gold.inputIds.length, gold.inputIds[0]!.length, gold.vocabulary])
    expect(difference(await take(logits), gold.logits)).toBeLessThan(TOLERANCE)
  })

  test('logits step by step', async () => {
    const cache = model.newCache(gold.inputIds.length)
    const rows: Float32Array[] = []
    const length = Math.min(64, gold.inputIds[0]!.length)
    for (let i = 0; i < length; i++) {
      rows.push(
        await take(
          model.forward(
            gold.inputIds.map((row) => [row[i]!]),
            cache,
          ),
        ),
      )
    }
    cache.dispose()
    const wanted = gold.inputIds.map((row, r) => gold.logits.subarray(r * row.length * gold.vocabulary))
    rows.forEach((got, i) => {
      gold.inputIds.forEach((_, r) => {
        const mine = got.subarray(r * gold.vocabulary, (r + 1) * gold.vocabulary)
        const theirs = wanted[r]!.subarray(i * gold.vocabulary, (i + 1) * gold.vocabulary)
        expect(difference(mine, theirs)).toBeLessThan(TOLERANCE)
      })
    })
  })

  test('greedy ids, exactly', async () => {
    const prompt = gold.greedyIds.slice(0, gold.promptLength)
    const rest = gold.greedyIds.slice(gold.promptLength)
    const got = await collect(model.generate(prompt, { maxNewTokens: rest.length, ignoreEos: true }))
    expect(got).toEqual(rest)
  })
})
