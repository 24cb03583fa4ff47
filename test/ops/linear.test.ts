import { expect, test } from 'vitest'
import { linear } from '../../lib/index.js'
import { float32, NDArray } from '../reference/array.js'
import { linear as reference } from '../reference/linear.js'
import { expectClose } from '../support/close.js'
import { describeOp, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, halfTypes, rounded, type FloatType } from '../support/floats.js'
import { layouts, place } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

// Of x and the weight: float32 and 16 bits beside their own, and mixtures, of which each size has another.
const alike: [FloatType, FloatType][] = [
  ['float32', 'float32'],
  ['bfloat16', 'bfloat16'],
]
const mixed: [FloatType, FloatType][] = [
  ['float32', 'bfloat16'],
  ['float16', 'float16'],
  ['float32', 'float16'],
  ['bfloat16', 'float16'],
  ['float16', 'float32'],
]
const pairs = (turn: number): [FloatType, FloatType][] => [...alike, mixed[turn % mixed.length]!]

describeOp('linear', () => {
  const grid = pairwise({
    rows: [[1], [2], [3], [2, 5], [13], [16], [3, 11], [65]],
    ins: [1, 2, 7, 16, 17, 64, 65, 256, 300],
    outs: [1, 2, 5, 8, 16, 31, 33, 64, 100],
    x: layouts,
    weight: layouts,
    bias: [false, 'plain', 'offset'] as const,
    activation: [false, 'silu'] as const,
    residual: [false, ...layouts],
    dtype: floatTypes,
    weightType: floatTypes,
    biasType: floatTypes,
  })
  test.each(grid.map((c) => ({ c, name: describeCase({ ...c, rows: c.rows.join('x') }) })))(
    '$name',
    async ({ c, name }) => {
      const random = new Random(name)
      const { dtype, weightType, biasType } = c
      const x = rounded(random.normal([...c.rows, c.ins]), dtype)
      const weight = rounded(random.normal([c.outs, c.ins], 1 / Math.sqrt(c.ins)), weightType)
      const bias = c.bias ? rounded(random.normal([c.outs]), biasType) : null
      const residual = c.residual ? rounded(random.normal([...c.rows, c.outs]), dtype) : null
      const activation = c.activation || null
      const out = linear(place(x, c.x, dtype), place(weight, c.weight, weightType), {
        bias: bias ? place(bias, c.bias || 'plain', biasType) : undefined,
        residual: residual ? place(residual, c.residual || 'plain', dtype) : undefined,
        activation,
      })
      expectKernel('linear')
      const options = { bias, activation, residual }
      expectClose(await take(out), reference(x, weight, options), {
        on,
        dtype,
        plain: () => reference(x, weight, options, float32),
      })
    },
  )

  test.each([
    [1, 1536, 96],
    [5, 3000, 40],
    [130, 128, 130],
    [1, 8, 1025],
  ])('%i × %i → %i', async (rows, ins, outs) => {
    for (const [dtype, weightType] of [...alike, ...mixed]) {
      const random = new Random(rows * ins)
      const x = rounded(random.normal([rows, ins]), dtype)
      const weight = rounded(random.normal([outs, ins], 1 / Math.sqrt(ins)), weightType)
      expectClose(await take(linear(put(x, dtype), put(weight, weightType))), reference(x, weight), {
        on,
        dtype,
        plain: () => reference(x, weight, {}, float32),
      })
      expectKernel('linear')
    }
  })

  // Around the sizes at which kernels change over, and those of their blocks.
  test.each([
    [8, 300, 70],
    [9, 300, 70],
    [31, 384, 256],
    [32, 385, 257],
    [33, 383, 255],
    [34, 384, 256],
    [48, 769, 513],
    [113, 1025, 33],
    [34, 1, 300],
    [260, 64, 17],
    [40, 0, 5],
  ])('%i × %i → %i, with everything', async (rows, ins, outs) => {
    for (const [dtype, weightType] of pairs(rows)) {
      const random = new Random(rows + ins)
      const x = rounded(random.normal([rows, ins]), dtype)
      const weight = rounded(random.normal([outs, ins], 1 / Math.sqrt(ins || 1)), weightType)
      const [bias, residual] = [random.normal([outs]), rounded(random.normal([rows, outs]), dtype)]
      const options = { bias, residual, activation: 'silu' } as const
      const want = reference(x, weight, options)
      for (const layout of ['plain', 'offset', 'swapped'] as const) {
        const out = linear(place(x, layout, dtype), place(weight, layout, weightType), {
          bias: put(bias),
          residual: place(residual, layout, dtype),
          activation: 'silu',
        })
        expectKernel('linear')
        expectClose(await take(out), want, { on, dtype, plain: () => reference(x, weight, options, float32) })
      }
    }
  })

  test.each([...alike, ...mixed])(
    'a row’s result does not depend on the other rows’ values (%s, weight %s)',
    async (dtype, weightType) => {
      const random = new Random('rows')
      for (const rows of [7, 70]) {
        const weight = put(rounded(random.normal([33, 65]), weightType), weightType)
        const x = rounded(random.normal([rows, 65]), dtype)
        const all = (await take(linear(put(x, dtype), weight))).data
        const y = x.clone()
        for (let i = 0; i < 65; i++) y.set(NaN, 3, i)
        const others = (await take(linear(put(y, dtype), weight))).data
        for (let i = 0; i < rows * 33; i++)
          if (Math.floor(i / 33) === 3) expect(others[i]).toBeNaN()
          else expect(others[i]).toBe(all[i])
      }
    },
  )

  test.each(halfTypes)('what is past %s is infinite, and what is not is not', async (dtype) => {
    const size = dtype === 'float16' ? 300 : 1e19
    const x = rounded(
      new NDArray(
        [3, 4],
        [1, 1, 1, 1, -1, -1, -1, -1, 1, -1, 1, -1].map((v) => v * size),
      ),
      dtype,
    )
    const weight = rounded(
      new NDArray(
        [2, 4],
        [1, 1, 1, 1, 0.25, 0, 0, 0].map((v) => v * size),
      ),
      dtype,
    )
    const got = await take(linear(put(x, dtype), put(weight, dtype)))
    const want = Array.from(rounded(reference(x, weight), dtype).data)
    expect(Array.from(got.data)).toEqual(want)
    expect(want.filter((v) => !Number.isFinite(v))).toHaveLength(2)
  })

  test.each([
    [0, 5, 3],
    [2, 0, 3],
    [2, 5, 0],
  ])('empty: %i rows, %i → %i', async (rows, ins, outs) => {
    const random = new Random('empty')
    for (const [dtype, weightType] of [...alike, ...mixed]) {
      const x = rounded(random.normal([rows, ins]), dtype)
      const weight = rounded(random.normal([outs, ins]), weightType)
      const bias = random.normal([outs])
      const out = linear(put(x, dtype), put(weight, weightType), { bias: put(bias) })
      expectClose(await take(out), reference(x, weight, { bias }), { on, dtype })
    }
  })

  test('one vector', async () => {
    const random = new Random('vector')
    const [x, weight] = [random.normal([20]), random.normal([6, 20])]
    expectClose(await take(linear(put(x), put(weight))), reference(x, weight), { on })
  })

  test('what it refuses', () => {
    const [x, w] = [put(new NDArray([2, 5])), put(new NDArray([3, 5]))]
    const error = (code: string, what: string): unknown =>
      expect.objectContaining({ code, message: expect.stringMatching(new RegExp(`^${what}: expected .*, got `)) })
    expect(() => linear(x, put(new NDArray([3, 4])))).toThrow(error('ERR_SHAPE', 'weight'))
    expect(() => linear(x, w, { bias: put(new NDArray([5])) })).toThrow(error('ERR_SHAPE', 'bias'))
    expect(() => linear(x, w, { residual: put(new NDArray([2, 5])) })).toThrow(error('ERR_SHAPE', 'residual'))
    expect(() => linear(x, w, { activation: 'relu' as 'silu' })).toThrow(error('ERR_OPTION', 'activation'))
  })
})
