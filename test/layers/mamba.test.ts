import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { openCheckpoint } from '../../lib/checkpoint/index.js'
import { cat, scope, tensor, zeros, type Device, type FloatDType, type Tensor } from '../../lib/index.js'
import { Mamba, MambaCache, Mamba2, Mamba2Cache, RMSNorm, type StateDict } from '../../lib/layers/index.js'
import { difference, liveTensors, take } from '../models/support.js'
import { NDArray } from '../reference/array.js'
import { expectClose } from '../support/close.js'
import { take as takeValues, type Values } from '../support/device.js'
import { halfTypes } from '../support/floats.js'
import { boundAroundSsd } from '../support/ssd.js'

// What only the order of float32 sums may change: 2.7e-7 was seen.
const TOLERANCE = 2e-6
const hidden = 64

type Cache = MambaCache | Mamba2Cache

// What both kinds of layer are to their callers.
interface Layer {
  readonly device: Device
  newCache(batch?: number, options?: { dtype?: FloatDType }): Cache
  forward(x: Tensor, cache?: Cache, options?: { residual?: Tensor }): Tensor
  step(x: Tensor, cache: Cache, options?: { residual?: Tensor }): Tensor
  tensors(): readonly Tensor[]
  dispose(): void
}

interface Kind {
  readonly name: string
  make(state: StateDict, changed?: object): Layer
  readonly restore: (bytes: Uint8Array, device?: Device) => Cache
  readonly dir: string
}

const mambaOf = (dir: string, config: object): Kind => ({
  name: 'Mamba',
  make: (state, changed) => new Mamba({ hidden_size: hidden, ...config, ...changed }, state),
  restore: MambaCache.restore,
  dir,
})
const mamba2Of = (config: object): Kind => ({
  name: 'Mamba2',
  make: (state, changed) =>
    new Mamba2({ hidden_size: hidden, head_dim: 32, n_groups: 2, state_size: 32, ...config, ...changed }, state),
  restore: Mamba2Cache.restore,
  dir: 'mamba2',
})
const checkpoints = {
  mamba: mambaOf('mamba', { time_step_rank: 4 }),
  'mamba with biases': mambaOf('mamba-tied-bias', { time_step_rank: 5, use_bias: true }),
  falcon_mamba: mambaOf('falcon_mamba', { time_step_rank: 4, mixer_rms_eps: 1e-6 }),
  mamba2: mamba2Of({}),
  'mamba2 with a norm of groups before its gate': mamba2Of({ norm_group_size: 64, norm_before_gate: true }),
  'mamba2 with limited steps': mamba2Of({ time_step_limit: [0.01, 0.5] }),
}

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

describe.each(Object.entries(checkpoints))('the layer of %s', (_, { name, make, restore, dir }) => {
  let layer: Layer
  let state: StateDict
  const batch = 2
  const length = 23
  let whole: Float32Array
  beforeAll(async () => {
    state = await stateOf(dir)
    layer = make(state)
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
    const part = (c: Cache, from: number, to: number) =>
      take(scope(() => layer.forward(x.narrow(1, from, to - from), c)))
    await part(cache, 0, 9)
    const bytes = await cache.save()
    const fork = cache.clone()
    await part(cache, 9, 12)
    for (const copy of [fork, restore(bytes), restore(bytes, layer.device)]) {
      expect([copy.batch, copy.bytes]).toEqual([batch, cache.bytes])
      expect(difference(await part(copy, 9, length), wanted(9, length))).toBeLessThan(TOLERANCE)
      copy.dispose()
    }
    cache.reset()
    expect(difference(await part(cache, 0, length), whole)).toBeLessThan(TOLERANCE)
    cache.dispose()
    x.dispose()
    expect(() => restore(bytes.subarray(1))).toThrow(expect.objectContaining({ code: 'ERR_CHECKPOINT' }))
  })

  test('leaves no tensor behind, and frees its own', async () => {
    const before = liveTensors()
    const own = scope(() => make(state)) // a scope leaves what it returns alone
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
    const own = make(tensors)
    for (const t of Object.values(tensors)) t.dispose()
    expect(difference(await take(scope(() => own.forward(input(batch, length)))), whole)).toBe(0)
    own.dispose()
    own.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('a state dict that is incomplete or misshapen is an error, and nothing stays', () => {
    const before = liveTensors()
    const { D: _, ...rest } = state
    expect(() => make(rest)).toThrow(`${name}: D: missing in the state dict`)
    expect(() => make({ ...state, D: [1, 2] })).toThrow(/^Mamba2?: D: expected shape \((128|4)\), got \(2\)$/)
    expect(() => make(state, { hidden_act: 'relu' })).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED' }))
    expect(liveTensors()).toBe(before)
  })
})

// With float32 states between them, pieces differ from the whole by roundings that went another way, here and there.
const half = (['mamba', 'mamba2'] as const).flatMap((kind) => halfTypes.map((dtype) => ({ kind, dtype })))
describe.each(half)('the layer of $kind in $dtype', ({ kind, dtype }) => {
  const batch = 2
  const length = 23
  const { make, restore, dir } = checkpoints[kind]
  let layer: Layer
  let whole: NDArray
  const inDtype = () => input(batch, length).to(dtype)
  const limits = () => ({ on: layer.device.type, dtype, ...(kind === 'mamba2' ? boundAroundSsd(dtype) : {}) })
  beforeAll(async () => {
    layer = make(await stateOf(dir))
    const { shape, data } = await taken(scope(() => layer.forward(inDtype())))
    whole = new NDArray(shape, data)
  })
  afterAll(() => layer.dispose())

  async function pieces(cache: Cache, bounds: readonly number[]): Promise<Values> {
    const x = scope(inDtype)
    const outs = bounds.slice(1).map((to, i) => {
      const from = bounds[i]!
      return scope(() => {
        const part = x.narrow(1, from, to - from)
        return to - from > 1
          ? layer.forward(part, cache)
          : layer.step(part.reshape([batch, hidden]), cache).reshape([batch, 1, hidden])
      })
    })
    const all = cat(outs, 1)
    for (const t of [x, ...outs]) t.dispose()
    return taken(all)
  }

  test('any split gives what the whole gives', async () => {
    for (const bounds of [
      [0, 23],
      [0, 1, 2, 3, 23],
      [0, 11, 12, 23],
      [0, 2, 9, 22, 23],
      Array.from({ length: 24 }, (_, i) => i),
    ]) {
      const cache = layer.newCache(batch)
      expect([cache.convState.dtype, cache.ssmState.dtype]).toEqual(['float32', 'float32'])
      expectClose(await pieces(cache, bounds), whole, limits())
      cache.dispose()
    }
  })

  // What the state's own roundings add (6e-4 was seen) stays below one of the result's.
  test.each(halfTypes)('a scan’s state in %s is nearly as good', async (held) => {
    const cache = layer.newCache(batch, { dtype: held })
    expect([cache.convState.dtype, cache.ssmState.dtype]).toEqual(['float32', held])
    const full = layer.newCache(batch)
    expect(cache.ssmState.size * 2).toBe(full.bytes - cache.bytes)
    const rough = dtype === 'bfloat16' || held === 'bfloat16'
    const { bound = rough ? 3e-3 : 4e-4 } = kind === 'mamba2' ? boundAroundSsd(rough ? 'bfloat16' : 'float16') : {}
    expectClose(await pieces(cache, [0, 9, 10, 11, 12, 23]), whole, { ...limits(), bound })
    expectClose(await pieces(full, [0, 23]), whole, limits())
    for (const c of [cache, full]) c.dispose()
  })

  test('a cache keeps its dtypes when it is cloned, saved, restored and reset', async () => {
    const before = liveTensors()
    const cache = layer.newCache(batch, { dtype })
    await pieces(cache, [0, 23])
    const saved = await cache.save()
    const state = await cache.ssmState.data()
    for (const copy of [cache.clone(), restore(saved, layer.device)]) {
      expect([copy.ssmState.dtype, copy.convState.dtype, copy.bytes]).toEqual([dtype, 'float32', cache.bytes])
      expect(await copy.ssmState.data()).toEqual(state)
      copy.dispose()
    }
    cache.reset()
    expect(cache.ssmState.dtype).toBe(dtype)
    expect((await cache.ssmState.data()).every((v) => v === 0)).toBe(true)
    cache.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('what does not fit is refused before the cache changes', async () => {
    const cache = layer.newCache(batch)
    const [x, other] = [scope(inDtype), input(batch, length)]
    const ints = zeros([batch, length, hidden], { dtype: 'int32' })
    expect(() => layer.forward(x, cache, { residual: other })).toThrow(
      `residual: expected ${dtype} as x has, got float32`,
    )
    expect(() => layer.forward(ints, cache)).toThrow('x: expected float32, float16 or bfloat16, got int32')
    expect(() => layer.newCache(1, { dtype: 'int32' as never })).toThrow(
      "dtype: expected float32, float16 or bfloat16, got 'int32'",
    )
    expect(() => layer.newCache(1, { dtyp: dtype } as never)).toThrow('options: expected dtype, got dtyp')
    for (const t of cache.tensors()) expect((await t.data()).every((v) => v === 0)).toBe(true)
    for (const t of [x, other, ints, cache]) t.dispose()
  })
})

test.each(['mamba', 'mamba2'] as const)('a layer of %s refuses weights of integers', async (kind) => {
  const before = liveTensors()
  const { name, make, dir } = checkpoints[kind]
  const state = await stateOf(dir)
  for (const weight of ['D', 'A_log']) {
    const ints = zeros((state[weight] as unknown as { dims: number[] }).dims, { dtype: 'int32' })
    expect(() => make({ ...state, [weight]: ints })).toThrow(
      `${name}: ${weight}: expected float32, float16 or bfloat16, got int32`,
    )
    ints.dispose()
  }
  expect(liveTensors()).toBe(before)
})

test('the caches of two kinds of layer are not each other’s', async () => {
  const before = liveTensors()
  const layers = await Promise.all(
    (['mamba', 'mamba2'] as const).map(async (kind) => checkpoints[kind].make(await stateOf(checkpoints[kind].dir))),
  )
  const [mamba, mamba2] = layers as [Layer, Layer]
  const caches = layers.map((layer) => layer.newCache(1))
  const x = input(1, 2)
  for (const [layer, cache] of [
    [mamba, caches[1]!],
    [mamba2, caches[0]!],
  ] as const)
    expect(() => layer.forward(x, cache)).toThrow(/^cache: expected what newCache returns, got /)
  const bytes = await Promise.all(caches.map((cache) => cache.save()))
  expect(() => MambaCache.restore(bytes[1]!)).toThrow('expected the cache of a mamba layer, got mamba2')
  expect(() => Mamba2Cache.restore(bytes[0]!)).toThrow('expected the cache of a mamba2 layer, got mamba')
  for (const t of [x, ...caches, ...layers]) t.dispose()
  expect(liveTensors()).toBe(before)
})

describe('a config of Mamba2', () => {
  const refused: [string, object, RegExp][] = [
    ['heads that are not all channels', { num_heads: 3 }, /^num_heads: expected 128 channels over head_dim 32, got 3$/],
    ['a part of a head', { head_dim: 48 }, /^num_heads: expected a whole number from 1 on, got 2\.666/],
    ['groups that heads do not fill', { n_groups: 3 }, /^n_groups: expected a divisor of 4 heads, got 3$/],
    ['norm groups that channels do not fill', { norm_group_size: 3 }, /^norm_group_size: expected a divisor of 128 channels, got 3$/],
    ['one limit', { time_step_limit: 0.1 }, /^time_step_limit: expected two numbers, the lower first, got 0\.1$/],
    ['limits the wrong way round', { time_step_limit: [1, 0] }, /^time_step_limit: expected the lower number first, got 1 and 0$/],
    ['an order in words', { norm_before_gate: 'no' }, /^norm_before_gate: expected true or false, got 'no'$/],
  ] // prettier-ignore
  test.each(refused)('%s', async (_, changed, message) => {
    const before = liveTensors()
    const state = await stateOf('mamba2')
    expect(() => checkpoints.mamba2.make(state, changed)).toThrow(
      expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringMatching(message) as string }),
    )
    expect(liveTensors()).toBe(before)
  })
})

async function taken(t: Tensor): Promise<Values> {
  const values = await takeValues(t)
  t.dispose()
  return values
}

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

  test('adds a residual first, which may stay float32', async () => {
    const before = liveTensors()
    const norm = new RMSNorm(
      { hidden_size: 2, layer_norm_epsilon: 0 },
      { weight: tensor([1, 2], { dtype: 'bfloat16' }) },
    )
    const x = tensor([[1, 3]], { dtype: 'float16' })
    for (const dtype of ['float16', 'float32'] as const) {
      const residual = tensor([[2, 1]], { dtype })
      for (const residualInFp32 of [undefined, true]) {
        const got = norm.forward(x, { residual, residualInFp32 })
        expect([got.out.dtype, got.residual.dtype]).toEqual(['float16', residualInFp32 ? 'float32' : dtype])
        expect(Array.from((await taken(got.residual)).data)).toEqual([3, 4])
        const [a, b] = (await taken(got.out)).data as unknown as [number, number]
        expect(Math.abs(a - 3 / Math.sqrt(12.5))).toBeLessThan(5e-4)
        expect(Math.abs(b - 8 / Math.sqrt(12.5))).toBeLessThan(2e-3)
      }
      residual.dispose()
    }
    x.dispose()
    norm.dispose()
    expect(liveTensors()).toBe(before + 1) // the weight's handle is the caller's
  })
})
