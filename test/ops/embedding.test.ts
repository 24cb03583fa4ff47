import { expect, test } from 'vitest'
import { embedding } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { embedding as reference } from '../reference/embedding.js'
import { describeOp, expectKernel, put, take } from '../support/device.js'
import { floatTypes, rounded, roundTo } from '../support/floats.js'
import { layouts, place } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

describeOp('embedding', () => {
  const grid = pairwise({
    ids: [[], [1], [7], [2, 33], [3, 1, 5]],
    idsLayout: layouts,
    dtype: ['int32', 'int64'] as const,
    vocabulary: [1, 2, 50],
    dim: [1, 2, 7, 16, 33, 130],
    table: layouts,
    stored: floatTypes,
    asked: [undefined, ...floatTypes],
  })
  test.each(grid.map((c) => ({ c, name: describeCase({ ...c, ids: `(${c.ids.join('x')})` }) })))(
    '$name',
    async ({ c, name }) => {
      const random = new Random(name)
      const ids = random.ints(c.ids, 0, c.vocabulary - 1)
      const table = rounded(random.normal([c.vocabulary, c.dim]), c.stored)
      const placed = c.ids.length ? place(ids, c.idsLayout, c.dtype) : put(ids, c.dtype)
      const out = embedding(placed, place(table, c.table, c.stored), c.asked ? { dtype: c.asked } : {})
      expectKernel('embedding')
      const want = reference(ids, table)
      const dtype = c.asked ?? c.stored
      expect([out.shape, out.dtype]).toEqual([want.shape, dtype])
      expect(Array.from((await take(out)).data)).toEqual(Array.from(want.data, roundTo(dtype)))
    },
  )

  test.each([
    ['int32', [1, -1, 4, 2]],
    ['int32', [1, -(2 ** 31), 2 ** 31 - 1, 2]],
    ['int64', [1, -1, 4, 2]],
    ['int64', [1, 2 ** 32, -(2 ** 53), 2]],
  ] as const)(
    'an id outside the table is told at the next read, once, and its row is 0 (%s %j)',
    async (dtype, list) => {
      const ids = new NDArray([4], list)
      const table = new Random('table').normal([4, 19])
      const out = embedding(put(ids, dtype), put(table))
      await expect(out.data()).rejects.toThrow(
        expect.objectContaining({
          name: 'SeqmixError',
          code: 'ERR_INDEX',
          message: expect.stringContaining('embedding'),
        }),
      )
      expect(Array.from((await take(out)).data)).toEqual(Array.from(reference(ids, table).data))
      expect(() => embedding(put(ids, dtype), put(table)).dataSync()).toThrow(
        expect.objectContaining({ code: 'ERR_INDEX' }),
      )
      expect(embedding(put(new NDArray([1], [3]), dtype), put(table)).dataSync()).toHaveLength(19)
    },
  )

  test.each([
    [[0], 5, 4],
    [[2, 0], 5, 4],
    [[3], 5, 0],
  ])('empty: ids %j, %i × %i', async (shape, vocabulary, dim) => {
    const out = embedding(put(new NDArray(shape), 'int32'), put(new NDArray([vocabulary, dim])))
    expect(out.shape).toEqual([...shape, dim])
    expect((await out.data()).length).toBe(0)
  })

  test('infinities, NaN and what is past the result’s dtype', async () => {
    const table = new NDArray([2, 3], [Infinity, NaN, -0, 1e30, -65520, 2 ** -30])
    const out = embedding(put(new NDArray([2], [0, 1]), 'int32'), put(table), { dtype: 'float16' })
    expect(Array.from((await take(out)).data)).toEqual([Infinity, NaN, -0, Infinity, -Infinity, 0])
  })

  test('what it refuses', () => {
    const table = put(new NDArray([4, 2]))
    for (const dtype of ['int32', 'float64', 5, null] as never[])
      expect(() => embedding(put(new NDArray([2]), 'int32'), table, { dtype })).toThrow(
        expect.objectContaining({ code: 'ERR_DTYPE', message: expect.stringMatching(/^dtype: expected .*, got /) }),
      )
    expect(() => embedding(put(new NDArray([2])), table)).toThrow(
      expect.objectContaining({ code: 'ERR_DTYPE', message: expect.stringMatching(/^ids: expected .*, got float32/) }),
    )
    expect(() => embedding(put(new NDArray([2]), 'int32'), put(new NDArray([4])))).toThrow(
      expect.objectContaining({ code: 'ERR_SHAPE', message: expect.stringMatching(/^table: expected .*, got /) }),
    )
  })
})
