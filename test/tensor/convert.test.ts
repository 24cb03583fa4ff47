import { expect, test } from 'vitest'
import { tensor, type DType, type Tensor } from '../../lib/index.js'
import { describeOp, dut } from '../support/device.js'
import { formats } from '../support/float16.js'

const on = { device: dut }
const every = Uint16Array.from({ length: 65536 }, (_, i) => i)

for (const dtype of ['float16', 'bfloat16'] as const)
  describeOp(dtype, () => {
    const { decode, encode } = formats[dtype]

    test('every bit pattern means what it should in float32', async () => {
      const got = (await tensor(every, { ...on, dtype })
        .to('float32')
        .data()) as Float32Array
      for (let i = 0; i < 65536; i++) if (!Object.is(got[i], decode(i))) expect([i, got[i]]).toEqual([i, decode(i)])
    })

    test('every bit pattern comes back from float32, NaN as some NaN', async () => {
      const got = (await tensor(every, { ...on, dtype })
        .to('float32')
        .to(dtype)
        .data()) as Uint16Array
      for (let i = 0; i < 65536; i++) {
        if (Number.isNaN(decode(i))) expect(decode(got[i]!)).toBeNaN()
        else if (got[i] !== i) expect([i, got[i]]).toEqual([i, i])
      }
    })

    test('between neighbours float32 rounds to the nearest, halfway to the even one', async () => {
      const values: number[] = []
      for (let i = 0; i < 0x7fff; i++) {
        const [a, b] = [decode(i), decode(i + 1)]
        if (!Number.isFinite(b)) break
        const middle = (a + b) / 2
        const bits = new Int32Array(Float32Array.of(middle).buffer)[0]!
        const neighbour = (by: number): number => new Float32Array(Int32Array.of(bits + by).buffer)[0]!
        values.push(middle, neighbour(-1), neighbour(1), -middle, -neighbour(1))
      }
      const input = Float32Array.from(values)
      const got = (await tensor(input, { ...on })
        .to(dtype)
        .data()) as Uint16Array
      for (let i = 0; i < input.length; i++)
        if (got[i] !== encode(input[i]!)) expect([input[i], got[i]]).toEqual([input[i], encode(input[i]!)])
    })

    test('the ends: largest, infinite, smallest, signed zeros, NaN of every kind', async () => {
      const nans = [0x7fc00000, 0x7f800001, 0xff800001, 0x7fffffff, 0xffffffff, 0x7f80ffff, 0x7f802000]
      const bits = Uint32Array.from([
        ...nans,
        0x7f800000,
        0xff800000,
        0,
        0x80000000,
        1,
        0x80000001,
        0x7f7fffff,
        0x007fffff,
        0x477fefff,
        0x477ff000,
        0x33000000,
        0x33000001,
      ])
      const input = new Float32Array(bits.buffer)
      const got = (await tensor(input, on).to(dtype).data()) as Uint16Array
      nans.forEach((_, i) => expect(decode(got[i]!)).toBeNaN())
      for (let i = nans.length; i < input.length; i++) expect([bits[i], got[i]]).toEqual([bits[i], encode(input[i]!)])
    })

    test('to the other 16-bit type, and from views', async () => {
      const other = dtype === 'float16' ? 'bfloat16' : 'float16'
      const source = every.filter((i) => Number.isFinite(decode(i)))
      const t = tensor(source, { ...on, dtype, shape: [source.length / 2, 2] })
      const got = (await t.transpose(0, 1).to(other).data()) as Uint16Array
      const n = source.length / 2
      for (let i = 0; i < source.length; i++) {
        const from = source[(i % n) * 2 + Math.floor(i / n)]!
        const want = formats[other].encode(decode(from))
        if (got[i] !== want) expect([from, got[i]]).toEqual([from, want])
      }
    })

    test('toFloat32() and the dtype option agree with to()', async () => {
      const t = tensor([1, 2.5, -3.25, 1e-3], { ...on, dtype })
      expect(await t.toFloat32()).toEqual(await t.to('float32').data())
      expect(await t.data()).toEqual(await tensor([1, 2.5, -3.25, 1e-3], on).to(dtype).data())
      expect(await t.transpose(0, 0).toFloat32()).toBeInstanceOf(Float32Array)
    })
  })

describeOp('between the others', () => {
  const read = async (t: Tensor): Promise<unknown[]> => [...(await t.data())]

  test.each([
    ['int32', [0, 1, -7, 2 ** 24, -(2 ** 31), 2 ** 31 - 1], 'float32', [0, 1, -7, 2 ** 24, -(2 ** 31), 2 ** 31]],
    ['int32', [0, 1, -7, 2 ** 31 - 1], 'int64', [0n, 1n, -7n, 2n ** 31n - 1n]],
    ['int64', [0, 1, -7, 2 ** 40], 'float32', [0, 1, -7, 2 ** 40]],
    ['int64', [0, 1, -7, 2 ** 31 - 1], 'int32', [0, 1, -7, 2 ** 31 - 1]],
    [
      'float32',
      [0, 1.9, -1.9, 2 ** 24, NaN, Infinity, -Infinity, 3e9],
      'int32',
      [0, 1, -1, 2 ** 24, 0, 2 ** 31 - 1, -(2 ** 31), 2 ** 31 - 1],
    ],
    [
      'float32',
      [0, 1.9, -1.9, 2 ** 40, NaN, Infinity, -Infinity],
      'int64',
      [0n, 1n, -1n, 2n ** 40n, 0n, 2n ** 63n - 1n, -(2n ** 63n)],
    ],
    ['float32', [0, -0, 0.25, -3, NaN, 1e-40], 'bool', [0, 0, 1, 1, 1, 1]],
    ['int32', [0, 1, -7, 256], 'bool', [0, 1, 1, 1]],
    ['bool', [0, 1], 'float32', [0, 1]],
    ['int8', [0, 1, -128, 127], 'float32', [0, 1, -128, 127]],
    ['int8', [0, 1, -128, 127], 'bfloat16', [0, 0x3f80, 0xc300, 0x42fe]],
    ['int8', [-1, 5], 'int64', [-1n, 5n]],
    ['int32', [1, -1, 300], 'int8', [1, -1, 44]],
    ['float32', [1.9, -1.9, 200, -200, NaN, Infinity], 'int8', [1, -1, 127, -128, 0, 127]],
    ['bool', [0, 1], 'int32', [0, 1]],
    ['bool', [0, 1], 'int64', [0n, 1n]],
    ['bool', [0, 1], 'float16', [0, 0x3c00]],
    ['int32', [0, 1, 2049, 70000, -70000], 'float16', [0, 0x3c00, 0x6800, 0x7c00, 0xfc00]],
    ['float16', [0.5, 3.75, -2], 'int32', [0, 3, -2]],
  ] as const)('%s %j to %s', async (from, values, to, want) => {
    const source = from === 'float32' ? tensor([...values], on) : tensor([...values], { ...on, dtype: from as DType })
    const t = source.to(to)
    expect(t.dtype).toBe(to)
    expect(await read(t)).toEqual([...want])
  })

  test('large int64 as toFloat32', async () => {
    expect(await tensor(BigInt64Array.of(1n, -5n), on).toFloat32()).toEqual(Float32Array.of(1, -5))
  })

  test('an unknown dtype or device', () => {
    expect(() => tensor([1], on).to('float8' as DType)).toThrow(
      expect.objectContaining({ message: expect.stringMatching(/expected .*, got .*float8/) }),
    )
  })
})
