// Memory that more than one thing sees: arrays handed out, views, arguments that share with what an op changes in place.
import { constants } from 'node:buffer'
import { afterEach, describe, expect, test } from 'vitest'
import {
  type Tensor,
  add,
  causalConv1dUpdate,
  device,
  embedding,
  empty,
  linear,
  memory,
  scope,
  selectiveScan,
  selectiveStateUpdate,
  setThreads,
  tensor,
  zeros,
} from '../../lib/index.js'
import { dut, on } from '../support/device.js'
import { Random } from '../support/random.js'

const r = new Random('sharing')
const floats = (...shape: number[]): Tensor =>
  tensor(
    Float32Array.from({ length: shape.reduce((n, m) => n * m, 1) }, () => r.next() * 2 - 1),
    { shape },
  )

/** Work that keeps the queue busy for some milliseconds, so that what follows is queued behind it. */
function busy(): void {
  scope(() => {
    const w = zeros([512, 512])
    for (let i = 0; i < 4; i++) linear(w, w)
  })
}

const values = (t: Tensor): number[] => Array.from(t.dataSync() as Float32Array)

describe('what data() hands out', () => {
  const large = 5000 // elements: more than is copied

  test.each([10, large])('stays as it was when the tensor changes in place: %i elements', async (n) => {
    const t = zeros([n])
    const before = await t.data()
    t.copyFrom(new Float32Array(n).fill(1))
    const after = await t.data()
    expect([before[0], before[n - 1], after[0], after[n - 1]]).toEqual([0, 0, 1, 1])
  })

  test.each([10, large])(
    'is of the moment of the call, also when an in-place op follows at once: %i elements',
    async (n) => {
      const t = zeros([n])
      busy()
      const before = t.data()
      t.copyFrom(new Float32Array(n).fill(1))
      const between = t.narrow(0, 1, n - 2).data()
      t.copyFrom(new Float32Array(n).fill(2))
      expect([(await before)[0], (await between)[0], t.dataSync()[0]]).toEqual([0, 1, 2])
    },
  )

  test('outlives the tensor and its views', async () => {
    const t = floats(large)
    const want = values(t)
    const data = await t.data()
    const part = await t.narrow(0, 7, large - 7).data()
    t.dispose()
    for (let i = 0; i < 20; i++) scope(() => void floats(large).dataSync())
    expect(Array.from(data as Float32Array)).toEqual(want)
    expect(Array.from(part as Float32Array)).toEqual(want.slice(7))
  })

  test('may be asked for many times at once', async () => {
    const t = floats(large)
    busy()
    const all = await Promise.all(Array.from({ length: 50 }, (_, i) => (i % 2 ? t.data() : t.narrow(0, i, 100).data())))
    t.dispose()
    const want = all[1]!
    all.forEach((data, i) => expect(data[5]).toBe(i % 2 ? want[5] : want[i + 5]))
  })

  test('of a tensor that is disposed before it is there', async () => {
    const t = zeros([large])
    busy()
    const data = t.data()
    t.dispose()
    expect((await data)[large - 1]).toBe(0)
    await expect(t.data()).rejects.toMatchObject({ code: 'ERR_DISPOSED' })
  })

  test.runIf(on === 'cpu' && device('cpu').info.memory! > constants.MAX_LENGTH * 1.5 && constants.MAX_LENGTH < 2 ** 40)(
    'is refused where JavaScript has no array as long',
    () => {
      const t = empty([constants.MAX_LENGTH / 4 + 16]) // never touched
      expect(() => t.dataSync()).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED' }))
      t.dispose()
    },
  )
})

describe('an in-place op whose other arguments share its memory', () => {
  test('selectiveStateUpdate sees them as they were', () => {
    const d = 40
    const state = floats(2, d, d)
    const copy = state.clone()
    const [A, B] = [floats(d, d), floats(2, d)]
    // x is what channel 3 keeps, so every channel after it would see it changed
    const view = (t: Tensor): Tensor => t.narrow(1, 3, 1).reshape(2, d)
    const apart = view(copy).clone()
    const want = values(selectiveStateUpdate(copy, apart, apart, A, B, B))
    const got = values(selectiveStateUpdate(state, view(state), view(state), A, B, B))
    expect(got).toEqual(want)
    expect(values(state)).toEqual(values(copy))
  })

  test('causalConv1dUpdate of its own state', () => {
    const state = floats(2, 8, 8)
    const copy = state.clone()
    const weight = floats(8, 4)
    const want = values(causalConv1dUpdate(copy.clone().transpose(1, 2), copy, weight))
    const got = values(causalConv1dUpdate(state.transpose(1, 2), state, weight))
    expect(got).toEqual(want)
    expect(values(state)).toEqual(values(copy))
  })

  test('copyFrom of an overlapping part', () => {
    const t = tensor([0, 1, 2, 3, 4, 5])
    t.narrow(0, 1, 5).copyFrom(t.narrow(0, 0, 5))
    expect(values(t)).toEqual([0, 0, 1, 2, 3, 4])
    const m = tensor([[1, 2], [3, 4]]) // prettier-ignore
    m.copyFrom(m.transpose(0, 1))
    expect(values(m)).toEqual([1, 3, 2, 4])
  })

  test('copyFrom of an overlapping part of what was handed out', () => {
    const n = 3000
    const t = tensor(Float32Array.from({ length: n }, (_, i) => i))
    const before = t.dataSync()
    t.narrow(0, 1, n - 1).copyFrom(t.narrow(0, 0, n - 1))
    expect([before[1], before[n - 1]]).toEqual([1, n - 1])
    expect(values(t).slice(0, 3)).toEqual([0, 0, 1])
  })
})

describe('a bad index', () => {
  const table = [[1], [2]]
  const bad = (): Tensor => embedding(tensor([9], { dtype: 'int32' }), table)
  afterEach(() => {
    try {
      dut.synchronizeSync()
    } catch {
      // what a test left
    }
  })

  test('is told to no read that was queued before it', async () => {
    busy()
    const before = zeros([5]).data()
    busy()
    const later = bad()
    const after = later.data()
    expect(await before).toHaveLength(5)
    await expect(after).rejects.toMatchObject({ code: 'ERR_INDEX' })
    expect(await later.data()).toHaveLength(1)
  })

  test('is told to the first read after it, and once', async () => {
    busy()
    const first = zeros([5]).data()
    bad().dispose()
    bad().dispose()
    await first
    expect(() => zeros([1]).dataSync()).toThrow(expect.objectContaining({ code: 'ERR_INDEX' }))
    expect(await zeros([1]).data()).toHaveLength(1)
  })
})

test('the number of threads may change while work is queued', async () => {
  const { threads } = device('cpu').info
  const [u, A, B] = [floats(2, 96, 64), floats(96, 8), floats(2, 8, 64)]
  const want = values(selectiveScan(u, u, A, B, B, { deltaSoftplus: true }))
  const all: Promise<unknown>[] = []
  for (let i = 0; i < 200; i++) {
    setThreads(1 + ((i * 5) % 9))
    const out = selectiveScan(u, u, A, B, B, { deltaSoftplus: true })
    all.push(out.data().then((data) => expect(Array.from(data as Float32Array)).toEqual(want)))
    out.dispose()
  }
  await Promise.all(all)
  setThreads(threads!)
})

describe('scope', () => {
  const tensors = (): number => memory()[dut.name]?.tensors ?? 0

  test('frees what was made when what is returned cannot be looked through', () => {
    zeros([1]).dispose()
    const before = tensors()
    const run = (): unknown =>
      scope(() => {
        zeros([3])
        return { get bad() { throw new Error('mine') } } // prettier-ignore
      })
    expect(run).toThrow('mine')
    expect(tensors()).toBe(before)
  })

  test('frees what was made when fn throws, in all scopes that it leaves', () => {
    const before = tensors()
    const run = (): unknown =>
      scope(() => {
        zeros([3])
        return scope(() => {
          zeros([4])
          return add(zeros([2]), zeros([3]))
        })
      })
    expect(run).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }))
    expect(tensors()).toBe(before)
  })

  test('takes sparse arrays as they are', () => {
    const list: Tensor[] = []
    list[4e9] = zeros([1])
    expect(scope(() => list)[4e9]!.disposed).toBe(false)
  })
})
