import { expect, test } from 'vitest'
import { rotary, tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { rotary as reference } from '../reference/rotary.js'
import { expectClose } from '../support/close.js'
import { describeOp, dut, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, rounded } from '../support/floats.js'
import { layouts, place } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

// b, L, h, d, columns
const sizes = [
  [1, 1, 1, 2, 1],
  [2, 5, 3, 8, 4],
  [2, 7, 4, 64, 32],
  [1, 33, 2, 128, 64],
  [2, 3, 5, 96, 16],
  [1, 9, 3, 80, 17],
  [3, 4, 2, 24, 3],
  [1, 2, 1, 7, 0],
  [1, 300, 8, 32, 16],
] as const

describeOp('rotary', () => {
  const grid = pairwise({
    size: sizes,
    dtype: floatTypes,
    table: floatTypes,
    x: layouts,
    cos: layouts,
    sin: layouts,
    interleaved: [false, true],
    positions: ['none', 'row', 'each', 'wide'],
  })
  test.each(grid.map((c) => ({ c, name: describeCase({ ...c, size: c.size.join('x') }) })))(
    '$name',
    async ({ c, name }) => {
      const random = new Random(name)
      const [b, L, h, d, half] = c.size
      const rows = L + 5
      const x = rounded(random.normal([b, L, h, d]), c.dtype)
      const angles = random.uniform([rows, half], -3, 3)
      const cos = rounded(angles.map(Math.cos), c.table)
      const sin = rounded(angles.map(Math.sin), c.table)
      const each = random.ints(c.positions === 'row' ? [L] : [b, L], 0, rows - 1)
      const at =
        c.positions === 'none'
          ? undefined
          : (r: number, t: number) => (c.positions === 'row' ? each.at(t) : each.at(r, t))
      const out = rotary(place(x, c.x, c.dtype), place(cos, c.cos, c.table), place(sin, c.sin, c.table), {
        interleaved: c.interleaved,
        positions:
          at && place(each, c.positions === 'each' ? 'fused' : 'plain', c.positions === 'wide' ? 'int64' : 'int32'),
      })
      expectKernel('rotary')
      const tables = { cos, sin, interleaved: c.interleaved }
      expectClose(await take(out), reference(x, tables, at), { on, dtype: c.dtype })
    },
  )

  const table = (rows: number, half: number): NDArray => new Random('table').uniform([rows, half], -1, 1)

  test('a view of a fused projection is read where it is', async () => {
    const qkv = new Random('fused').normal([2, 6, 3 * 4 * 16])
    const part = put(qkv).narrow(2, 64, 64).reshape([2, 6, 4, 16])
    const [cos, sin] = [table(6, 8), table(6, 8)]
    const x = qkv.slice(2, 64, 64).reshape([2, 6, 4, 16])
    expectClose(await take(rotary(part, put(cos), put(sin))), reference(x, { cos, sin }), { on })
  })

  test('a position outside the tables gives 0, and the next read tells', async () => {
    const x = new Random('bad').normal([2, 3, 2, 8])
    const [cos, sin] = [table(4, 4), table(4, 4)]
    for (const [bad, dtype] of [
      [4, 'int32'],
      [-1, 'int32'],
      [2 ** 40, 'int64'],
    ] as const) {
      const positions = new NDArray([2, 3], [0, 1, 3, 2, bad, 1])
      const values = dtype === 'int64' ? BigInt64Array.from(positions.data, BigInt) : Int32Array.from(positions.data)
      const out = rotary(put(x), put(cos), put(sin), {
        positions: tensor(values, { shape: [2, 3], device: dut }),
      })
      await expect(out.data()).rejects.toThrow(expect.objectContaining({ code: 'ERR_INDEX' }))
      expectClose(
        await take(out),
        reference(x, { cos, sin }, (r, t) => positions.at(r, t)),
        { on },
      )
    }
  })

  test('infinities and NaN stay in their pairs', async () => {
    const x = new Random('nan').normal([1, 2, 1, 8])
    x.set(NaN, 0, 0, 0, 1)
    x.set(Infinity, 0, 1, 0, 7)
    const [cos, sin] = [table(2, 3), table(2, 3)]
    const got = await take(rotary(put(x), put(cos), put(sin)))
    const want = reference(x, { cos, sin })
    expect(Array.from(got.data, Number.isFinite)).toEqual(Array.from(want.data, Number.isFinite))
  })

  test.each([[[0, 3, 2, 4]], [[2, 0, 2, 4]], [[2, 3, 0, 4]]])('shape %j', async (shape) => {
    const out = rotary(put(new NDArray(shape)), put(table(4, 2)), put(table(4, 2)))
    expect(out.shape).toEqual(shape)
    expect((await out.data()).length).toBe(0)
  })

  test('what does not fit', () => {
    const x = put(new NDArray([2, 3, 2, 4]))
    const [cos, sin] = [put(table(4, 2)), put(table(4, 2))]
    const ints = (shape: number[]) => tensor(new Int32Array(shape.reduce((a, b) => a * b, 1)), { shape, device: dut })
    const cases: [() => unknown, string, RegExp][] = [
      [() => rotary(put(new NDArray([2, 3, 4])), cos, sin), 'ERR_SHAPE', /^x: expected shape \(b, L, h, d\)/],
      [() => rotary(x, put(table(4, 3)), sin), 'ERR_SHAPE', /^cos: expected shape \(positions, r \/ 2\) with r at most d = 4/],
      [() => rotary(x, put(table(2, 2)), put(table(2, 2))), 'ERR_SHAPE', /^cos: expected a row for each of 3 tokens/],
      [() => rotary(x, cos, put(table(4, 1))), 'ERR_SHAPE', /^sin: expected shape \(4, 2\) as cos has/],
      [() => rotary(x, cos, put(rounded(table(4, 2), 'float16'), 'float16')), 'ERR_DTYPE', /^sin: expected float32 as cos has/],
      [() => rotary(x, cos, sin, { positions: put(table(3, 1)) }), 'ERR_DTYPE', /^positions: expected int32 or int64/],
      [() => rotary(x, cos, sin, { positions: ints([4]) }), 'ERR_SHAPE', /^positions: expected shape \(3,\) \(L\), or/],
      [() => rotary(x, cos, sin, { positions: ints([3, 2]) }), 'ERR_SHAPE', /^positions: expected shape \(2, 3\)/],
      [() => rotary(ints([2, 3, 2, 4]), cos, sin), 'ERR_DTYPE', /^x: expected float32/],
      [() => rotary(x, cos, sin, { interleave: true } as never), 'ERR_OPTION', /^options: expected interleaved/],
    ] // prettier-ignore
    for (const [call, code, message] of cases) {
      expect(call).toThrow(expect.objectContaining({ code }))
      expect(call).toThrow(message)
    }
  })
})
