import { describe, expect, test } from 'vitest'
import { empty, tensor, zeros, type DType } from '../../lib/index.js'
import { dut } from '../support/device.js'

const on = { device: dut }
const error = (name: string, code: string, message: RegExp): unknown =>
  expect.objectContaining({ name, code, message: expect.stringMatching(message) })

describe('tensor()', () => {
  test('number[] is float32', async () => {
    const t = tensor([1, 2.5, -3], on)
    expect([t.shape, t.dtype, t.size]).toEqual([[3], 'float32', 3])
    expect(await t.data()).toEqual(Float32Array.of(1, 2.5, -3))
  })

  test('nested arrays tell the shape', async () => {
    const t = tensor(
      [
        [
          [1, 2],
          [3, 4],
          [5, 6],
        ],
      ],
      on,
    )
    expect(t.shape).toEqual([1, 3, 2])
    expect(await t.data()).toEqual(Float32Array.of(1, 2, 3, 4, 5, 6))
    expect(tensor([], on).shape).toEqual([0])
    expect(tensor([[], []], on).shape).toEqual([2, 0])
  })

  test('ragged arrays are refused', () => {
    expect(() => tensor([[1, 2], [3]], on)).toThrow(error('RangeError', 'ERR_SHAPE', /expected .*, got /))
    expect(() => tensor([[1, 2], 3] as number[][], on)).toThrow(
      expect.objectContaining({ code: expect.stringMatching(/^ERR_/) }),
    )
  })

  test.each([
    [Float32Array.of(1, 2, 3), 'float32'],
    [Int32Array.of(1, -2, 3), 'int32'],
    [Int8Array.of(1, -128, 127), 'int8'],
    [BigInt64Array.of(1n, -2n, 2n ** 60n), 'int64'],
  ] as const)('a typed array brings its dtype: %o', async (data, dtype) => {
    const t = tensor(data, on)
    expect([t.shape, t.dtype]).toEqual([[3], dtype])
    expect(await t.data()).toEqual(data)
  })

  test.each([
    [[1, 2, 3], 'int32', Int32Array.of(1, 2, 3)],
    [[1, 2, 3], 'int64', BigInt64Array.of(1n, 2n, 3n)],
    [[0, 1, 1], 'bool', Uint8Array.of(0, 1, 1)],
    [[1, -2, 0.5], 'float16', Uint16Array.of(0x3c00, 0xc000, 0x3800)],
    [[1, -2, 0.5], 'bfloat16', Uint16Array.of(0x3f80, 0xc000, 0x3f00)],
  ] as const)('numbers %j as %s', async (numbers, dtype, data) => {
    const t = tensor([...numbers], { ...on, dtype })
    expect(t.dtype).toBe(dtype)
    expect(await t.data()).toEqual(data)
  })

  test('a Uint16Array needs its dtype said', async () => {
    const bits = Uint16Array.of(0x3c00, 0x4000)
    expect(() => tensor(bits, on)).toThrow(
      error('TypeError', 'ERR_DTYPE', /^data: expected .*float16.* beside a Uint16Array, got none/),
    )
    for (const dtype of ['float16', 'bfloat16'] as const)
      expect(await tensor(bits, { ...on, dtype }).data()).toEqual(bits)
  })

  test('a typed array is taken at another dtype’s word only where that loses nothing unseen', async () => {
    const t = tensor(Float32Array.of(1, 2, 3), { ...on, dtype: 'float16' })
    expect([t.dtype, await t.data()]).toEqual(['float16', Uint16Array.of(0x3c00, 0x4000, 0x4200)])
    expect(await tensor(Float64Array.of(0.1), on).data()).toEqual(Float32Array.of(0.1))
    expect(() => tensor(Uint8Array.of(0, 1), on)).toThrow(error('TypeError', 'ERR_DTYPE', /bool/))
    expect(await tensor(Uint8Array.of(0, 1), { ...on, dtype: 'bool' }).data()).toEqual(Uint8Array.of(0, 1))
  })

  test('Float16Array, where the runtime has it', async () => {
    const Float16 = (globalThis as { Float16Array?: { of(...v: number[]): ArrayBufferView } }).Float16Array
    // A runtime without it has nothing to hand in; what calls itself so stands for one of another realm.
    const stand = Object.defineProperty(Uint16Array.of(0x3c00, 0xc000), Symbol.toStringTag, { value: 'Float16Array' })
    expect([tensor(stand, on).dtype, await tensor(stand, on).data()]).toEqual([
      'float16',
      Uint16Array.of(0x3c00, 0xc000),
    ])
    if (Float16) {
      const t = tensor(Float16.of(1, -2, 0.5) as never, on)
      expect([t.dtype, t.shape, await t.data()]).toEqual(['float16', [3], Uint16Array.of(0x3c00, 0xc000, 0x3800)])
    }
  })

  test('shape: given, of any rank up to 8, and as many elements as there are data', async () => {
    expect(tensor([1, 2, 3, 4, 5, 6], { ...on, shape: [2, 3] }).shape).toEqual([2, 3])
    expect(tensor([7], { ...on, shape: [] }).shape).toEqual([])
    expect(await tensor([7], { ...on, shape: [] }).data()).toEqual(Float32Array.of(7))
    expect(tensor([1, 2], { ...on, shape: [1, 1, 2, 1, 1, 1, 1, 1] }).strides).toHaveLength(8)
    expect(() => tensor([1, 2, 3], { ...on, shape: [2, 2] })).toThrow(
      error('RangeError', 'ERR_SHAPE', /expected .*, got /),
    )
    expect(() => tensor([1], { ...on, shape: [1, 1, 1, 1, 1, 1, 1, 1, 1] })).toThrow(
      error('RangeError', 'ERR_SHAPE', /expected at most 8 .*, got 9/),
    )
    for (const bad of [[-1], [1.5], [NaN], [2 ** 60, 2 ** 60]])
      expect(() => tensor([1], { ...on, shape: bad })).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }))
  })

  test('data are copied at the call: the caller may change, transfer or detach them at once', async () => {
    const data = Float32Array.of(1, 2, 3)
    const t = tensor(data, on)
    data.fill(9)
    const buffer = data.buffer
    structuredClone(buffer, { transfer: [buffer] })
    expect(data.length).toBe(0)
    expect(await t.data()).toEqual(Float32Array.of(1, 2, 3))
  })

  test('a view of a larger ArrayBuffer', async () => {
    const whole = Float32Array.of(0, 1, 2, 3, 4)
    expect(await tensor(whole.subarray(1, 4), on).data()).toEqual(Float32Array.of(1, 2, 3))
  })

  test('what it refuses', () => {
    expect(() => tensor([1], { ...on, dtype: 'float64' as DType })).toThrow(
      error('TypeError', 'ERR_DTYPE', /expected .*float32.*, got .*float64/),
    )
    expect(() => tensor([1], { ...on, dtpe: 'int32' } as object)).toThrow(error('TypeError', 'ERR_OPTION', /dtype/))
    expect(() => tensor('abc' as never, on)).toThrow(expect.objectContaining({ code: expect.stringMatching(/^ERR_/) }))
    expect(() => tensor(undefined as never, on)).toThrow(
      expect.objectContaining({ code: expect.stringMatching(/^ERR_/) }),
    )
    expect(() => tensor(['a'] as never, on)).toThrow(expect.objectContaining({ code: expect.stringMatching(/^ERR_/) }))
    expect(() => tensor(new Float64Array(2), { ...on, dtype: 'int32' })).toThrow(
      expect.objectContaining({ code: expect.stringMatching(/^ERR_/) }),
    )
  })
})

describe('empty() and zeros()', () => {
  const types = ['float32', 'float16', 'bfloat16', 'int32', 'int64', 'bool', 'int8'] as const
  const arrays = {
    float32: Float32Array,
    float16: Uint16Array,
    bfloat16: Uint16Array,
    int32: Int32Array,
    int64: BigInt64Array,
    bool: Uint8Array,
    int8: Int8Array,
  }

  test.each(types)('zeros of %s', async (dtype) => {
    const t = zeros([2, 3], { ...on, dtype })
    expect([t.shape, t.dtype]).toEqual([[2, 3], dtype])
    expect(await t.data()).toEqual(new arrays[dtype](6))
  })

  test('empty has shape and dtype, and float32 where none is said', async () => {
    expect([empty([2, 3], on).dtype, zeros([2], on).dtype]).toEqual(['float32', 'float32'])
    expect((await empty([2, 3], { ...on, dtype: 'int64' }).data()).length).toBe(6)
    expect((await empty([0, 3], on).data()).length).toBe(0)
  })

  test('what they refuse', () => {
    for (const make of [empty, zeros]) {
      expect(() => make([-1], on)).toThrow(error('RangeError', 'ERR_SHAPE', /expected .*, got /))
      expect(() => make([2 ** 31, 2 ** 31, 2 ** 31], on)).toThrow(
        expect.objectContaining({ code: expect.stringMatching(/ERR_SHAPE|ERR_OUT_OF_MEMORY/) }),
      )
      expect(() => make([2], { ...on, dtype: 'float8' as DType })).toThrow(
        error('TypeError', 'ERR_DTYPE', /expected .*, got /),
      )
    }
  })

  test('more memory than there is', () => {
    // Far past any address space that a machine lets one process have.
    expect(() => empty([2 ** 46], on).dataSync()).toThrow(
      expect.objectContaining({ name: 'SeqmixError', code: 'ERR_OUT_OF_MEMORY' }),
    )
    expect(tensor([1], on).dataSync()).toEqual(Float32Array.of(1))
  })
})

describe('what a tensor says of itself', () => {
  test('shape, dtype, device, size; and onnxruntime’s dims, type, location', () => {
    const t = tensor([1, 2, 3, 4, 5, 6], { ...on, shape: [2, 3], dtype: 'bfloat16' })
    expect([t.shape, t.dims, t.strides]).toEqual([
      [2, 3],
      [2, 3],
      [3, 1],
    ])
    expect([t.dtype, t.type, t.size]).toEqual(['bfloat16', 'bfloat16', 6])
    expect(t.device).toBe(dut)
    expect(t.location).toBe(dut.type === 'cpu' ? 'cpu' : 'gpu-buffer')
    expect(t.disposed).toBe(false)
  })

  test('a printed tensor is readable', async () => {
    const { inspect } = await import('node:util')
    expect(inspect(tensor([1, 2], on))).toMatch(/float32/)
  })
})
