import { expect, test } from 'vitest'
import { argmax, topk } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import * as reference from '../reference/topk.js'
import { describeOp, expectKernel, put, take } from '../support/device.js'
import { floatTypes, rounded } from '../support/floats.js'
import { layouts, place } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

/** Values with many ties, and now and then NaN, an infinity or a negative zero. */
function values(random: Random, shape: readonly number[], odd: boolean): NDArray {
  return new NDArray(shape).map(() => {
    if (odd && random.bool(0.05)) return random.pick([NaN, Infinity, -Infinity, -0, 0, Math.fround(-3e38)])
    return random.bool(0.5) ? random.int(-3, 3) : Math.fround(random.next() * 6 - 3)
  })
}

/** The first few places where two lists differ. */
function differences(got: ArrayLike<number>, want: ArrayLike<number>): unknown[] {
  const all = Array.from(want, (v, i) => [i, got[i], v])
  return all.filter(([, a, b]) => !Object.is(a, b)).slice(0, 5)
}

const sizes = [1, 2, 7, 8, 16, 17, 33, 64, 257, 2050]

describeOp('argmax', () => {
  const grid = pairwise({
    rows: [[], [1], [3], [2, 7], [65]],
    n: sizes,
    layout: layouts,
    odd: [false, true],
    dtype: floatTypes,
  })
  test.each(grid.map((c) => ({ c, name: describeCase({ ...c, rows: c.rows.join('x') }) })))(
    '$name',
    async ({ c, name }) => {
      const x = rounded(values(new Random(name), [...c.rows, c.n], c.odd), c.dtype)
      const out = argmax(place(x, c.layout, c.dtype))
      expectKernel('argmax')
      expect([out.shape, out.dtype]).toEqual([c.rows, 'int32'])
      expect(Array.from((await take(out)).data)).toEqual(Array.from(reference.argmax(x).data))
    },
  )

  test.each(floatTypes)('NaN is the largest, of more the first; ties go to the lower index (%s)', async (dtype) => {
    for (const n of [2, 16, 17, 100, 5000])
      for (const at of [0, 1, Math.floor(n / 2), n - 1]) {
        const x = new NDArray([1, n])
        x.set(1, 0, at)
        x.set(1, 0, n - 1)
        expect((await take(argmax(put(x, dtype)))).data[0]).toBe(at)
        x.set(Infinity, 0, 0)
        x.set(NaN, 0, at)
        x.set(NaN, 0, n - 1)
        expect((await take(argmax(put(x, dtype)))).data[0]).toBe(at)
      }
    expect((await take(argmax(put(new NDArray([3], [-Infinity, -Infinity, -Infinity]), dtype)))).data[0]).toBe(0)
    expect((await take(argmax(put(new NDArray([2], [-0, 0]), dtype)))).data[0]).toBe(0)
  })

  test('no rows; and rows of nothing are refused', async () => {
    expect((await argmax(put(new NDArray([0, 5]))).data()).length).toBe(0)
    expect(() => argmax(put(new NDArray([2, 0])))).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }))
  })
})

describeOp('topk', () => {
  const grid = pairwise({
    rows: [[], [1], [3], [2, 7], [65]],
    n: sizes,
    k: [0, 1, 2, 5, 40, Infinity],
    layout: layouts,
    odd: [false, true],
    dtype: floatTypes,
  })
  test.each(grid.map((c) => ({ c, name: describeCase({ ...c, rows: c.rows.join('x') }) })))(
    '$name',
    async ({ c, name }) => {
      const x = rounded(values(new Random(name), [...c.rows, c.n], c.odd), c.dtype)
      const k = Math.min(c.k, c.n)
      const out = topk(place(x, c.layout, c.dtype), k)
      if (k > 0) expectKernel('topk')
      const want = reference.topk(x, k)
      expect([out.values.shape, out.values.dtype]).toEqual([want.values.shape, c.dtype])
      expect([out.indices.shape, out.indices.dtype]).toEqual([want.indices.shape, 'int32'])
      expect(differences((await take(out.indices)).data, want.indices.data)).toEqual([])
      expect(differences((await take(out.values)).data, want.values.data)).toEqual([])
    },
  )

  test.each([-1, 6, 1.5, NaN])('k = %d of 5 is refused', (k) => {
    expect(() => topk(put(new NDArray([2, 5])), k)).toThrow(
      expect.objectContaining({ message: expect.stringMatching(/^k: expected .*, got /) }),
    )
  })
})
