// Bad input to models, layers and caches, as bad_input.test.ts does for ops: an error with a code, or a result; no tensor left
// behind, nothing that hangs.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { SeqmixError, Tensor, memory, scope, zeros } from '../../lib/index.js'
import { Attention, Mamba, MambaCache, MLP, PagePool, RMSNorm, Rope, restoreKVCache } from '../../lib/layers/index.js'
import { type LanguageModel, ModelCache, load } from '../../lib/models/index.js'
import { dut } from '../support/device.js'
import { Trap, hostile, own } from './hostile.js'

const fixture = 'test/fixtures/kjv-mamba'
let model: LanguageModel
beforeAll(async () => {
  model = await load(fixture, { device: dut })
})
afterAll(() => model.dispose())

function expectClean(error: unknown): void {
  if (error instanceof Trap) return
  const { code, message } = error as { code?: unknown; message: string }
  const kind = error instanceof TypeError || error instanceof RangeError || error instanceof SeqmixError
  const brief = message.length < 1000 || message.startsWith('xxx') // a path as it was given may be long
  if (kind && /^ERR_[A-Z_]+$/.test(String(code)) && brief) return
  throw new Error(`not a clean error: ${String(error)}`, { cause: error })
}

/** Frees what came of a call, whatever it is; of an iterator the first few steps. */
async function finish(result: unknown): Promise<void> {
  const value: unknown = await result
  if (Tensor.isTensor(value)) {
    await value.data()
    value.dispose()
  } else if (typeof (value as AsyncIterable<unknown> | undefined)?.[Symbol.asyncIterator] === 'function') {
    let steps = 0
    for await (const step of value as AsyncIterable<unknown>) if (step === undefined || ++steps === 3) break
  } else if (value !== model) {
    ;(value as { dispose?: () => void } | undefined)?.dispose?.()
  }
}

async function attempt(run: () => unknown): Promise<void> {
  await dut.synchronize() // what was read before is let go of
  const before = memory()[dut.name]!.tensors
  try {
    await finish(run())
  } catch (error) {
    expectClean(error)
  }
  expect(memory()[dut.name]!.tensors).toBe(before)
}

/** `run` with each hostile value; tensors among them are disposed afterwards. */
async function expectClear(run: (value: never) => unknown): Promise<void> {
  for (const [what, make] of Object.entries(hostile)) {
    let value: unknown
    const owned = scope(() => {
      value = make()
      return Tensor.isTensor(value) ? value : undefined
    })
    try {
      await attempt(() => run(value as never))
    } catch (cause) {
      throw new Error(`${what}: ${String(cause)}`, { cause })
    }
    owned?.dispose()
  }
}

describe('a model', () => {
  test('forward of ids', () => expectClear((ids) => model.forward(ids)))
  test('forward with a cache', () => expectClear((cache) => model.forward([1, 2], cache)))
  test('generate from ids', () => expectClear((ids) => model.generate(ids, { maxNewTokens: 2 })))
  test('generate with options', () => expectClear((options) => model.generate([1, 2], options)))
  test.each(['maxNewTokens', 'temperature', 'topK', 'topP', 'seed', 'stop', 'signal', 'ignoreEos', 'cache'])(
    'generate with %s',
    (name) => expectClear((value) => model.generate([1, 2], { maxNewTokens: 2, [name]: value })),
  )
  test('encode', () => expectClear((text) => model.encode(text)))
  test('encode with options', () => expectClear((options) => model.encode('a', options)))
  test('decode', () => expectClear((ids) => model.decode(ids)))
  test('decode with options', () => expectClear((options) => model.decode([5], options)))
  test('newCache', () => expectClear((batch) => model.newCache(batch)))
  test('newCache with options', () => expectClear((options) => model.newCache(1, options)))
  test('newCache of a dtype', () => expectClear((dtype) => model.newCache(1, { dtype })))
  test('restoreCache', () => expectClear((bytes) => model.restoreCache(bytes)))
})

describe('load', () => {
  test('of a directory', () => expectClear((dir) => load(dir)))
  test('with options', () => expectClear((options) => load(fixture, options)))
  test.each(['device', 'dtype', 'weights', 'cache', 'onProgress', 'signal'])('with %s', (name) =>
    expectClear((value) => load(fixture, { device: dut, [name]: name === 'onProgress' ? own(value) : value })),
  )
})

describe('layers', () => {
  const config = { hidden_size: 4, state_size: 2, conv_kernel: 3 }
  const state = (): Record<string, unknown> => ({
    'in_proj.weight': zeros([16, 4]),
    'conv1d.weight': zeros([8, 1, 3]),
    'conv1d.bias': zeros([8]),
    'x_proj.weight': zeros([5, 8]),
    'dt_proj.weight': zeros([8, 1]),
    'dt_proj.bias': zeros([8]),
    A_log: zeros([8, 2]),
    D: zeros([8]),
    'out_proj.weight': zeros([4, 8]),
  })
  /** A layer, used and disposed, inside a scope of its own. */
  const inScope = (use: () => unknown): void =>
    scope(() => {
      const result = use()
      ;(result as { dispose?: () => void } | undefined)?.dispose?.()
    })

  test('Mamba of a config', () => expectClear((c) => inScope(() => new Mamba(c, state() as never))))
  test.each([
    'hidden_size',
    'expand',
    'intermediate_size',
    'state_size',
    'conv_kernel',
    'time_step_rank',
    'hidden_act',
  ])('Mamba of a config with %s', (name) =>
    expectClear((value) => inScope(() => new Mamba({ ...config, [name]: value as never }, state() as never))),
  )
  test('Mamba of a state', () => expectClear((s) => inScope(() => new Mamba(config, s))))
  test.each(Object.keys(state()))('Mamba of a state with %s', (name) =>
    expectClear((value) => inScope(() => new Mamba(config, { ...state(), [name]: value } as never))),
  )
  test('Mamba with options', () => expectClear((o) => inScope(() => new Mamba(config, state() as never, o))))
  test('Mamba forward and step', async () => {
    const layer = scope(() => new Mamba(config, state() as never))
    const cache = layer.newCache(1)
    await expectClear((x) => layer.forward(x))
    await expectClear((x) => layer.forward(x, cache))
    await expectClear((x) => layer.step(x, cache))
    await expectClear((c) => scope(() => layer.forward(zeros([1, 2, 4]), c).dispose()))
    await expectClear((c) => scope(() => layer.step(zeros([1, 4]), c).dispose()))
    await expectClear((batch) => layer.newCache(batch))
    await expectClear((options) => layer.newCache(1, options))
    await expectClear((dtype) => layer.newCache(1, { dtype }))
    await expectClear((options) => scope(() => layer.forward(zeros([1, 2, 4]), cache, options).dispose()))
    await expectClear((residual) => scope(() => layer.step(zeros([1, 4]), cache, { residual }).dispose()))
    cache.dispose()
    layer.dispose()
  })
  test('RMSNorm', async () => {
    await expectClear((c) => inScope(() => new RMSNorm(c, { weight: zeros([4]) })))
    await expectClear((s) => inScope(() => new RMSNorm({ hidden_size: 4 }, s)))
    await expectClear((o) => inScope(() => new RMSNorm({ hidden_size: 4 }, { weight: zeros([4]) }, o)))
    const norm = scope(() => new RMSNorm({ hidden_size: 4 }, { weight: zeros([4]) }))
    await expectClear((x) => norm.forward(x))
    await expectClear((options) => inScope(() => norm.forward(zeros([2, 4]), options)))
    await expectClear((residual) => scope(() => void norm.forward(zeros([2, 4]), { residual })))
    await expectClear((residualInFp32) =>
      scope(() => void norm.forward(zeros([2, 4]), { residual: zeros([2, 4]), residualInFp32 })),
    )
    norm.dispose()
  })
  test('restoring caches', async () => {
    await expectClear((bytes) => MambaCache.restore(bytes))
    await expectClear((bytes) => ModelCache.restore(bytes))
  })

  const projections = (): Record<string, unknown> => ({
    'q_proj.weight': zeros([16, 16]),
    'k_proj.weight': zeros([8, 16]),
    'v_proj.weight': zeros([8, 16]),
    'o_proj.weight': zeros([16, 16]),
  })
  const attention = { hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1, rope_theta: 100 }
  test('Attention of a config', () => expectClear((c) => inScope(() => new Attention(c, projections() as never))))
  test.each([
    ...['hidden_size', 'num_attention_heads', 'num_key_value_heads', 'head_dim', 'sliding_window', 'rope_theta'],
    ...['attn_logit_softcapping', 'query_pre_attn_scalar', 'rope_parameters', 'rope_scaling', 'rope_interleave'],
    ...['partial_rotary_factor', 'max_position_embeddings'],
  ])('Attention of a config with %s', (name) =>
    expectClear((value) =>
      inScope(() => new Attention({ ...attention, [name]: value as never }, projections() as never)),
    ),
  )
  test('Attention of a state, and with options', async () => {
    await expectClear((s) => inScope(() => new Attention(attention, s)))
    await expectClear((o) => inScope(() => new Attention(attention, projections() as never, o)))
    await expectClear((rope) => inScope(() => new Attention(attention, projections() as never, { rope })))
    for (const name of Object.keys(projections()))
      await expectClear((value) =>
        inScope(() => new Attention(attention, { ...projections(), [name]: value } as never)),
      )
  })
  test('Attention forward and step, and its caches', async () => {
    const layer = scope(() => new Attention(attention, projections() as never))
    const cache = layer.newCache(1)
    scope(() => layer.forward(zeros([1, 300, 16]), cache).dispose()) // tables and memory for what follows
    cache.rollback(290)
    await expectClear((x) => layer.forward(x))
    await expectClear((x) => layer.forward(x, cache))
    await expectClear((x) => layer.step(x, cache))
    await expectClear((c) => scope(() => layer.forward(zeros([1, 2, 16]), c).dispose()))
    await expectClear((c) => scope(() => layer.step(zeros([1, 16]), c).dispose()))
    await expectClear((options) => scope(() => layer.forward(zeros([1, 2, 16]), cache, options).dispose()))
    await expectClear((residual) => scope(() => layer.step(zeros([1, 16]), cache, { residual }).dispose()))
    await expectClear((tokens) => cache.rollback(tokens))
    await expectClear((tokens) => cache.prepare(tokens))
    await expectClear((rows) => (cache as unknown as { select(rows: never): unknown }).select(rows))
    await expectClear((batch) => layer.newCache(batch))
    await expectClear((options) => layer.newCache(1, options))
    for (const name of ['kind', 'dtype', 'capacity', 'window', 'sinks', 'pool'])
      for (const kind of ['contiguous', 'sinks'] as const)
        await expectClear((value) => layer.newCache(1, { kind, window: 4, [name]: value }))
    cache.dispose()
    layer.dispose()
  })
  test('MLP, Rope and PagePool', async () => {
    const state = () => ({
      'gate_proj.weight': zeros([3, 4]),
      'up_proj.weight': zeros([3, 4]),
      'down_proj.weight': zeros([4, 3]),
    })
    const config = { hidden_size: 4, intermediate_size: 3 }
    await expectClear((c) => inScope(() => new MLP(c, state())))
    await expectClear((s) => inScope(() => new MLP(config, s)))
    for (const name of ['hidden_size', 'intermediate_size', 'hidden_act'])
      await expectClear((value) => inScope(() => new MLP({ ...config, [name]: value as never }, state())))
    const layer = scope(() => new MLP(config, state()))
    await expectClear((x) => layer.forward(x))
    await expectClear((options) => scope(() => layer.forward(zeros([2, 4]), options).dispose()))
    layer.dispose()
    await expectClear((c) => new Rope(c, 8))
    await expectClear((options) => new PagePool(options))
    await expectClear((pageSize) => new PagePool({ pageSize }))
    await expectClear((pages) => new PagePool({ pages }))
  })
  test('restoring KV caches', () => expectClear((bytes) => restoreKVCache(bytes)))
})
