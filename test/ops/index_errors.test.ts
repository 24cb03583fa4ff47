import { expect, test } from 'vitest'
import { add, embedding, selectiveStateUpdate, type Tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { describeOp, dut, on, put } from '../support/device.js'

const table = (): Tensor => put(new NDArray([4, 3]).map((_, i) => i))
const ids = (...list: number[]): Tensor => put(new NDArray([list.length], list), 'int32')
const indexError = (op: RegExp): unknown =>
  expect.objectContaining({ name: 'SeqmixError', code: 'ERR_INDEX', message: expect.stringMatching(op) })
const bad = (): Tensor => embedding(ids(9), table())

describeOp('an index that a kernel finds bad', () => {
  test.each<[string, (t: Tensor) => unknown]>([
    ['data', (t) => t.data()],
    ['dataSync', async (t) => t.dataSync()],
    ['toFloat32', (t) => t.toFloat32()],
    ['synchronize', () => dut.synchronize()],
    ['synchronizeSync', async () => dut.synchronizeSync()],
  ])('is told by the first %s after it, and cleared', async (_, read) => {
    const t = bad()
    await expect(read(t)).rejects.toThrow(indexError(/embedding/))
    expect(await t.data()).toEqual(new Float32Array(3))
    await dut.synchronize()
  })

  test.runIf(on === 'cuda')('is told by to() another device', async () => {
    const t = bad()
    expect(() => t.to('cpu')).toThrow(indexError(/embedding/))
    expect(t.to('cpu').dataSync()).toEqual(new Float32Array(3))
  })

  test('is told by a read of any other tensor of the device', async () => {
    const other = put(new NDArray([2], [1, 2]))
    bad()
    await expect(other.data()).rejects.toThrow(indexError(/embedding/))
    expect(await other.data()).toEqual(Float32Array.of(1, 2))
  })

  test('is not told by a read that was asked for before it', async () => {
    const other = put(new NDArray([2], [1, 2]))
    const pending = add(other, other).data()
    const t = bad()
    expect(await pending).toEqual(Float32Array.of(2, 4))
    await expect(t.data()).rejects.toThrow(indexError(/embedding/))
  })

  test('of two bad ops the first is named', async () => {
    bad()
    const state = put(new NDArray([2, 3, 4]))
    const row = put(new NDArray([1, 3]))
    const m = put(new NDArray([1, 4]))
    selectiveStateUpdate(state, row, row, put(new NDArray([3, 4])), m, m, { stateIndices: ids(5) })
    await expect(state.data()).rejects.toThrow(indexError(/embedding/))
    expect(await state.data()).toEqual(new Float32Array(24))
  })

  test('does not keep later ops from being right', async () => {
    const t = bad()
    const sum = add(t, put(new NDArray([3], [1, 2, 3])))
    await expect(sum.data()).rejects.toThrow(indexError(/embedding/))
    expect(await sum.data()).toEqual(Float32Array.of(1, 2, 3))
  })

  test('many reads at once: one of them is told', async () => {
    const t = bad()
    const results = await Promise.allSettled([t.data(), t.data(), t.data()])
    expect(results.filter((r) => r.status === 'rejected')).toHaveLength(1)
    expect(results[0]!.status).toBe('rejected')
  })
})
