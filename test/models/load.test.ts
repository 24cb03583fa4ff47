import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { beforeAll, describe, expect, test } from 'vitest'

import { openCheckpoint, saveSafetensors, type StoredTensor } from '../../lib/checkpoint/index.js'
import { load, type LoadOptions, type LoadProgress } from '../../lib/models/index.js'
import { failure, temporaryFolder } from '../checkpoint/files.js'
import { collect, difference, directory, golden, liveTensors, take } from './support.js'

const folder = temporaryFolder()
let weights: Record<string, StoredTensor>
let config: Record<string, unknown>
beforeAll(async () => {
  const dir = directory('mamba')
  const checkpoint = await openCheckpoint(dir)
  weights = {}
  for (const name of checkpoint.names()) weights[name] = await checkpoint.read(name)
  await checkpoint.close()
  config = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>
})

// A directory with a changed copy of the model.
async function variant(name: string, newConfig: unknown, newWeights: Record<string, StoredTensor>): Promise<string> {
  const dir = join(folder, name)
  mkdirSync(dir)
  writeFileSync(join(dir, 'config.json'), typeof newConfig === 'string' ? newConfig : JSON.stringify(newConfig))
  await saveSafetensors(join(dir, 'model.safetensors'), newWeights)
  return dir
}

function without(name: string): Record<string, StoredTensor> {
  return Object.fromEntries(Object.entries(weights).filter(([key]) => key !== name))
}

describe('load', () => {
  test('tells what it loaded', async () => {
    const model = await load(directory('kjv-mamba'))
    expect(model.parameters).toBe(2_693_888)
    expect(model.bytes).toBe(2 * model.parameters + 2 * 6 * 512 * 16) // bfloat16 as stored, and A in float32
    expect(model.config.model_type).toBe('mamba')
    model.dispose()
    model.dispose()
  })

  test('reports progress tensor by tensor', async () => {
    const seen: LoadProgress[] = []
    const model = await load(directory('mamba'), { onProgress: (p) => seen.push(p) })
    model.dispose()
    expect(seen.length).toBe(Object.keys(weights).length)
    expect(seen.map((p) => p.tensors)).toEqual(seen.map((_, i) => i + 1))
    const last = seen.at(-1)!
    expect(last.bytes).toBe(last.totalBytes)
    expect(last.totalBytes).toBe(524_288)
  })

  test('a sharded checkpoint is the same model', async () => {
    const gold = await golden('mamba')
    const dir = join(folder, 'sharded')
    mkdirSync(dir)
    copyFileSync(join(gold.dir, 'config.json'), join(dir, 'config.json'))
    const map: Record<string, string> = {}
    const shards: Record<string, StoredTensor>[] = [{}, {}, {}]
    Object.entries(weights).forEach(([name, t], i) => {
      shards[i % 3]![name] = t
      map[name] = `model-0000${(i % 3) + 1}-of-00003.safetensors`
    })
    for (const [i, shard] of shards.entries())
      await saveSafetensors(join(dir, `model-0000${i + 1}-of-00003.safetensors`), shard)
    writeFileSync(join(dir, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: map }))
    const model = await load(dir)
    expect(difference(await take(model.forward(gold.inputIds)), gold.logits)).toBeLessThan(1e-4)
    model.dispose()
  })

  test('the embedding under its older name', async () => {
    const { 'backbone.embeddings.weight': table, ...others } = weights
    const dir = await variant('alias', config, { ...others, 'backbone.embedding.weight': table! })
    const model = await load(dir, { dtype: 'float32' })
    const prompt = (await golden('mamba')).greedyIds
    expect(await collect(model.generate(prompt.slice(0, 13), { maxNewTokens: 24, ignoreEos: true }))).toEqual(
      prompt.slice(13),
    )
    model.dispose()
  })

  test('an abort throws its reason and leaves nothing', async () => {
    const before = liveTensors()
    const controller = new AbortController()
    const reason = new Error('enough')
    const loading = load(directory('mamba'), { signal: controller.signal, onProgress: () => controller.abort(reason) })
    await expect(loading).rejects.toBe(reason)
    await expect(load(directory('mamba'), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    expect(liveTensors()).toBe(before)
  })
})

describe('what cannot be loaded', () => {
  const inLayer = 'backbone.layers.1.mixer.'
  const one: StoredTensor = { dtype: 'float32', shape: [1], data: Float32Array.of(1) }
  const cases: [string, () => [unknown, Record<string, StoredTensor>], string, RegExp][] = [
    ['a missing tensor', () => [config, without(`${inLayer}D`)], 'ERR_CHECKPOINT', /missing: backbone\.layers\.1\.mixer\.D$/],
    ['a missing head', () => [config, without('lm_head.weight')], 'ERR_CHECKPOINT', /missing: lm_head\.weight$/],
    ['a tensor nobody wants', () => [config, { ...weights, 'extra.weight': one }], 'ERR_CHECKPOINT', /unexpected: extra\.weight$/],
    ['a bias the config denies', () => [config, { ...weights, [`${inLayer}in_proj.bias`]: one }], 'ERR_CHECKPOINT', /unexpected: backbone\.layers\.1\.mixer\.in_proj\.bias$/],
    ['a tensor of another shape', () => [config, { ...weights, [`${inLayer}D`]: one }], 'ERR_CHECKPOINT', /mixer\.D: expected shape \(128\), got \(1\)$/],
    ['fewer layers than stored', () => [{ ...config, num_hidden_layers: 2 }, weights], 'ERR_CHECKPOINT', /unexpected: backbone\.layers\.2\..* and 2 more$/],
    ['more layers than stored', () => [{ ...config, num_hidden_layers: 4 }, weights], 'ERR_CHECKPOINT', /missing: backbone\.layers\.3\./],
    ['weights of integers', () => [config, { ...weights, [`${inLayer}D`]: { dtype: 'int32', shape: [128], data: new Int32Array(128) } }], 'ERR_UNSUPPORTED', /mixer\.D: expected F32, F16 or BF16, got int32/],
    ['another model_type', () => [{ ...config, model_type: 'bert' }, weights], 'ERR_UNSUPPORTED', /model_type 'bert' is not supported; supported are mamba, falcon_mamba, .*llama/],
    ['a model_type of every object', () => [{ ...config, model_type: 'toString' }, weights], 'ERR_UNSUPPORTED', /model_type 'toString'/],
    ['no model_type', () => [{}, weights], 'ERR_CHECKPOINT', /config\.json: model_type: expected a string, got nothing/],
    ['another activation', () => [{ ...config, hidden_act: 'gelu' }, weights], 'ERR_UNSUPPORTED', /hidden_act: expected 'silu', .* got 'gelu'/],
    ['a size of 0', () => [{ ...config, state_size: 0 }, weights], 'ERR_CHECKPOINT', /state_size: expected a whole number from 1 to \d+, got 0/],
    ['a size in words', () => [{ ...config, hidden_size: 'large' }, weights], 'ERR_CHECKPOINT', /hidden_size: expected a whole number .* got "large"/],
    ['layers without end', () => [{ ...config, num_hidden_layers: 1e9 }, weights], 'ERR_CHECKPOINT', /num_hidden_layers: expected a whole number from 1 to 10000/],
    ['a flag that is none', () => [{ ...config, use_bias: 'no' }, weights], 'ERR_CHECKPOINT', /use_bias: expected true or false, got "no"/],
    ['an end token in words', () => [{ ...config, eos_token_id: 'end' }, weights], 'ERR_CHECKPOINT', /eos_token_id: expected a token id or a list of them, got "end"/],
    ['a config that is no JSON', () => ['{', weights], 'ERR_CHECKPOINT', /config\.json: is not JSON/],
    ['a config that is a list', () => ['[]', weights], 'ERR_CHECKPOINT', /config\.json: expected a JSON object/],
  ] // prettier-ignore

  test.each(cases)('%s', async (name, make, code, message) => {
    const before = liveTensors()
    const error = await failure(load(await variant(name, ...make())))
    expect(error.message).toMatch(message)
    expect(error).toMatchObject({ code, name: 'SeqmixError' })
    expect(liveTensors()).toBe(before)
  })

  test('a directory that is not there', async () => {
    expect(await failure(load(join(folder, 'nowhere')))).toMatchObject({ code: 'ERR_CHECKPOINT' })
  })

  test.each(['dtype', 'weights'])('a %s that is no floating-point dtype', async (name) => {
    for (const [dtype, got] of [
      ['int32', "'int32'"],
      ['float64', "'float64'"],
      [16, '16'],
      [null, 'null'],
    ]) {
      const error = await failure(load(directory('mamba'), { [name]: dtype } as LoadOptions))
      expect(error).toMatchObject({ name: 'TypeError', code: 'ERR_DTYPE' })
      expect(error.message).toBe(`${name}: expected float32, float16 or bfloat16, got ${got}`)
    }
  })

  test('a misspelled option', async () => {
    const error = await failure(load(directory('mamba'), { devise: 'cpu' } as LoadOptions))
    expect(error).toMatchObject({ code: 'ERR_OPTION' })
    expect(error.message).toMatch(/device, got devise/)
  })
})
