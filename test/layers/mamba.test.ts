import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'

import { openCheckpoint } from '../../lib/checkpoint/index.js'
import { scope, tensor, type Tensor } from '../../lib/index.js'
import { Mamba, MambaCache, RMSNorm, type MambaConfig, type StateDict } from '../../lib/layers/index.js'
import { difference, liveTensors, take } from '../models/support.js'

// What only the order of float32 sums may change: 2.7e-7 was seen.
const TOLERANCE = 2e-6
const hidden = 64

const checkpoints = {
  mamba: { config: { hidden_size: hidden, time_step_rank: 4 }, dir: 'mamba' },
  'mamba with biases': { config: { hidden_size: hidden, time_step_rank: 5, use_bias: true }, dir: 'mamba-tied-bias' },
  falcon_mamba: { config: { hidden_size: hidden, time_step_rank: 4, mixer_rms_eps: 1e-6 }, dir: 'falcon_mamba' },
} satisfies Record<string, { config: MambaConfig; dir: string }>

// The state dict of one layer of a checkpoint, as plain inputs.
async function stateOf(dir: string): Promise<StateDict> {
  const checkpoint = await openCheckpoint(`test/fixtures/models/${dir}`)
  const prefix = 'backbone.layers.0.mixer.'
  const entries = checkpoint
    .names()
    .filter((name) => name.startsWith(prefix))
    .map(async (name) => {
      const { dtype, data, shape } = await checkpoint.read(name)
      return [name.slice(prefix.length), { type: dtype, data, dims: shape }] as const
    })
  const state = Object.fromEntries(await Promise.all(entries))
  await checkpoint.close()
  return state
}

// Numbers that look random and are the same each time.
function input(batch: number, length: number): Tensor {
  const values = Float32Array.from({ length: batch * length * hidden }, (_, i) => Math.sin(i * 1.7 + (i % 13)))
  return tensor(values, { shape: [batch, length, hidden] })
}

describe.each(Object.entries(checkpoints))('the layer of %s', (_, { config, dir }) => {
  let layer: Mamba
  let state: StateDict
  const batch = 2
  const length = 23
  let whole: Float32Array
  beforeAll(async () => {
    state = await stateOf(dir)
    layer = new Mamba(config, state)
    whole = await take(scope(() => layer.forward(input(batch, length))))
  })

  const wanted = (from: number, to: number) =>
    Array.from({ length: batch }, (_, r) => [
      ...whole.subarray((r * length + from) * hidden, (r * length + to) * hidden),
    ]).flat()

  test('any split gives what the whole gives, pieces of one by forward and by step', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.integer({ min: 1, max: length - 1 }), { maxLength: 8 }),
        fc.boolean(),
        async (cuts, stepping) => {
          const bounds = [0, ...cuts.sort((a, b) => a - b), length]
          const x = input(batch, length)
          const cache = layer.newCache(batch)
          for (let i = 1; i < bounds.length; i++) {
            const [from, to] = [bounds[i - 1]!, bounds[i]!]
            const out = scope(() => {
              const part = x.narrow(1, from, to - from)
              if (!stepping || to - from > 1) return layer.forward(part, cache)
              return layer.step(part.reshape([batch, hidden]), cache)
            })
            expect(difference(await take(out), wanted(from, to))).toBeLessThan(TOLERANCE)
          }
          cache.dispose()
          x.dispose()
        },
      ),
      { numRuns: 30 },
    )
  })

  test('step for step is forward', async () => {
    const x = input(batch, length)
    const cache = layer.newCache(batch)
    for (let t = 0; t < length; t++) {
      const out = scope(() => layer.step(x.narrow(1, t, 1).reshape([batch, hidden]), cache))
      expect(difference(await take(out), wanted(t, t + 1))).toBeLessThan(TOLERANCE)
    }
    cache.dispose()
    x.dispose()
  })

  test('the residual is added', async () => {
    const x = input(batch, length)
    const values = (await x.data()) as Float32Array
    const sum = whole.map((v, i) => v + values[i]!)
    expect(difference(await take(layer.forward(x, undefined, { residual: x })), sum)).toBeLessThan(TOLERANCE)
    x.dispose()
  })

  test('its cache is cloned, saved, restored and reset', async () => {
    const x = input(batch, length)
    const cache = layer.newCache(batch)
    const part = (c: MambaCache, from: number, to: number) =>
      take(scope(() => layer.forward(x.narrow(1, from, to - from), c)))
    await part(cache, 0, 9)
    const bytes = await cache.save()
    const fork = cache.clone()
    await part(cache, 9, 12)
    for (const copy of [fork, MambaCache.restore(bytes), MambaCache.restore(bytes, layer.device)]) {
      expect([copy.batch, copy.bytes]).toEqual([batch, cache.bytes])
      expect(difference(await part(copy, 9, length), wanted(9, length))).toBeLessThan(TOLERANCE)
      copy.dispose()
    }
    cache.reset()
    expect(difference(await part(cache, 0, length), whole)).toBeLessThan(TOLERANCE)
    cache.dispose()
    x.dispose()
    expect(() => MambaCache.restore(bytes.subarray(1))).toThrow(expect.objectContaining({ code: 'ERR_CHECKPOINT' }))
  })

  test('leaves no tensor behind, and frees its own', async () => {
    const before = liveTensors()
    const own = scope(() => new Mamba(config, state)) // a scope leaves what it returns alone
    const x = input(batch, length)
    const cache = own.newCache(batch)
    own.forward(x, cache).dispose()
    const last = x.narrow(1, 0, 1)
    const row = last.reshape([batch, hidden])
    own.step(row, cache).dispose()
    for (const t of [last, row, x, cache, own]) t.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('takes tensors, which stay the caller’s', async () => {
    const before = liveTensors()
    const tensors = Object.fromEntries(Object.entries(state).map(([name, t]) => [name, tensor(t)]))
    const own = new Mamba(config, tensors)
    for (const t of Object.values(tensors)) t.dispose()
    expect(difference(await take(scope(() => own.forward(input(batch, length)))), whole)).toBe(0)
    own.dispose()
    own.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('a state dict that is incomplete or misshapen is an error, and nothing stays', () => {
    const before = liveTensors()
    const { D: _, ...rest } = state
    expect(() => new Mamba(config, rest)).toThrow('Mamba: D: missing in the state dict')
    expect(() => new Mamba(config, { ...state, D: [1, 2] })).toThrow('Mamba: D: expected shape (128), got (2)')
    expect(() => new Mamba({ ...config, hidden_act: 'relu' }, state)).toThrow(
      expect.objectContaining({ code: 'ERR_UNSUPPORTED' }),
    )
    expect(liveTensors()).toBe(before)
  })
})

describe('RMSNorm', () => {
  test('is x over its root mean square, times the weight', async () => {
    const before = liveTensors()
    const norm = new RMSNorm({ hidden_size: 4, layer_norm_epsilon: 0.5 }, { weight: [1, 2, 3, 4] })
    const x = tensor([[1, -1, 2, 0]], { shape: [1, 4] })
    const scale = 1 / Math.sqrt(6 / 4 + 0.5)
    const wanted = [1, -2, 6, 0].map((v) => v * scale)
    expect(difference(await take(norm.forward(x)), wanted)).toBeLessThan(1e-6)
    x.dispose()
    norm.dispose()
    expect(liveTensors()).toBe(before)
    expect(() => new RMSNorm({ hidden_size: 4 }, {})).toThrow('RMSNorm: weight: missing in the state dict')
  })
})
