// Layers of every size, option and dtype against the float64 definition: by forward, and step by step.

import { describe, expect, test } from 'vitest'

import { cat, device, scope, tensor, type Tensor } from '../../lib/index.js'
import { Mamba, type MambaConfig } from '../../lib/layers/index.js'
import { mambaShapes } from '../../lib/layers/mamba.js'
import { NDArray } from '../reference/array.js'
import { expectClose } from '../support/close.js'
import { take, type Values } from '../support/device.js'
import { floatTypes, halfTypes, rounded, roundTo, toBits, type FloatType } from '../support/floats.js'
import { Random } from '../support/random.js'
import { liveTensors } from '../models/support.js'
import { mamba } from './reference.js'

const configs: [string, MambaConfig, batch: number, length: number][] = [
  ['the defaults', { hidden_size: 32 }, 2, 19],
  [
    'odd sizes everywhere',
    { hidden_size: 11, intermediate_size: 17, state_size: 5, conv_kernel: 3, time_step_rank: 3 },
    3,
    7,
  ],
  ['no biases', { hidden_size: 8, use_conv_bias: false }, 1, 12],
  ['every bias', { hidden_size: 8, use_bias: true, conv_kernel: 2 }, 2, 5],
  ['one channel, one state', { hidden_size: 1, intermediate_size: 1, state_size: 1, time_step_rank: 1 }, 2, 9],
  ['a wide convolution', { hidden_size: 12, conv_kernel: 9, state_size: 33 }, 1, 6],
  ['normalised δ, B and C', { hidden_size: 20, state_size: 7, time_step_rank: 5, mixer_rms_eps: 1e-6 }, 2, 11],
  ['one token', { hidden_size: 16 }, 4, 1],
  ['many tokens', { hidden_size: 16, expand: 3 }, 1, 300],
]

// Weights as a trained layer has them, roughly: projections that keep the scale, Δ around 0.01 to 1, A from −1 to −n.
function weights(config: MambaConfig, random: Random): Record<string, NDArray> {
  const make = (name: string, shape: readonly number[]): NDArray => {
    if (name === 'A_log') return new NDArray(shape).map((_, i) => Math.fround(Math.log(1 + (i % shape[1]!))))
    if (name === 'D') return random.normal(shape, 0.2, 1)
    if (name === 'dt_proj.bias') return random.uniform(shape, -4, 0.5)
    return random.normal(shape, name.endsWith('bias') ? 0.5 : 1 / Math.sqrt(shape.at(-1)!))
  }
  return Object.fromEntries(Object.entries(mambaShapes(config)).map(([name, shape]) => [name, make(name, shape)]))
}

function relativeError(got: ArrayLike<number>, wanted: NDArray): number {
  expect(got.length).toBe(wanted.size)
  let missed = 0
  let all = 0
  wanted.data.forEach((v, i) => {
    missed += (got[i]! - v) ** 2
    all += v ** 2
  })
  return Math.sqrt(missed / all)
}

// Four float32 products, a convolution and a scan in a row, each within a rounding error or two of 6e-8: up to 3.5e-7
// was seen on the CPU's three instruction sets. CUDA's exp has twice the error and Δ carries it through the scan.
const bound = (type: 'cpu' | 'cuda') => (type === 'cpu' ? 1e-6 : 4e-6)

describe.each(configs)('%s', (name, config, batch, length) => {
  const random = new Random(name)
  const w = weights(config, random)
  const x = random.normal([batch, length, config.hidden_size])
  const wanted = mamba(config, w, x)
  const place = (t: NDArray, dtype: FloatType = 'float32') =>
    tensor(dtype === 'float32' ? Float32Array.from(t.data) : toBits(t.data, dtype), { shape: [...t.shape], dtype })
  const build = (weights = w, dtypeOf: (key: string) => FloatType = () => 'float32') =>
    new Mamba(config, Object.fromEntries(Object.entries(weights).map(([key, t]) => [key, place(t, dtypeOf(key))])))

  test('forward', async () => {
    const before = liveTensors()
    const out = scope(() => build().forward(place(x)))
    expect(out.shape).toEqual(wanted.shape)
    expect(relativeError(await out.toFloat32(), wanted)).toBeLessThan(bound(out.device.type))
    out.dispose()
    expect(liveTensors()).toBe(before)
  })

  test('step by step', async () => {
    const before = liveTensors()
    const out = scope(() => stepped(build(), place(x)))
    expect(relativeError(await out.toFloat32(), wanted)).toBeLessThan(bound(out.device.type))
    out.dispose()
    expect(liveTensors()).toBe(before)
  })

  // In 16 bits a layer is the definition with each op's result rounded once: what is left between the two is a rounding to
  // another side here and there.
  test.each(halfTypes)('forward and step by step in %s', async (dtype) => {
    const weights = Object.fromEntries(Object.entries(w).map(([key, t]) => [key, rounded(t, dtype)]))
    const input = rounded(x, dtype)
    const want = mamba(config, weights, input, roundTo(dtype))
    const on = device().type
    expectClose(await kept(() => build(weights, () => dtype).forward(place(input, dtype))), want, { on, dtype })
    expectClose(
      await kept(() =>
        stepped(
          build(weights, () => dtype),
          place(input, dtype),
        ),
      ),
      want,
      { on, dtype },
    )
  })

  test('float32 beside weights each of another dtype', async () => {
    const keys = Object.keys(w)
    const dtypeOf = (key: string): FloatType => floatTypes[keys.indexOf(key) % 3]!
    const weights = Object.fromEntries(Object.entries(w).map(([key, t]) => [key, rounded(t, dtypeOf(key))]))
    const want = mamba(config, weights, x)
    for (const run of [
      () => build(weights, dtypeOf).forward(place(x)),
      () => stepped(build(weights, dtypeOf), place(x)),
    ]) {
      const { data } = await kept(run)
      expect(relativeError(data, want)).toBeLessThan(bound(device().type))
    }
  })

  function stepped(layer: Mamba, all: Tensor): Tensor {
    const cache = layer.newCache(batch)
    const steps = Array.from({ length }, (_, t) => {
      return layer
        .step(all.narrow(1, t, 1).reshape(batch, config.hidden_size), cache)
        .reshape(batch, 1, config.hidden_size)
    })
    return cat(steps, 1)
  }
})

async function kept(run: () => Tensor): Promise<Values> {
  const out = scope(run)
  const values = await take(out)
  out.dispose()
  return values
}
