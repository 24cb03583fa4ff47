import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { tensor } from '../../lib/index.js'
import { load, type GenerateOptions, type LanguageModel } from '../../lib/models/index.js'
import { collect, directory, golden, liveTensors, type Golden } from './support.js'

let model: LanguageModel
let gold: Golden
let prompt: number[]
let rest: number[]
beforeAll(async () => {
  gold = await golden('kjv-mamba')
  model = await load(gold.dir, { dtype: 'float32' })
  prompt = gold.greedyIds.slice(0, gold.promptLength)
  rest = gold.greedyIds.slice(gold.promptLength)
})
afterAll(() => model.dispose())

const generate = (options?: GenerateOptions) => collect(model.generate(prompt, options))

describe('generate', () => {
  test('speaks', async () => {
    const ids = await collect(model.generate(model.encode('In the beginning God '), { maxNewTokens: 40 }))
    expect(model.decode(ids)).toBe(model.decode(rest.slice(0, 40)))
  })

  test('takes ids in every form', async () => {
    const wanted = rest.slice(0, 8)
    const options = { maxNewTokens: 8 }
    for (const ids of [Int32Array.from(prompt), BigInt64Array.from(prompt, BigInt)]) {
      expect(await collect(model.generate(ids, options))).toEqual(wanted)
    }
    const placed = tensor(Int32Array.from(prompt), { shape: [1, prompt.length] })
    const like = { type: 'int64', data: BigInt64Array.from(prompt, BigInt), dims: [1, prompt.length] }
    for (const ids of [[prompt], placed, like]) {
      expect(await collect(model.generate(ids, options))).toEqual(wanted.map((id) => [id]))
    }
    placed.dispose()
  })

  test('stops at maxNewTokens, at a stop id and at the end token', async () => {
    expect(await generate({ maxNewTokens: 5 })).toEqual(rest.slice(0, 5))
    expect(await generate({ maxNewTokens: 0 })).toEqual([])
    const stop = rest[9]!
    const wanted = rest.slice(0, rest.indexOf(stop))
    expect(await generate({ maxNewTokens: 50, stop: [stop] })).toEqual(wanted)
    const ending = Object.assign(Object.create(model) as LanguageModel, { endIds: [stop] })
    expect(await collect(ending.generate(prompt, { maxNewTokens: 50 }))).toEqual(wanted)
    expect(await collect(ending.generate(prompt, { maxNewTokens: 50, ignoreEos: true }))).toEqual(rest.slice(0, 50))
  })

  test('knows the end tokens of generation_config.json', () => {
    expect(model.endIds).toEqual([0])
  })

  test('a batch gives an array a step, null for a row that has ended', async () => {
    const other = [...prompt].reverse()
    const alone = [rest.slice(0, 30), await collect(model.generate(other, { maxNewTokens: 30 }))]
    const rows = await collect(model.generate([prompt, other], { maxNewTokens: 30 }))
    expect(rows).toEqual(alone[0]!.map((id, i) => [id, alone[1]![i]]))
    const stop = [alone[0]![12]!]
    const ends = alone.map((ids) => (ids.includes(stop[0]!) ? ids.indexOf(stop[0]!) : 30))
    const stopped = await collect(model.generate([prompt, other], { maxNewTokens: 30, stop }))
    expect(stopped.length).toBe(Math.max(...ends))
    expect(stopped).toEqual(stopped.map((_, i) => alone.map((ids, r) => (i < ends[r]! ? ids[i] : null))))
  })

  test('continues a cache, which then holds every id handed out', async () => {
    const cache = model.newCache()
    const first = await collect(model.generate(prompt.slice(0, 10), { maxNewTokens: 0, cache }))
    expect(first).toEqual([])
    const second: number[] = []
    for await (const id of model.generate(prompt.slice(10), { maxNewTokens: 50, cache })) {
      second.push(id)
      if (second.length === 7) break
    }
    expect(second).toEqual(rest.slice(0, 7))
    // Handing out the eighth id by hand must find the cache right behind the seventh.
    const third = await collect(model.generate([rest[7]!], { maxNewTokens: 5, cache }))
    expect(third).toEqual(rest.slice(8, 13))
    cache.dispose()
  })

  test('prompts longer than a piece are the same in pieces', async () => {
    const long = Array.from({ length: 2500 }, (_, i) => gold.inputIds[0]![i % 512]!)
    const cache = model.newCache()
    model.forward(long.slice(0, 1300), cache).dispose()
    const wanted = await collect(model.generate(long.slice(1300), { maxNewTokens: 6, cache }))
    cache.dispose()
    expect(await collect(model.generate(long, { maxNewTokens: 6 }))).toEqual(wanted)
  })
})

// On CUDA the steps of a long generation are captured, those of a short one are not.
describe('a long generation begins as a short one', () => {
  const both = async (options: GenerateOptions, ids: number[][] = [prompt]) => {
    const [short, long] = await Promise.all(
      [12, 60].map((maxNewTokens) => collect(model.generate(ids, { ...options, maxNewTokens, ignoreEos: true }))),
    )
    expect([short!.length, long!.length]).toEqual([12, 60])
    expect(long!.slice(0, 12)).toEqual(short)
    return long!
  }
  test('greedily', async () => {
    expect(await both({})).toEqual(rest.slice(0, 60).map((id) => [id]))
  })
  test('drawn', async () => {
    const drawn = await both({ temperature: 1.2, topP: 0.9, seed: 3 })
    expect(await both({ temperature: 1.2, topP: 0.9, seed: 3 })).toEqual(drawn)
  })
  test('in a batch', () => both({ temperature: 0.7, topK: 20, seed: 9 }, [prompt, [...prompt].reverse(), prompt]))

  test('that is left early leaves nothing behind, and its cache goes on', async () => {
    const before = liveTensors()
    const cache = model.newCache()
    const ids: number[] = []
    for await (const id of model.generate(prompt, { maxNewTokens: 100, cache })) if (ids.push(id) === 30) break
    const more = await collect(model.generate([rest[30]!], { maxNewTokens: 29, cache }))
    expect([...ids, rest[30], ...more]).toEqual(rest.slice(0, 60))
    cache.dispose()
    expect(liveTensors()).toBe(before)
  })
})

describe('sampling', () => {
  const options = { maxNewTokens: 40, temperature: 0.9, topK: 40, topP: 0.95 }

  test('a seed gives the same ids again, another one others', async () => {
    const a = await generate({ ...options, seed: 7 })
    expect(await generate({ ...options, seed: 7 })).toEqual(a)
    expect(await generate({ ...options, seed: 8 })).not.toEqual(a)
    expect(await generate(options)).not.toEqual(await generate(options))
  })

  test('the best of one is greedy', async () => {
    expect(await generate({ ...options, topK: 1 })).toEqual(rest.slice(0, 40))
  })
})

describe('what generation leaves behind', () => {
  test('nothing: at its end, after leaving the loop, an abort or an error', async () => {
    const before = liveTensors()
    await generate({ maxNewTokens: 10 })
    for await (const _ of model.generate(prompt)) break
    model.generate(prompt) // never begun
    const controller = new AbortController()
    await expect(async () => {
      for await (const _ of model.generate(prompt, { signal: controller.signal })) controller.abort()
    }).rejects.toThrow('aborted')
    await expect(async () => {
      for await (const _ of model.generate(prompt)) throw new Error('mine')
    }).rejects.toThrow('mine')
    await model.device.synchronize()
    expect(liveTensors()).toBe(before)
  })
})

describe('an abort', () => {
  test('throws its reason before, during and between', async () => {
    const reason = new Error('enough')
    await expect(generate({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    const long = Array.from({ length: 20_000 }, (_, i) => i % 256)
    const controller = new AbortController()
    const begin = performance.now()
    const running = collect(model.generate(long, { signal: controller.signal }))
    setTimeout(() => controller.abort(reason), 20)
    await expect(running).rejects.toBe(reason)
    expect(performance.now() - begin).toBeLessThan(2000)
    await model.device.synchronize()
  })

  test('leaves no listener on the signal', async () => {
    const controller = new AbortController()
    let listeners = 0
    const { addEventListener, removeEventListener } = controller.signal
    controller.signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
      listeners += 1
      addEventListener.apply(controller.signal, args)
    }
    controller.signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
      listeners -= 1
      removeEventListener.apply(controller.signal, args)
    }
    await generate({ maxNewTokens: 5, signal: controller.signal })
    expect(listeners).toBe(0)
  })
})

describe('mistakes are errors at the call', () => {
  const wrong: [string, unknown, unknown, string][] = [
    ['no ids', [], {}, 'ids: expected at least one id, got none'],
    ['rows of different lengths', [[1, 2], [1]], {}, 'ids[1]: expected 2 ids as ids[0] has, got 1'],
    ['a row that is none', [[1, 2], 3], {}, 'ids[1]: expected an array as ids[0] is, got 3'],
    ['an id outside the vocabulary', [1, 256], {}, 'ids[1]: expected an id from 0 to 255, got 256'],
    ['a negative id', [[1], [-1]], {}, 'ids[1][0]: expected an id from 0 to 255, got -1'],
    ['half an id', [0.5], {}, 'ids[0]: expected an id from 0 to 255, got 0.5'],
    ['a word', 'In the beginning', {}, 'ids: expected token ids'],
    ['nothing', undefined, {}, 'ids: expected token ids'],
    [
      'floats',
      { type: 'float32', data: new Float32Array(2), dims: [1, 2] },
      {},
      'ids: expected int32 or int64, got float32',
    ],
    [
      'ids of one dimension',
      { type: 'int32', data: new Int32Array(2), dims: [2] },
      {},
      'ids: expected shape (batch, length)',
    ],
    ['a misspelled option', [1], { maxTokens: 3 }, 'maxNewTokens, got maxTokens'],
    ['half a token', [1], { maxNewTokens: 1.5 }, 'maxNewTokens: expected a whole number or Infinity, got 1.5'],
    ['a cold temperature', [1], { temperature: -1 }, 'temperature: expected a finite number from 0 on, got -1'],
    [
      'a temperature that is none',
      [1],
      { temperature: NaN },
      'temperature: expected a finite number from 0 on, got NaN',
    ],
    ['topP of 0', [1], { topP: 0 }, 'topP: expected a number above 0 and up to 1, got 0'],
    ['stop as a text', [1], { stop: 'amen' }, "stop: expected an array of token ids, got 'amen'"],
    ['a signal that is none', [1], { signal: {} }, 'signal: expected an AbortSignal'],
    ['a cache that is none', [1], { cache: {} }, 'cache: expected what newCache returns'],
  ]
  test.each(wrong)('%s', (_, ids, options, message) => {
    const call = () => model.generate(ids as number[], options as GenerateOptions)
    expect(call).toThrow(message)
    expect(call).toThrow(
      expect.objectContaining({ code: expect.stringMatching(/^ERR_(SHAPE|DTYPE|INDEX|OPTION)$/) as string }),
    )
  })

  test('ids on a device are checked where they are looked up', async () => {
    const ids = tensor(Int32Array.of(1, 300, 2), { shape: [1, 3] })
    const logits = model.forward(ids)
    await expect(logits.data()).rejects.toMatchObject({ code: 'ERR_INDEX' })
    logits.dispose()
    ids.dispose()
  })

  test('text without a tokenizer', async () => {
    const bare = await load(directory('mamba'))
    expect(() => bare.encode('a')).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED' }))
    expect(bare.tokenizer).toBeUndefined()
    bare.dispose()
  })
})
