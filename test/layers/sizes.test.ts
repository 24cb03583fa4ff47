// Layers of every size, option and dtype against the float64 definition: by forward, and step by step.

import { describe, expect, test } from 'vitest'

import { cat, device, scope, tensor, type Tensor } from '../../lib/index.js'
import { Mamba, Mamba2, type Mamba2Config, type MambaConfig, type StateDict } from '../../lib/layers/index.js'
import { mambaShapes } from '../../lib/layers/mamba.js'
import { mamba2Shapes } from '../../lib/layers/mamba2.js'
import { NDArray, type Round } from '../reference/array.js'
import { expectClose } from '../support/close.js'
import { take, type Values } from '../support/device.js'
import { floatTypes, halfTypes, rounded, roundTo, toBits, type FloatType } from '../support/floats.js'
import { Random } from '../support/random.js'
import { boundAroundSsd } from '../support/ssd.js'
import { liveTensors } from '../models/support.js'
import { mamba, mamba2 } from './reference.js'

const mambas: [string, MambaConfig, batch: number, length: number][] = [
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

const mamba2s: [string, Mamba2Config, batch: number, length: number][] = [
  ['the defaults of Mamba-2', { hidden_size: 32 }, 2, 19],
  [
    'odd sizes everywhere in Mamba-2',
    { hidden_size: 11, intermediate_size: 21, head_dim: 7, state_size: 5, conv_kernel: 3 },
    3,
    7,
  ],
  ['groups', { hidden_size: 24, head_dim: 8, n_groups: 3, state_size: 16 }, 2, 33],
  ['a norm of groups', { hidden_size: 24, head_dim: 8, n_groups: 3, state_size: 16, norm_group_size: 16 }, 2, 21],
  ['a norm before the gate', { hidden_size: 16, head_dim: 16, state_size: 20, norm_before_gate: true }, 1, 12],
  ['no norm', { hidden_size: 16, head_dim: 8, state_size: 12, rms_norm: false }, 2, 12],
  ['no biases in Mamba-2', { hidden_size: 8, head_dim: 4, state_size: 8, use_conv_bias: false }, 1, 12],
  ['every bias in Mamba-2', { hidden_size: 8, head_dim: 4, state_size: 8, use_bias: true, conv_kernel: 2 }, 2, 5],
  ['D of each channel', { hidden_size: 12, head_dim: 6, state_size: 10, D_has_hdim: true }, 2, 9],
  ['limited steps', { hidden_size: 16, head_dim: 8, state_size: 16, time_step_limit: [0.05, 0.3] }, 2, 15],
  ['limited steps without a norm', { hidden_size: 8, head_dim: 8, state_size: 9, time_step_limit: [0, 0.2], rms_norm: false }, 2, 8],
  ['one channel, one state in Mamba-2', { hidden_size: 1, intermediate_size: 1, head_dim: 1, state_size: 1 }, 2, 9],
  ['one token of Mamba-2', { hidden_size: 16, head_dim: 16, state_size: 16 }, 4, 1],
  ['many tokens of Mamba-2', { hidden_size: 32, head_dim: 32, state_size: 64 }, 1, 300],
] // prettier-ignore

interface Case {
  name: string
  second: boolean
  hidden: number
  batch: number
  length: number
  shapes: Record<string, readonly number[]>
  make: (state: StateDict) => Mamba | Mamba2
  reference: (w: Record<string, NDArray>, x: NDArray, r?: Round) => NDArray
}
const configs: Case[] = [
  ...mambas.map(([name, config, batch, length]) => ({
    ...{ name, second: false, hidden: config.hidden_size, batch, length, shapes: mambaShapes(config) },
    make: (state: StateDict) => new Mamba(config, state),
    reference: (w: Record<string, NDArray>, x: NDArray, r?: Round) => mamba(config, w, x, r),
  })),
  ...mamba2s.map(([name, config, batch, length]) => ({
    ...{ name, second: true, hidden: config.hidden_size, batch, length, shapes: mamba2Shapes(config) },
    make: (state: StateDict) => new Mamba2(config, state),
    reference: (w: Record<string, NDArray>, x: NDArray, r?: Round) => mamba2(config, w, x, r),
  })),
]

// Weights as a trained layer has them, roughly: projections that keep the scale, Δ around 0.01 to 1, A from −1 to −n.
function weights(shapes: Record<string, readonly number[]>, random: Random): Record<string, NDArray> {
  const make = (name: string, shape: readonly number[]): NDArray => {
    if (name === 'A_log') return new NDArray(shape).map((_, i) => Math.fround(Math.log(1 + (i % (shape[1] ?? 16)))))
    if (name === 'D' || name === 'norm.weight') return random.normal(shape, 0.2, 1)
    if (name === 'dt_proj.bias' || name === 'dt_bias') return random.uniform(shape, -4, 0.5)
    return random.normal(shape, name.endsWith('bias') ? 0.5 : 1 / Math.sqrt(shape.at(-1)!))
  }
  return Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, make(name, shape)]))
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

describe.each(configs)('$name', ({ name, second, hidden, batch, length, shapes, make, reference }) => {
  const random = new Random(name)
  const w = weights(shapes, random)
  const x = random.normal([batch, length, hidden])
  const wanted = reference(w, x)
  const place = (t: NDArray, dtype: FloatType = 'float32') =>
    tensor(dtype === 'float32' ? Float32Array.from(t.data) : toBits(t.data, dtype), { shape: [...t.shape], dtype })
  const build = (weights = w, dtypeOf: (key: string) => FloatType = () => 'float32') =>
    make(Object.fromEntries(Object.entries(weights).map(([key, t]) => [key, place(t, dtypeOf(key))])))

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
    const want = reference(weights, input, roundTo(dtype))
    const on = device().type
    const limits = { on, dtype, ...(second ? boundAroundSsd(dtype) : {}) }
    expectClose(await kept(() => build(weights, () => dtype).forward(place(input, dtype))), want, limits)
    expectClose(
      await kept(() =>
        stepped(
          build(weights, () => dtype),
          place(input, dtype),
        ),
      ),
      want,
      limits,
    )
  })

  test('float32 beside weights each of another dtype', async () => {
    const keys = Object.keys(w)
    const dtypeOf = (key: string): FloatType => floatTypes[keys.indexOf(key) % 3]!
    const weights = Object.fromEntries(Object.entries(w).map(([key, t]) => [key, rounded(t, dtypeOf(key))]))
    const want = reference(weights, x)
    for (const run of [
      () => build(weights, dtypeOf).forward(place(x)),
      () => stepped(build(weights, dtypeOf), place(x)),
    ]) {
      const { data } = await kept(run)
      expect(relativeError(data, want)).toBeLessThan(bound(device().type))
    }
  })

  function stepped(built: Mamba | Mamba2, all: Tensor): Tensor {
    const layer = built as Mamba // both are called alike
    const cache = layer.newCache(batch)
    const steps = Array.from({ length }, (_, t) => {
      return layer.step(all.narrow(1, t, 1).reshape(batch, hidden), cache).reshape(batch, 1, hidden)
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
