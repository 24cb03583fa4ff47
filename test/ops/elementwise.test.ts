import { expect, test } from 'vitest'
import { add, gelu, mul, silu, softcap, tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import * as reference from '../reference/elementwise.js'
import { expectClose } from '../support/close.js'
import { describeOp, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, fromBits, halfTypes, rounded, roundTo, toBits } from '../support/floats.js'
import { layouts, place } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

const shapes = [
  [1],
  [2],
  [7],
  [16],
  [1000],
  [16385],
  [40000],
  [2, 3],
  [5, 16],
  [33, 65],
  [2, 1, 9],
  [3, 4, 17],
  [2, 3, 4, 5],
]

describeOp('silu', () => {
  test.each(
    pairwise({ shape: shapes, layout: layouts, dtype: floatTypes }).map((c) => ({
      ...c,
      name: describeCase({ ...c, shape: c.shape.join('x') }),
    })),
  )('$name', async ({ shape, layout, dtype, name }) => {
    const x = rounded(new Random(name).normal(shape, 3), dtype)
    const out = silu(place(x, layout, dtype))
    expectKernel('silu')
    expectClose(await take(out), reference.silu(x), { on, dtype })
  })

  test.each(halfTypes)('every %s there is, to the nearest or the next to it', async (dtype) => {
    const x = new NDArray(
      [65536],
      fromBits(
        Uint16Array.from({ length: 65536 }, (_, i) => i),
        dtype,
      ),
    )
    const got = await take(silu(put(x, dtype)))
    const bits = toBits(got.data, dtype)
    const want = toBits(rounded(reference.silu(x), dtype).data, dtype)
    for (let i = 0; i < x.size; i++) {
      const v = x.data[i]!
      if (Number.isNaN(v) || v === -Infinity) expect(got.data[i]).toBeNaN()
      // Where e^-x is past float32, -0 stands for what is below 1e-36.
      else if (v < -87) expect(Math.abs(got.data[i]!)).toBeLessThan(1e-36)
      else if (Math.abs(bits[i]! - want[i]!) > 1) expect([v, got.data[i]]).toEqual([v, reference.silu(x).data[i]])
    }
  })

  test('each of many values to its own size, and the ends', async () => {
    const x = new NDArray([4001, 1]).map((_, i) => Math.fround((i - 2000) / 20))
    expectClose(await take(silu(put(x))), reference.silu(x), { on })
    // Every value against its own size: within float32's normal range the bound holds for each alone.
    const [got, want] = [await take(silu(put(x))), reference.silu(x)]
    for (let i = 0; i < x.size; i++)
      if (Math.abs(want.data[i]!) > 1e-36) expect(Math.abs(got.data[i]! / want.data[i]! - 1)).toBeLessThan(2e-6)
    const ends = await take(silu(put(new NDArray([8], [-Infinity, -3e38, -1000, -88.8, 0, 1000, 3e38, NaN]))))
    for (const i of [1, 2, 3]) expect(Math.abs(ends.data[i]!)).toBeLessThan(1e-36)
    expect(Array.from(ends.data).slice(4)).toEqual([0, 1000, Math.fround(3e38), NaN])
  })

  test.each([[[0]], [[2, 0, 3]], [[]]])('shape %j', async (shape) => {
    const x = new NDArray(shape).map(() => 1.5)
    expectClose(await take(silu(put(x))), reference.silu(x), { on })
  })
})

describeOp('gelu', () => {
  const forms = { none: reference.gelu, tanh: reference.geluTanh }
  const approximations = ['none', 'tanh'] as const

  test.each(
    pairwise({ shape: shapes, layout: layouts, dtype: floatTypes, approximate: approximations }).map((c) => ({
      ...c,
      name: describeCase({ ...c, shape: c.shape.join('x') }),
    })),
  )('$name', async ({ shape, layout, dtype, approximate, name }) => {
    const x = rounded(new Random(name).normal(shape, 3), dtype)
    const out = gelu(place(x, layout, dtype), { approximate })
    expectKernel('gelu')
    expectClose(await take(out), forms[approximate](x), { on, dtype })
  })

  test.each(approximations)('each of many values to its own size, and the ends: %s', async (approximate) => {
    const x = new NDArray([4001, 1]).map((_, i) => Math.fround((i - 2000) / 200))
    const [got, want] = [await take(gelu(put(x), { approximate })), forms[approximate](x)]
    // The exponent of what is small is itself rounded, relative to its size.
    for (let i = 0; i < x.size; i++)
      if (Math.abs(want.data[i]!) > 1e-36)
        expect(Math.abs(got.data[i]! / want.data[i]! - 1)).toBeLessThan(1e-6 + x.data[i]! ** 2 * 1.5e-7)
    const ends = await take(gelu(put(new NDArray([7], [-Infinity, -3e38, -1000, 0, 1000, 3e38, NaN])), { approximate }))
    for (const i of [0, 1, 2]) expect(Math.abs(ends.data[i]!)).toBeLessThan(1e-36)
    expect(Array.from(ends.data).slice(3)).toEqual([0, 1000, Math.fround(3e38), NaN])
    expect(await gelu([Infinity], { approximate }).data()).toEqual(Float32Array.of(Infinity))
  })

  test('options', () => {
    expect(() => gelu([1], { approximate: 'tan' as 'tanh' })).toThrow(
      "approximate: expected 'none' or 'tanh', got 'tan'",
    )
    expect(() => gelu([1], { aproximate: 'tanh' } as never)).toThrow('options: expected approximate, got aproximate')
    expect(() => gelu(tensor([1], { dtype: 'int32' }))).toThrow(expect.objectContaining({ code: 'ERR_DTYPE' }))
  })
})

describeOp('softcap', () => {
  test.each(
    pairwise({ shape: shapes, layout: layouts, dtype: floatTypes, cap: [0.5, 30, 50] }).map((c) => ({
      ...c,
      name: describeCase({ ...c, shape: c.shape.join('x') }),
    })),
  )('$name', async ({ shape, layout, dtype, cap, name }) => {
    const x = rounded(new Random(name).normal(shape, 20), dtype)
    const out = softcap(place(x, layout, dtype), cap)
    expectKernel('softcap')
    expectClose(await take(out), reference.softcap(x, cap), { on, dtype })
  })

  test('what is small keeps its size, and the ends', async () => {
    const x = new NDArray([5], [1e-20, -1e-6, 0, 3e38, NaN])
    const got = Array.from((await take(softcap(put(x), 2))).data)
    expect(got.slice(2)).toEqual([0, 2, NaN])
    for (const i of [0, 1]) expect(Math.abs(got[i]! / x.data[i]! - 1)).toBeLessThan(2e-6)
    expect(Array.from((await take(softcap(put(new NDArray([2], [Infinity, -Infinity])), 2))).data)).toEqual([2, -2])
  })

  test.each([0, -1, NaN, Infinity, 'two'])('a cap of %s is refused', (cap) => {
    expect(() => softcap([1], cap as number)).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
  })
})

describeOp('mul with an activation', () => {
  const forms = { silu: reference.silu, gelu: reference.gelu, gelu_tanh: reference.geluTanh }
  const gates = ['silu', 'gelu', 'gelu_tanh'] as const
  const pairs = [
    ['7', '7'],
    ['33x65', '33x65'],
    ['40000', '40000'],
    ['5x16', '1'],
    ['1', '33'],
    ['5x1', '1x16'],
    ['3x4x17', '4x1'],
    ['64x100', '100'],
  ] as const
  const grid = pairwise({ activation: gates, shapes: pairs, a: layouts, b: layouts, dtype: floatTypes })
  test.each(grid.map((c) => ({ c, name: describeCase({ ...c, shapes: c.shapes.join(' and ') }) })))(
    '$name',
    async ({ c, name }) => {
      const random = new Random(name)
      const [a, b] = c.shapes.map((s) => rounded(random.normal(s.split('x').map(Number), 2), c.dtype)) as [
        NDArray,
        NDArray,
      ]
      const out = mul(place(a, c.a, c.dtype), place(b, c.b, c.dtype), { activation: c.activation })
      expectKernel('mul')
      expectClose(await take(out), reference.mul(forms[c.activation](a), b), { on, dtype: c.dtype })
    },
  )

  test('an activation that it does not have', () => {
    expect(() => mul([1], [1], { activation: 'relu' as 'silu' })).toThrow(
      "activation: expected null, 'silu', 'gelu' or 'gelu_tanh', got 'relu'",
    )
  })
})

describeOp('add and mul', () => {
  const pairs = [
    ['7', '7'],
    ['16', '1'],
    ['1', '33'],
    ['2x3', '3'],
    ['3', '2x3'],
    ['5x16', '5x1'],
    ['5x1', '1x16'],
    ['', '4x5'],
    ['2x3', ''],
    ['33x65', '33x65'],
    ['2x1x9', '4x1'],
    ['3x4x17', '3x1x17'],
    ['3x4x17', '4x1'],
    ['2x3x4x5', '3x1x5'],
    ['1x1x1', '2x2'],
    ['64x100', '100'],
  ] as const
  const grid = pairwise({ op: ['add', 'mul'] as const, shapes: pairs, a: layouts, b: layouts, dtype: floatTypes })
  test.each(grid.map((c) => ({ c, name: describeCase({ ...c, shapes: c.shapes.join(' and ') }) })))(
    '$name',
    async ({ c, name }) => {
      const random = new Random(name)
      const [a, b] = c.shapes.map((s) => rounded(random.normal(s ? s.split('x').map(Number) : []), c.dtype)) as [
        NDArray,
        NDArray,
      ]
      const laid = (x: NDArray, layout: (typeof layouts)[number]): ReturnType<typeof put> =>
        x.shape.length ? place(x, layout, c.dtype) : put(x, c.dtype)
      const out = { add, mul }[c.op](laid(a, c.a), laid(b, c.b))
      expectKernel(c.op)
      const want = reference[c.op](a, b)
      expect(out.shape).toEqual(want.shape)
      // One operation: the nearest value of the dtype, exactly. (Of 16 bits, by float32 or at once is the same.)
      expect(out.dtype).toBe(c.dtype)
      expect(Array.from((await take(out)).data)).toEqual(Array.from(want.data, roundTo(c.dtype)))
    },
  )

  test('a tensor with itself', async () => {
    const x = new Random('self').normal([5, 7])
    const t = put(x)
    expect(Array.from((await take(add(t, t))).data)).toEqual(Array.from(x.data, (v) => Math.fround(2 * v)))
    const square = put(new Random('self').normal([6, 6]))
    const got = await take(mul(square, square.transpose(0, 1)))
    const v = Array.from((await take(square)).data)
    expect(Array.from(got.data)).toEqual(v.map((_, i) => Math.fround(v[i]! * v[(i % 6) * 6 + Math.floor(i / 6)]!)))
  })

  test('a row that repeats what a view holds', async () => {
    const x = new Random('view').normal([5, 7])
    const t = put(x)
    const got = await take(add(t, t.narrow(0, 2, 1)))
    expect(Array.from(got.data)).toEqual(Array.from(x.data, (v, i) => Math.fround(v + x.at(2, i % 7))))
  })

  test('infinities and NaN as IEEE 754 has them', async () => {
    const a = new NDArray([5], [Infinity, -Infinity, NaN, Infinity, 0])
    const b = new NDArray([5], [1, Infinity, 1, 0, -0])
    expect(Array.from((await take(add(put(a), put(b)))).data)).toEqual([Infinity, NaN, NaN, Infinity, 0])
    expect(Array.from((await take(mul(put(a), put(b)))).data)).toEqual([Infinity, -Infinity, NaN, NaN, -0])
  })

  test.each([
    ['0', '1'],
    ['2x0', '2x1'],
    ['2x0x3', '3'],
    ['0', '0'],
  ])('empty: %s and %s', async (a, b) => {
    const [x, y] = [a, b].map((s) => new NDArray(s.split('x').map(Number))) as [NDArray, NDArray]
    const out = add(put(x), put(y))
    expect(out.shape).toEqual(reference.add(x, y).shape)
    expect((await out.data()).length).toBe(0)
  })

  test.each([
    ['2x3', '2'],
    ['4', '3'],
    ['2x3x4', '2x3'],
    ['0', '2'],
  ])('%s and %s do not broadcast', (a, b) => {
    const [x, y] = [a, b].map((s) => put(new NDArray(s.split('x').map(Number)))) as [
      ReturnType<typeof put>,
      ReturnType<typeof put>,
    ]
    for (const op of [add, mul])
      expect(() => op(x, y)).toThrow(
        expect.objectContaining({
          name: 'RangeError',
          code: 'ERR_SHAPE',
          message: expect.stringMatching(/^b: expected .*, got /),
        }),
      )
  })
})
