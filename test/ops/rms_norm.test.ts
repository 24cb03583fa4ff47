import { expect, test } from 'vitest'
import { rmsNorm, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { rmsNorm as reference } from '../reference/rms_norm.js'
import { expectClose } from '../support/close.js'
import { describeOp, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, rounded, roundTo } from '../support/floats.js'
import { layouts, place } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

describeOp('rmsNorm', () => {
  const grid = pairwise({
    rows: [[1], [2], [3, 7], [65], [2, 1, 33]],
    n: [1, 2, 7, 8, 15, 16, 17, 33, 64, 257, 2050, 4097, 9001],
    x: layouts,
    weight: [false, 'plain', 'offset'] as const,
    residual: [false, ...layouts],
    eps: [undefined, 1e-2, 0],
    dtype: floatTypes,
    weightType: floatTypes,
    residualType: ['as x', 'float32'] as const,
    residualInFp32: [false, true],
  })
  test.each(grid.map((c) => ({ c, name: describeCase({ ...c, rows: c.rows.join('x') }) })))(
    '$name',
    async ({ c, name }) => {
      const random = new Random(name)
      const { dtype, weightType } = c
      const x = rounded(random.normal([...c.rows, c.n], 3), dtype)
      const weight = c.weight ? rounded(random.normal([c.n]), weightType) : null
      const residualType = c.residualType === 'as x' ? dtype : c.residualType
      const residual = c.residual ? rounded(random.normal(x.shape), residualType) : null
      const w = weight && place(weight, c.weight || 'plain', weightType)
      const options = c.eps === undefined ? {} : { eps: c.eps }
      if (residual) {
        const got = rmsNorm(place(x, c.x, dtype), w, {
          ...options,
          residual: place(residual, c.residual || 'plain', residualType),
          residualInFp32: c.residualInFp32,
        })
        expectKernel('rms_norm')
        const want = reference(x, weight, { ...options, residual })
        expectClose(await take(got.out), want.out, { on, dtype })
        // One operation: the nearest, exactly.
        const sumType = c.residualInFp32 ? 'float32' : residualType
        const sum = await take(got.residual)
        expect([sum.shape, sum.dtype]).toEqual([want.residual.shape, sumType])
        expect(Array.from(sum.data)).toEqual(Array.from(want.residual.data, roundTo(sumType)))
      } else {
        const got: Tensor = rmsNorm(place(x, c.x, dtype), w, options)
        expectKernel('rms_norm')
        expectClose(await take(got), reference(x, weight, options).out, { on, dtype })
      }
    },
  )

  const gated = pairwise({
    rows: [[1], [3, 7], [65], [2, 1, 33]],
    // size of a group, and how many of them
    group: [[1, 5], [7, 1], [8, 3], [16, 4], [17, 2], [33, 1], [64, 24], [257, 1], [1025, 8], [2056, 2], [9001, 1], [20000, 1]],
    x: layouts,
    z: layouts,
    weight: [false, 'plain', 'offset'] as const,
    residual: [false, false, ...layouts],
    normBeforeGate: [undefined, false, true],
    eps: [undefined, 1e-2],
    dtype: floatTypes,
    weightType: floatTypes,
    residualType: ['as x', 'float32'] as const,
    residualInFp32: [false, true],
  }) // prettier-ignore
  test.each(gated.map((c) => ({ c, name: describeCase({ ...c, rows: c.rows.join('x'), group: c.group.join('x') }) })))(
    'gated: $name',
    async ({ c, name }) => {
      const random = new Random(name)
      const { dtype, weightType } = c
      const [groupSize, groups] = c.group as [number, number]
      const n = groupSize * groups
      const x = rounded(random.normal([...c.rows, n], 3), dtype)
      const z = rounded(random.normal(x.shape, 4), dtype)
      const weight = c.weight ? rounded(random.normal([n]), weightType) : null
      const residualType = c.residualType === 'as x' ? dtype : c.residualType
      const residual = c.residual ? rounded(random.normal(x.shape), residualType) : null
      const w = weight && place(weight, c.weight || 'plain', weightType)
      const options = {
        ...(c.eps === undefined ? {} : { eps: c.eps }),
        ...(c.normBeforeGate === undefined ? {} : { normBeforeGate: c.normBeforeGate }),
        ...(groups === 1 ? {} : { groupSize }),
      }
      const want = reference(x, weight, { ...options, residual, z })
      const given = { ...options, z: place(z, c.z, dtype) }
      if (!residual) {
        const out = rmsNorm(place(x, c.x, dtype), w, given)
        expectKernel('rms_norm')
        expectClose(await take(out), want.out, { on, dtype })
        return
      }
      const got = rmsNorm(place(x, c.x, dtype), w, {
        ...given,
        residual: place(residual, c.residual || 'plain', residualType),
        residualInFp32: c.residualInFp32,
      })
      expectKernel('rms_norm')
      expectClose(await take(got.out), want.out, { on, dtype })
      const sumType = c.residualInFp32 ? 'float32' : residualType
      const sum = await take(got.residual)
      expect([sum.shape, sum.dtype]).toEqual([want.residual.shape, sumType])
      expect(Array.from(sum.data)).toEqual(Array.from(want.residual.data, roundTo(sumType)))
    },
  )

  // What a Mamba-2 layer's projection leaves: z before the rest in the same rows, which begin at any multiple of an element.
  test.each(floatTypes)('a gate within the rows of a fused projection (%s)', async (dtype) => {
    const random = new Random('fused')
    for (const [d, rest] of [
      [48, 16],
      [48, 7],
      [45, 0],
    ] as const) {
      const projected = rounded(random.normal([2, 9, d + rest]), dtype)
      const x = rounded(random.normal([2, 9, d]), dtype)
      const z = put(projected, dtype).narrow(2, 0, d)
      for (const groupSize of [d, d / 3]) {
        const want = reference(x, null, { z: projected.slice(2, 0, d), groupSize }).out
        expectClose(await take(rmsNorm(put(x, dtype), null, { z, groupSize })), want, { on, dtype })
      }
    }
  })

  test('groups without a gate, and a gate that is open or shut', async () => {
    const random = new Random('groups')
    const x = random.normal([5, 24], 2)
    expectClose(await take(rmsNorm(put(x), null, { groupSize: 8 })), reference(x, null, { groupSize: 8 }).out, { on })
    const z = x.map((_, i) => (i % 24 < 8 ? -200 : i % 24 < 16 ? 0 : 200))
    for (const normBeforeGate of [false, true]) {
      const options = { groupSize: 8, normBeforeGate }
      expectClose(await take(rmsNorm(put(x), null, { ...options, z: put(z) })), reference(x, null, { ...options, z }).out, { on })
    }
  }) // prettier-ignore

  test('rows of 0, and rows whose squares are at the ends of float32', async () => {
    const x = new NDArray([4, 20])
    for (let i = 0; i < 20; i++) {
      x.set(Math.fround(1e-6 * (i + 1)), 1, i)
      x.set(Math.fround(1e17 * (i + 1)), 2, i)
      x.set(Math.fround(-1e-3 * (i + 1)), 3, i)
    }
    const out = await take(rmsNorm(put(x), null))
    const want = reference(x, null).out
    for (let row = 0; row < 4; row++)
      expectClose(
        { shape: [20], data: Array.from(out.data).slice(row * 20, row * 20 + 20) },
        want.slice(0, row, 1).reshape([20]),
        { on },
      )
  })

  test.each(floatTypes)('NaN stays in its row (%s)', async (dtype) => {
    const x = rounded(new Random('nan').normal([3, 20]), dtype)
    x.set(NaN, 1, 7)
    const out = await take(rmsNorm(put(x, dtype), null))
    expect(Array.from(out.data, Number.isNaN)).toEqual(Array.from({ length: 60 }, (_, i) => i >= 20 && i < 40))
  })

  test.each(floatTypes)('NaN stays in its group (%s)', async (dtype) => {
    const random = new Random('nan')
    const [x, z] = [rounded(random.normal([3, 24]), dtype), rounded(random.normal([3, 24]), dtype)]
    x.set(NaN, 1, 7)
    z.set(NaN, 2, 23)
    const first = await take(rmsNorm(put(x, dtype), null, { z: put(z, dtype), groupSize: 8 }))
    const spoilt = (i: number): boolean => (i >= 24 && i < 32) || i >= 64
    expect(Array.from(first.data, Number.isNaN)).toEqual(Array.from({ length: 72 }, (_, i) => spoilt(i)))
    // after the norm a gate is its own element's alone
    const last = await take(rmsNorm(put(x, dtype), null, { z: put(z, dtype), groupSize: 8, normBeforeGate: true }))
    const alone = (i: number): boolean => (i >= 24 && i < 32) || i === 71
    expect(Array.from(last.data, Number.isNaN)).toEqual(Array.from({ length: 72 }, (_, i) => alone(i)))
  })

  test.each([[[0, 5]], [[3, 0]]])('empty %j', async (shape) => {
    const gated = rmsNorm(put(new NDArray(shape)), null, { z: put(new NDArray(shape)), groupSize: 5 })
    expect([gated.shape, (await gated.data()).length]).toEqual([shape, 0])
    const out = rmsNorm(put(new NDArray(shape)), put(new NDArray([shape[1]!])))
    expect(out.shape).toEqual(shape)
    expect((await out.data()).length).toBe(0)
  })

  test('inputs stay as they are', async () => {
    const x = new Random('kept').normal([3, 20])
    const [t, r] = [put(x), put(x)]
    rmsNorm(t, null, { residual: r })
    expect(Array.from((await take(t)).data)).toEqual(Array.from(x.data))
    expect(Array.from((await take(r)).data)).toEqual(Array.from(x.data))
  })

  test('what it refuses', () => {
    const x = put(new NDArray([2, 5]))
    const error = (code: string, what: string): unknown =>
      expect.objectContaining({ code, message: expect.stringMatching(new RegExp(`^${what}: expected .*, got `)) })
    expect(() => rmsNorm(x, put(new NDArray([4])))).toThrow(error('ERR_SHAPE', 'weight'))
    expect(() => rmsNorm(x, null, { residual: put(new NDArray([2, 4])) })).toThrow(error('ERR_SHAPE', 'residual'))
    expect(() => rmsNorm(x, null, { eps: -1 })).toThrow(error('ERR_OPTION', 'eps'))
    expect(() => rmsNorm(x, null, { z: put(new NDArray([2, 4])) })).toThrow(error('ERR_SHAPE', 'z'))
    expect(() => rmsNorm(x, null, { z: put(new NDArray([2, 5]), 'float16') })).toThrow(error('ERR_DTYPE', 'z'))
    for (const groupSize of [2, 10, 0, -1, 2.5, NaN])
      expect(() => rmsNorm(x, null, { groupSize })).toThrow(error('ERR_OPTION', 'groupSize'))
    expect(() => rmsNorm(x, null, { normBeforeGate: 1 as never })).toThrow(error('ERR_OPTION', 'normBeforeGate'))
  })
})
