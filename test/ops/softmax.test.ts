import { expect, test } from 'vitest'
import { softmax } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { softmax as reference } from '../reference/softmax.js'
import { expectClose } from '../support/close.js'
import { describeOp, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, rounded } from '../support/floats.js'
import { layouts, place } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

describeOp('softmax', () => {
  const grid = pairwise({
    rows: [[], [1], [3], [2, 7], [65]],
    n: [1, 2, 7, 8, 15, 16, 17, 33, 257, 2050, 4097, 9001],
    layout: layouts,
    scale: [0.1, 3, 50],
    dim: [undefined, -1, 0],
    dtype: floatTypes,
  })
  test.each(grid.map((c) => ({ c, name: describeCase({ ...c, rows: c.rows.join('x') }) })))(
    '$name',
    async ({ c, name }) => {
      const x = rounded(new Random(name).normal([...c.rows, c.n], c.scale), c.dtype)
      const given = place(x, c.layout, c.dtype)
      const out = c.dim === undefined ? softmax(given) : softmax(given, { dim: c.dim })
      expectKernel('softmax')
      expectClose(await take(out), reference(x, c.dim), { on, dtype: c.dtype })
    },
  )

  test('every dimension of three', async () => {
    const x = new Random('dims').normal([4, 5, 6])
    for (const dim of [0, 1, 2, -1, -2, -3])
      expectClose(await take(softmax(put(x), { dim })), reference(x, dim), { on })
  })

  test.each(floatTypes)('large values, −∞, a row of −∞, and NaN in its row alone (%s)', async (dtype) => {
    const large = dtype === 'float16' ? 6e4 : 3e38
    const rows = [
      [large, -large, large, 1],
      [-Infinity, 1, 2, -Infinity],
      [-Infinity, -Infinity, -Infinity, -Infinity],
      [-large / 8, -large / 8, -large / 8, -large / 8],
    ]
    const x = rounded(new NDArray([4, 4], rows.flat()), dtype)
    expectClose(await take(softmax(put(x, dtype))), reference(x), { on, dtype })
    const y = new NDArray([3, 18]).map((_, i) => (i === 25 ? NaN : i % 18))
    expect(Array.from((await take(softmax(put(y, dtype)))).data, Number.isNaN)).toEqual(
      Array.from({ length: 54 }, (_, i) => i >= 18 && i < 36),
    )
  })

  test.each([[[0, 5]], [[3, 0]], [[0]]])('empty %j', async (shape) => {
    const out = softmax(put(new NDArray(shape)))
    expect(out.shape).toEqual(shape)
    expect((await out.data()).length).toBe(0)
  })

  test('what it refuses', () => {
    const x = put(new NDArray([2, 3]))
    expect(() => softmax(x, { dim: 2 })).toThrow(
      expect.objectContaining({ message: expect.stringMatching(/^dim: expected .*, got 2/) }),
    )
    expect(() => softmax(x, { dim: 0.5 })).toThrow(
      expect.objectContaining({ message: expect.stringMatching(/^dim: expected .*, got 0.5/) }),
    )
    expect(() => softmax(put(new NDArray([])))).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }))
  })
})
