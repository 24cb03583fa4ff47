import { expect, test } from 'vitest'

import { scope, tensor, type Tensor } from '../../lib/index.js'
import { MLP, type MLPConfig } from '../../lib/layers/index.js'
import { mlpShapes } from '../../lib/layers/mlp.js'
import { liveTensors } from '../models/support.js'
import type { NDArray } from '../reference/array.js'
import { expectClose } from '../support/close.js'
import { dut, on, take } from '../support/device.js'
import { floatTypes, rounded, roundTo, type FloatType } from '../support/floats.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'
import { mlp } from './attention-reference.js'

const placed = (t: NDArray, dtype: FloatType): Tensor =>
  tensor(Float32Array.from(t.data), { shape: [...t.shape], dtype, device: dut })

const grid = pairwise({
  hidden_act: ['silu', 'swish', 'gelu', 'gelu_pytorch_tanh', 'gelu_new'],
  gated: [true, false],
  mlp_bias: [true, false],
  dtype: floatTypes,
  size: [
    [8, 24],
    [33, 7],
    [64, 112],
  ] as const,
})

test.each(grid.map((c) => ({ c, name: describeCase(c) })))('$name', async ({ c, name }) => {
  const before = liveTensors()
  const random = new Random(name)
  const { dtype, size, ...rest } = c
  const config: MLPConfig = { hidden_size: size[0], intermediate_size: size[1], ...rest }
  const weights = Object.fromEntries(
    Object.entries(mlpShapes(config)).map(([key, shape]) => [
      key,
      rounded(random.normal(shape, 1 / Math.sqrt(shape.at(-1)!)), dtype),
    ]),
  )
  const x = rounded(random.normal([2, 5, size[0]]), dtype)
  const state = Object.fromEntries(Object.entries(weights).map(([key, t]) => [key, placed(t, dtype)]))
  const layer = new MLP(config, state)
  for (const t of Object.values(state)) t.dispose()
  const r = dtype === 'float32' ? undefined : roundTo(dtype)
  const want = mlp(config, weights, x, r)
  const [out, more] = scope(() => {
    const input = placed(x, dtype)
    return [layer.forward(input), layer.forward(input, { residual: input })]
  }) as [Tensor, Tensor]
  const plain = () => mlp(config, weights, x, Math.fround)
  expectClose(await take(out), want, { on, dtype, plain })
  expectClose(
    await take(more),
    want.map((v, i) => v + x.data[i]!),
    { on, dtype },
  )
  for (const t of [out, more, layer]) t.dispose()
  expect(liveTensors()).toBe(before)
})

test('what is refused', () => {
  const before = liveTensors()
  const config = { hidden_size: 2, intermediate_size: 3 }
  const state = { 'gate_proj.weight': [[1, 2], [3, 4], [5, 6]], 'up_proj.weight': [[1, 2], [3, 4], [5, 6]] } // prettier-ignore
  expect(() => new MLP(config, state)).toThrow('MLP: down_proj.weight: missing in the state dict')
  expect(() => new MLP({ ...config, hidden_act: 'relu' }, state)).toThrow(
    expect.objectContaining({ code: 'ERR_UNSUPPORTED' }),
  )
  expect(() => new MLP({ ...config, intermediate_size: 0 }, state)).toThrow(
    'intermediate_size: expected a whole number from 1 on',
  )
  expect(liveTensors()).toBe(before)
})
