// Several GPUs: what each of them computes, and what goes from one to another. With one GPU (or none) only the errors.
import { describe, expect, test } from 'vitest'
import { add, device, devices, linear, memory, silu, tensor, type Tensor } from '../../lib/index.js'
import { load } from '../../lib/models/index.js'
import { Random } from '../support/random.js'

const names = devices()
  .filter((d) => d.available && d.name.startsWith('cuda:'))
  .map((d) => d.name)
const pairs = names.flatMap((a) => names.filter((b) => b !== a).map((b) => [a, b] as const))
const random = (name: string, on: string, ...shape: number[]): Tensor =>
  tensor(Float32Array.from(new Random(name).normal(shape).data), { shape, device: on })
const work = (x: Tensor, w: Tensor): Tensor => linear(silu(linear(x, w)), w)

test('a GPU that is not there is an error that says which are', () => {
  const wanted = names.length ? `expected cuda:0 to cuda:${names.length - 1}, got cuda:${names.length}` : 'cuda:0'
  expect(() => device(`cuda:${names.length}`)).toThrow(
    expect.objectContaining({ code: 'ERR_DEVICE', message: expect.stringContaining(wanted) }),
  )
})

describe.runIf(names.length > 1)(`with ${names.length} GPUs`, () => {
  test('each computes the same, all at once', async () => {
    const held = names.map((on) => [random('x', on, 40, 64), random('w', on, 64, 64)] as const)
    const results: Promise<unknown>[] = []
    for (let i = 0; i < 20; i++) for (const [x, w] of held) results.push(work(x, w).data())
    const [first, ...others] = await Promise.all(results)
    for (const data of others) expect(data).toEqual(first)
  })

  test('each has its queue, its errors and its count of memory', async () => {
    for (const on of names) {
      const before = { ...memory()[on] }
      const t = random('memory', on, 1000)
      expect(memory()[on]!.bytes).toBeGreaterThanOrEqual((before.bytes ?? 0) + 4000)
      expect([t.device.name, t.device.index, t.device]).toEqual([on, Number(on.slice(5)), device(on)])
      await device(on).synchronize()
      t.dispose()
    }
  })

  test.each(pairs)('%s and %s do not mix', (a, b) => {
    expect(() => add(tensor([1], { device: a }), tensor([1], { device: b }))).toThrow(
      expect.objectContaining({ code: 'ERR_DEVICE', message: `b: expected a tensor on ${a} as a is, got one on ${b}` }),
    )
  })

  test.each(pairs)('from %s to %s, in the order of both queues', async (a, b) => {
    const w = random('w', a, 512, 512)
    const there = random('w', b, 512, 512)
    const wanted = work(work(w, w), w).dataSync()
    for (let i = 0; i < 10; i++) {
      const busy = work(there, there) // the target's queue is at work, and so is the source's
      const moved = work(w, w).to(b)
      expect(moved.device.name).toBe(b)
      busy.dispose()
      expect(await work(moved, there).data()).toEqual(wanted)
    }
    const wide = random('wide', a, 300, 1000).transpose(0, 1).narrow(0, 10, 500)
    expect(await wide.to(b).data()).toEqual(await wide.data())
    expect(await wide.to(b).to('cpu').data()).toEqual(await wide.data())
    expect(await tensor(Float32Array.of(), { device: a }).to(b).data()).toEqual(Float32Array.of())
    const target = random('target', b, 500).copyFrom(random('source', a, 500))
    expect(await target.data()).toEqual(await random('source', a, 500).data())
  })

  test.each(names)('a graph on %s', async (on) => {
    const w = random('w', on, 64, 64)
    const graph = device(on).capture((x: Tensor) => work(x, w), random('x', on, 8, 64))
    for (let i = 0; i < 4; i++) {
      const x = random(`x ${i}`, on, 8, 64)
      for (const other of names) random('noise', other, 8, 64)
      expect(await graph.run(x).data()).toEqual(await work(x, w).data())
    }
    graph.dispose()
  })

  test('a generation on each, all at once', async () => {
    const texts = names.map(async (on) => {
      const model = await load('test/fixtures/kjv-mamba', { device: on })
      const ids: number[] = []
      for await (const id of model.generate([10, 20, 30], { maxNewTokens: 60, ignoreEos: true })) ids.push(id)
      model.dispose()
      return ids
    })
    const [first, ...others] = await Promise.all(texts)
    expect(first!.length).toBe(60)
    for (const ids of others) expect(ids).toEqual(first)
  })
})
