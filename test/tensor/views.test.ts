import { expect, test } from 'vitest'
import { add, cat, tensor, type Tensor } from '../../lib/index.js'
import { concat, NDArray } from '../reference/array.js'
import { describeOp, dut, put, take } from '../support/device.js'
import { layouts, place } from '../support/layout.js'
import { Random } from '../support/random.js'

const count = (...shape: number[]): Tensor =>
  tensor(
    Float32Array.from({ length: shape.reduce((a, n) => a * n, 1) }, (_, i) => i),
    { shape, device: dut },
  )
const values = async (t: Tensor): Promise<number[]> => Array.from((await take(t)).data)
const error = (name: string, code: string, message: RegExp): unknown =>
  expect.objectContaining({ name, code, message: expect.stringMatching(message) })

describeOp('reshape', () => {
  test('keeps the elements in order', async () => {
    const t = count(2, 6)
    expect([t.reshape(3, 4).shape, t.reshape([4, 3]).shape]).toEqual([
      [3, 4],
      [4, 3],
    ])
    expect(await values(t.reshape(3, 2, 2))).toEqual(await values(t))
    expect(t.reshape(12).strides).toEqual([1])
    expect(count(1).reshape([]).shape).toEqual([])
  })

  test('one −1 is worked out', () => {
    expect(count(2, 6).reshape(3, -1).shape).toEqual([3, 4])
    expect(() => count(2, 6).reshape(-1, -1)).toThrow(error('RangeError', 'ERR_SHAPE', /expected .*, got /))
    expect(() => count(2, 6).reshape(5, -1)).toThrow(error('RangeError', 'ERR_SHAPE', /expected .*, got /))
  })

  test('of a transposed view reads its logical order', async () => {
    expect(await values(count(2, 3).transpose(0, 1).reshape(6))).toEqual([0, 3, 1, 4, 2, 5])
    expect(await values(count(4, 6).narrow(1, 1, 3).reshape(12))).toEqual([1, 2, 3, 7, 8, 9, 13, 14, 15, 19, 20, 21])
  })

  test('a wrong number of elements', () => {
    expect(() => count(2, 3).reshape(4)).toThrow(error('RangeError', 'ERR_SHAPE', /expected .*, got /))
    expect(() => count(2, 3).reshape(1.5, 4)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }))
  })
})

describeOp('narrow and transpose', () => {
  test('narrow takes a part of one dimension', async () => {
    const t = count(3, 4)
    expect(await values(t.narrow(0, 1, 2))).toEqual([4, 5, 6, 7, 8, 9, 10, 11])
    expect(await values(t.narrow(1, 1, 2))).toEqual([1, 2, 5, 6, 9, 10])
    expect(await values(t.narrow(-1, 3, 1))).toEqual([3, 7, 11])
    expect(t.narrow(1, 1, 2).strides).toEqual([4, 1])
    expect(t.narrow(1, 4, 0).shape).toEqual([3, 0])
  })

  test('transpose exchanges two dimensions', async () => {
    const t = count(2, 3, 4)
    expect([t.transpose(0, 2).shape, t.transpose(-1, -2).shape]).toEqual([
      [4, 3, 2],
      [2, 4, 3],
    ])
    expect(t.transpose(1, 2).strides).toEqual([12, 1, 4])
    expect(await values(count(2, 3).transpose(0, 1))).toEqual([0, 3, 1, 4, 2, 5])
    expect(await values(t.transpose(0, 1).transpose(0, 1))).toEqual(await values(t))
  })

  test('out of range', () => {
    const t = count(3, 4)
    for (const [dim, from, length] of [
      [2, 0, 1],
      [-3, 0, 1],
      [0, 3, 1],
      [0, -1, 1],
      [0, 0, 4],
      [0, 0, -1],
      [0, 0.5, 1],
      [0, 0, NaN],
      [1, 2 ** 53, 1],
    ] as const)
      expect(() => t.narrow(dim, from, length)).toThrow(error('RangeError', 'ERR_SHAPE', /expected .*, got /))
    for (const [a, b] of [
      [0, 2],
      [-3, 0],
      [0.5, 1],
    ] as const)
      expect(() => t.transpose(a, b)).toThrow(error('RangeError', 'ERR_SHAPE', /expected .*, got /))
  })

  test.each([1, 2, 3, 4])('views of views read as they should: rank %i', async (rank) => {
    const random = new Random(rank)
    for (let again = 0; again < 30; again++) {
      let array = random.normal(Array.from({ length: rank }, () => random.int(1, 6)))
      let view = put(array)
      for (let step = 0; step < 5; step++) {
        const order = array.shape.map((_, i) => i)
        if (rank > 1 && random.bool()) {
          const [a, b] = [random.int(0, rank - 1), random.int(0, rank - 1)]
          ;[order[a], order[b]] = [order[b]!, order[a]!]
          array = array.permute(order)
          view = view.transpose(a, b)
        } else {
          const dim = random.int(0, rank - 1)
          const from = random.int(0, array.shape[dim]! - 1)
          const length = random.int(from === 0 ? 1 : 0, array.shape[dim]! - from) || 1
          array = array.slice(dim, from, length)
          view = view.narrow(dim, from, length)
        }
        expect(await values(view)).toEqual(Array.from(array.data))
        expect(await values(view.contiguous())).toEqual(Array.from(array.data))
        expect(await values(view.clone())).toEqual(Array.from(array.data))
        expect(await values(view.reshape(array.size))).toEqual(Array.from(array.data))
      }
    }
  })

  test.each(['int32', 'int64', 'bool'] as const)('views of %s', async (dtype) => {
    const array = new NDArray([5, 7]).map((_, i) => (dtype === 'bool' ? i % 2 : i * 1000))
    for (const layout of layouts) expect(await values(place(array, layout, dtype))).toEqual(Array.from(array.data))
  })
})

describeOp('views share memory, copies do not', () => {
  test('a change in place shows in every view of the memory, and in no copy', async () => {
    const t = count(2, 3)
    const shared = [t.reshape(6), t.transpose(0, 1), t.narrow(1, 0, 3), t.contiguous()]
    const copies = [t.clone(), t.transpose(0, 1).contiguous(), t.transpose(0, 1).reshape(6)]
    const before = await Promise.all(copies.map(values))
    t.copyFrom(
      tensor(
        [
          [10, 11, 12],
          [13, 14, 15],
        ],
        { device: dut },
      ),
    )
    expect(await values(shared[0]!)).toEqual([10, 11, 12, 13, 14, 15])
    expect(await values(shared[1]!)).toEqual([10, 13, 11, 14, 12, 15])
    expect(await values(shared[2]!)).toEqual([10, 11, 12, 13, 14, 15])
    expect(await values(shared[3]!)).toEqual([10, 11, 12, 13, 14, 15])
    expect(await Promise.all(copies.map(values))).toEqual(before)
  })

  test('each returns a new handle, even where nothing changes', () => {
    const t = count(2, 3)
    for (const view of [
      t.reshape(2, 3),
      t.narrow(0, 0, 2),
      t.transpose(0, 0),
      t.contiguous(),
      t.to(dut),
      t.to('float32'),
      t.clone(),
    ]) {
      expect(view).not.toBe(t)
      view.dispose()
      expect([view.disposed, t.disposed]).toEqual([true, false])
    }
  })

  test('a view outlives what it was taken of', async () => {
    const t = count(2, 3)
    const view = t.narrow(1, 1, 2)
    t.dispose()
    expect(await values(view)).toEqual([1, 2, 4, 5])
  })
})

describeOp('copyFrom', () => {
  test('writes into a view of any layout, from one of any layout, and returns the target', async () => {
    const random = new Random('copyFrom')
    for (const a of layouts)
      for (const b of layouts) {
        const from = random.normal([4, 5, 6])
        const target = place(random.normal([4, 5, 6]), a)
        expect(target.copyFrom(place(from, b))).toBe(target)
        expect(await values(target)).toEqual(Array.from(from.data))
      }
  })

  test('touches only what the target views', async () => {
    const t = count(3, 4)
    t.narrow(0, 1, 1)
      .narrow(1, 1, 2)
      .copyFrom(tensor([[-1, -2]], { device: dut }))
    expect(await values(t)).toEqual([0, 1, 2, 3, 4, -1, -2, 7, 8, 9, 10, 11])
  })

  test('between overlapping views', async () => {
    const t = count(8)
    t.narrow(0, 1, 6).copyFrom(t.narrow(0, 0, 6))
    expect(await values(t)).toEqual([0, 0, 1, 2, 3, 4, 5, 7])
    const square = count(3, 3)
    square.copyFrom(square.transpose(0, 1))
    expect(await values(square)).toEqual([0, 3, 6, 1, 4, 7, 2, 5, 8])
  })

  test('what it refuses', () => {
    const t = count(2, 3)
    expect(() => t.copyFrom(count(3, 2))).toThrow(error('RangeError', 'ERR_SHAPE', /expected .*, got /))
    expect(() => t.copyFrom(tensor(Int32Array.of(1, 2, 3, 4, 5, 6), { shape: [2, 3], device: dut }))).toThrow(
      error('TypeError', 'ERR_DTYPE', /expected .*, got /),
    )
  })
})

describeOp('cat', () => {
  test.each([0, 1, 2, -1, -3])('along dimension %i', async (dim) => {
    const random = new Random(dim)
    const axis = dim < 0 ? dim + 3 : dim
    const list = [2, 1, 0, 3].map((n) => random.normal([3, 4, 5].map((m, i) => (i === axis ? n : m))))
    const out = cat(
      list.map((a, i) => place(a, layouts[(i * 2 + 1) % layouts.length]!)),
      dim,
    )
    const want = concat(list, axis)
    expect(out.shape).toEqual(want.shape)
    expect(await values(out)).toEqual(Array.from(want.data))
  })

  test('of every dtype', async () => {
    for (const dtype of ['int32', 'int64', 'bool', 'float16', 'bfloat16'] as const) {
      const part = tensor([0, 1], { dtype, device: dut })
      const out = cat([part, part], 0)
      expect([out.dtype, out.shape]).toEqual([dtype, [4]])
      const once = await values(part)
      expect(await values(out)).toEqual([...once, ...once])
    }
  })

  test('of one tensor is a copy', async () => {
    const t = count(2, 2)
    const out = cat([t], 0)
    t.copyFrom(
      tensor(
        [
          [9, 9],
          [9, 9],
        ],
        { device: dut },
      ),
    )
    expect(await values(out)).toEqual([0, 1, 2, 3])
  })

  test('what it refuses', () => {
    expect(() => cat([], 0)).toThrow(
      expect.objectContaining({
        code: expect.stringMatching(/^ERR_/),
        message: expect.stringMatching(/expected .*, got /),
      }),
    )
    expect(() => cat([count(2, 3), count(3, 2)], 0)).toThrow(error('RangeError', 'ERR_SHAPE', /expected .*, got /))
    expect(() => cat([count(2, 3), count(2)], 0)).toThrow(error('RangeError', 'ERR_SHAPE', /expected .*, got /))
    expect(() => cat([count(2, 3)], 2)).toThrow(
      expect.objectContaining({ message: expect.stringMatching(/expected .*, got 2/) }),
    )
    expect(() => cat([count(2), tensor(Int32Array.of(1), { device: dut })], 0)).toThrow(
      error('TypeError', 'ERR_DTYPE', /expected .*, got int32/),
    )
  })
})

describeOp('ops', () => {
  test('an op on a view of a view, after the first handles are gone', async () => {
    const t = count(6, 6)
    const view = t.transpose(0, 1).narrow(0, 1, 2)
    t.dispose()
    expect(await values(add(view, view))).toEqual([2, 14, 26, 38, 50, 62, 4, 16, 28, 40, 52, 64])
  })
})
