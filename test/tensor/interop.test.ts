import { Tensor as OrtTensor } from 'onnxruntime-common'
import { describe, expect, test } from 'vitest'
import { add, embedding, linear, tensor, type TensorInput } from '../../lib/index.js'
import { dut } from '../support/device.js'

const on = { device: dut }

describe('tensors of onnxruntime', () => {
  test.each([
    ['float32', Float32Array.of(1, 2, 3, 4, 5, 6)],
    ['int32', Int32Array.of(1, 2, 3, 4, 5, -6)],
    ['int64', BigInt64Array.of(1n, 2n, 3n, 4n, 5n, -6n)],
    ['bool', Uint8Array.of(0, 1, 1, 0, 1, 1)],
    ['int8', Int8Array.of(1, 2, 3, 127, -127, -128)],
  ] as const)('%s in and out', async (type, data) => {
    const ort = new OrtTensor(type, data as never, [2, 3])
    const t = tensor(ort as never, on)
    expect([t.dtype, t.shape]).toEqual([type, [2, 3]])
    const out = await t.data()
    expect(out).toEqual(data)
    const back = new OrtTensor(t.type as 'float32', out as Float32Array, t.dims)
    expect([back.type, back.dims]).toEqual([type, [2, 3]])
    // Without a copy, where onnxruntime makes none itself.
    if (type !== 'bool') expect((back.data as Float32Array).buffer).toBe(out.buffer)
  })

  test('float16 as bits', async () => {
    const bits = Uint16Array.of(0x3c00, 0x4000)
    const F16 = (globalThis as { Float16Array?: new (b: ArrayBuffer) => unknown }).Float16Array
    const ort = new OrtTensor('float16', (F16 ? new F16(bits.slice().buffer) : bits) as never, [2])
    const t = tensor(ort as never, on)
    expect([t.dtype, await t.data()]).toEqual(['float16', bits])
    expect(await t.toFloat32()).toEqual(Float32Array.of(1, 2))
  })

  test('bfloat16 goes out through float32', async () => {
    const t = tensor([1, 2.5], { ...on, dtype: 'bfloat16' })
    expect(() => new OrtTensor(t.type as 'float32', t.dataSync() as never, t.dims)).toThrow()
    const f = t.to('float32')
    expect(new OrtTensor(f.type as 'float32', (await f.data()) as Float32Array, f.dims).data).toEqual(
      Float32Array.of(1, 2.5),
    )
  })

  test('as inputs of ops', async () => {
    const x = new OrtTensor('float32', Float32Array.of(1, 2, 3, 4), [2, 2]) as unknown as TensorInput
    expect(await add(x, tensor([10, 20], on)).data()).toEqual(Float32Array.of(11, 22, 13, 24))
    const ids = new OrtTensor('int64', BigInt64Array.of(1n, 0n), [2]) as unknown as TensorInput
    expect(
      await embedding(
        ids,
        tensor(
          [
            [1, 2],
            [3, 4],
          ],
          on,
        ),
      ).data(),
    ).toEqual(Float32Array.of(3, 4, 1, 2))
  })

  test('anything of that shape will do, and need not be of any class', async () => {
    const like = { type: 'float32', data: Float32Array.of(1, 2, 3, 4), dims: [2, 2] }
    expect(await tensor(like, on).data()).toEqual(like.data)
    const frozen = Object.freeze({ type: 'int32', data: Int32Array.of(7), dims: Object.freeze([1]) })
    expect(tensor(frozen, on).shape).toEqual([1])
    // transformers.js keeps what onnxruntime gave it behind getters.
    class Wrapped {
      get type(): string {
        return 'float32'
      }
      get data(): Float32Array {
        return Float32Array.of(5, 6)
      }
      get dims(): number[] {
        return [2]
      }
    }
    expect(await add(new Wrapped() as TensorInput, [1, 1]).data()).toEqual(Float32Array.of(6, 7))
  })

  test('types that seqmix has not, and data that do not fit', () => {
    for (const [type, data] of [
      ['float64', new Float64Array(1)],
      ['string', ['x']],
      ['uint8', new Uint8Array(1)],
    ] as const)
      expect(() => tensor({ type, data, dims: [1] }, on)).toThrow(
        expect.objectContaining({ code: 'ERR_DTYPE', message: expect.stringMatching(/expected .*, got /) }),
      )
    expect(() => tensor({ type: 'float32', data: new Float32Array(3), dims: [2, 2] }, on)).toThrow(
      expect.objectContaining({ code: 'ERR_SHAPE' }),
    )
    expect(() => tensor({ type: 'float16', data: new Float32Array(1), dims: [1] }, on)).toThrow(
      expect.objectContaining({ code: 'ERR_DTYPE' }),
    )
    expect(() => tensor({ type: 'int32', data: new Float32Array(1), dims: [1] }, on)).toThrow(
      expect.objectContaining({ code: 'ERR_DTYPE' }),
    )
  })
})

describe('plain inputs of ops', () => {
  test('arrays, nested arrays and typed arrays, beside tensors or alone', async () => {
    expect(await add([1, 2], [3, 4]).data()).toEqual(Float32Array.of(4, 6))
    expect(await add([[1], [2]], Float32Array.of(1, 2)).data()).toEqual(Float32Array.of(2, 3, 3, 4))
    expect(await linear(tensor([[1, 2]], on), [[3, 4]]).data()).toEqual(Float32Array.of(11))
    expect(
      await embedding(Int32Array.of(1), [
        [1, 2],
        [3, 4],
      ]).data(),
    ).toEqual(Float32Array.of(3, 4))
    expect(add([1], tensor([1], on)).device).toBe(dut)
    expect(add(tensor([1], { device: 'cpu' }), [1]).device.name).toBe('cpu')
  })

  test('leave no tensor behind', async () => {
    const { memory } = await import('../../lib/index.js')
    const before = memory()[dut.name]!.tensors
    const out = add([1, 2], tensor([1, 2], on))
    out.dispose()
    expect(memory()[dut.name]!.tensors).toBe(before + 1)
  })

  test('what they refuse', () => {
    for (const bad of ['abc', null, undefined, {}, new Map(), [['a']], { type: 'float32' }])
      expect(() => add(bad as never, [1])).toThrow(
        expect.objectContaining({
          code: expect.stringMatching(/^ERR_/),
          message: expect.stringMatching(/^a: expected .*, got /),
        }),
      )
  })
})
