import { expect, test } from 'vitest'
import { add, increment, tensor, type Tensor, zeros } from '../../lib/index.js'
import { describeOp, dut, expectKernel } from '../support/device.js'

const at = { device: dut }

describeOp('increment', () => {
  test.each(['int32', 'int64'] as const)('adds to every element in place, %s', async (dtype) => {
    for (const shape of [[], [1], [7], [3, 5, 2], [40_000]]) {
      const t = zeros(shape, { ...at, dtype })
      expect(increment(t)).toBe(t)
      expectKernel('increment')
      increment(t, 41)
      increment(t, -2)
      const data = await t.data()
      expect([data.length, new Set(Array.from(data, Number))]).toEqual([t.size, new Set([40])])
      t.dispose()
    }
  })

  test('through a view, and nothing beside it', async () => {
    const t = tensor(
      Int32Array.from({ length: 24 }, (_, i) => i),
      { shape: [2, 3, 4], ...at },
    )
    increment(t.narrow(2, 1, 2).transpose(0, 1).narrow(0, 1, 2), 100)
    const touched = (i: number): boolean => [1, 2].includes(i % 4) && Math.floor(i / 4) % 3 >= 1
    expect(await t.data()).toEqual(Int32Array.from({ length: 24 }, (_, i) => (touched(i) ? i + 100 : i)))
  })

  test('past the ends it wraps around', async () => {
    const narrow = tensor(Int32Array.of(2 ** 31 - 1, -(2 ** 31)), at)
    const wide = tensor(BigInt64Array.of(2n ** 63n - 1n, -(2n ** 63n)), at)
    expect(await increment(narrow).data()).toEqual(Int32Array.of(-(2 ** 31), -(2 ** 31) + 1))
    expect(await increment(wide, -1).data()).toEqual(BigInt64Array.of(2n ** 63n - 2n, 2n ** 63n - 1n))
    expect(await increment(wide, 2n ** 40n).data()).toEqual(
      BigInt64Array.of(-(2n ** 63n) + 2n ** 40n - 2n, -(2n ** 63n) + 2n ** 40n - 1n),
    )
  })

  test('what was read before does not change', async () => {
    const t = tensor(Int32Array.of(1, 2), at)
    const [pending, now] = [t.data(), t.dataSync()]
    increment(t)
    expect([await pending, now, await t.data()]).toEqual([
      Int32Array.of(1, 2),
      Int32Array.of(1, 2),
      Int32Array.of(2, 3),
    ])
  })

  test('of nothing does nothing', () => {
    expect(increment(zeros([0, 5], { ...at, dtype: 'int32' })).dataSync().length).toBe(0)
  })

  test.each<[string, () => unknown, string]>([
    ['floats', () => increment(add([1], [2])), 'ERR_DTYPE'],
    ['an array', () => increment([1] as unknown as Tensor), 'ERR_DTYPE'],
    ['half a step', () => increment(zeros([1], { ...at, dtype: 'int32' }), 0.5), 'ERR_OPTION'],
    ['a word', () => increment(zeros([1], { ...at, dtype: 'int32' }), 'one' as never), 'ERR_OPTION'],
  ])('%s are refused', (_, wrong, code) => {
    expect(wrong).toThrow(expect.objectContaining({ code, message: expect.stringMatching(/expected .*, got /) }))
  })
})
