import { expect, test } from 'vitest'
import { linear } from '../../lib/index.js'
import { float32, NDArray } from '../reference/array.js'
import { linear as reference } from '../reference/linear.js'
import { expectClose } from '../support/close.js'
import { describeOp, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, rounded } from '../support/floats.js'
import { layouts, place } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

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
    const random = new Random(rows * ins)
    const x = random.normal([rows, ins])
    const weight = random.normal([outs, ins], 1 / Math.sqrt(ins))
    expectClose(await take(linear(put(x), put(weight))), reference(x, weight), {
      on,
      plain: () => reference(x, weight, {}, float32),
    })
    expectKernel('linear')
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
    [49, 769, 513],
    [113, 1025, 33],
    [34, 1, 300],
    [260, 64, 17],
    [40, 0, 5],
  ])('%i × %i → %i, with everything', async (rows, ins, outs) => {
    const random = new Random(rows + ins)
    const [x, weight] = [random.normal([rows, ins]), random.normal([outs, ins], 1 / Math.sqrt(ins || 1))]
    const [bias, residual] = [random.normal([outs]), random.normal([rows, outs])]
    const options = { bias, residual, activation: 'silu' } as const
    const want = reference(x, weight, options)
    for (const layout of ['plain', 'offset', 'swapped'] as const) {
      const out = linear(place(x, layout), place(weight, layout), {
        bias: put(bias),
        residual: place(residual, layout),
        activation: 'silu',
      })
      expectKernel('linear')
      expectClose(await take(out), want, { on, plain: () => reference(x, weight, options, float32) })
    }
  })

  // Every pair of dtypes, in each way that there is to multiply.
  const pairs = floatTypes.flatMap((dtype) => floatTypes.map((weightType) => [dtype, weightType] as const))
  test.each(pairs)('x of %s, weight of %s', async (dtype, weightType) => {
    for (const rows of [1, 2, 4, 8, 9, 30, 48, 49, 130])
      for (const [ins, outs] of [
        [384, 64],
        [413, 77],
        [1100, 40],
      ] as const) {
        const random = new Random(rows + ins)
        const x = rounded(random.normal([rows, ins]), dtype)
        const weight = rounded(random.normal([outs, ins], 1 / Math.sqrt(ins)), weightType)
        const [bias, residual] = [random.normal([outs]), rounded(random.normal([rows, outs]), dtype)]
        const options = { bias, residual }
        const out = linear(put(x, dtype), put(weight, weightType), { bias: put(bias), residual: put(residual, dtype) })
        expectKernel('linear')
        const plain = (): NDArray => reference(x, weight, options, float32)
        expectClose(await take(out), reference(x, weight, options), { on, dtype, plain })
      }
  })

  test('a row’s result does not depend on the other rows’ values', async () => {
    const random = new Random('rows')
    const weight = put(random.normal([33, 65]))
    const x = random.normal([7, 65])
    const all = await linear(put(x), weight).data()
    const y = x.clone()
    for (let i = 0; i < 65; i++) y.set(NaN, 3, i)
    const others = await linear(put(y), weight).data()
    for (let i = 0; i < 7 * 33; i++)
      if (Math.floor(i / 33) === 3) expect(others[i]).toBeNaN()
      else expect(others[i]).toBe(all[i])
  })

  test.each([
    [0, 5, 3],
    [2, 0, 3],
    [2, 5, 0],
  ])('empty: %i rows, %i → %i', async (rows, ins, outs) => {
    const random = new Random('empty')
    const [x, weight, bias] = [random.normal([rows, ins]), random.normal([outs, ins]), random.normal([outs])]
    expectClose(await take(linear(put(x), put(weight), { bias: put(bias) })), reference(x, weight, { bias }), { on })
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
