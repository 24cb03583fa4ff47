import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  add,
  argmax,
  causalConv1d,
  causalConv1dUpdate,
  debug,
  device,
  embedding,
  type Graph,
  increment,
  linear,
  memory,
  mul,
  rmsNorm,
  sample,
  scope,
  selectiveScan,
  selectiveStateUpdate,
  silu,
  softmax,
  tensor,
  type Tensor,
  topk,
  zeros,
} from '../../lib/index.js'
import { dut, on, put, take } from '../support/device.js'
import { Random } from '../support/random.js'

const at = { device: dut }
const random = (name: string, ...shape: number[]): Tensor => put(new Random(name).normal(shape))
const values = async (t: Tensor): Promise<number[]> => Array.from((await take(t)).data)
const codeOf = (code: string, message = /expected .*, got /): unknown =>
  expect.objectContaining({ code, message: expect.stringMatching(message) })
const live = (): { tensors: number; bytes: number } => ({ ...memory()[dut.name]! })

// Freed after each test.
let graphs: { dispose(): void }[]
let made: Tensor[]
const kept = <T extends Tensor>(t: T): T => {
  made.push(t)
  return t
}
const captured = <G extends { dispose(): void }>(graph: G): G => {
  graphs.push(graph)
  return graph
}
beforeEach(() => {
  graphs = []
  made = []
})
afterEach(async () => {
  for (const g of graphs) g.dispose()
  for (const t of made) t.dispose()
  await dut.synchronize()
})

describe('a captured graph', () => {
  const [b, d, n, L] = [2, 24, 5, 33]
  const weights = {
    A: random('A', d, n).to('float32'),
    w: random('w', d, d),
    taps: random('taps', d, 4),
    norm: random('norm', d),
    table: random('table', 50, d),
  }
  const everyOp = ([ids, u, z]: readonly [Tensor, Tensor, Tensor]): Tensor[] => {
    const x = linear(embedding(ids, weights.table), weights.w, { activation: 'silu' })
    const { out, residual } = rmsNorm(x, weights.norm, { residual: x })
    const conv = causalConv1d(u, weights.taps, { activation: 'silu' })
    const B = random('B', b, n, L) // made inside: a constant
    const y = selectiveScan(conv, z, weights.A, B, B, { z, deltaSoftplus: true })
    const { values: best, indices } = topk(softmax(add(out, residual)), 7)
    return [
      y,
      best,
      indices,
      argmax(mul(silu(out), x)),
      y.transpose(1, 2).narrow(1, 3, 9),
      u.to('bfloat16'),
      zeros([3], at),
    ]
  }
  const inputs = (name: string): [Tensor, Tensor, Tensor] => {
    const ids = tensor(
      Int32Array.from(new Random(name).normal([b * 3]).data, (v) => Math.abs(v * 1000) % 50),
      {
        shape: [b, 3],
        device: dut,
      },
    )
    return [ids, random(`u ${name}`, b, d, L), random(`z ${name}`, b, d, L)]
  }

  test('gives what the ops give, to the bit, every time', async () => {
    const first = inputs('first').map(kept) as [Tensor, Tensor, Tensor]
    const graph = captured(dut.capture(everyOp, first))
    for (const name of ['first', 'second', 'third', 'fourth', 'first']) {
      const given = inputs(name)
      const got = graph.run(given)
      const wanted = scope(() => everyOp(given))
      for (const t of given) t.dispose() // the graph has what it needs
      for (const [i, t] of wanted.entries()) {
        expect([name, i, t.shape, t.dtype, await t.data()]).toEqual([
          name,
          i,
          got[i]!.shape,
          got[i]!.dtype,
          await got[i]!.data(),
        ])
        t.dispose()
      }
    }
  })

  test('computes nothing before its first run', async () => {
    const state = kept(tensor([1, 2], at))
    const graph = captured(dut.capture(() => void state.copyFrom(add(state, [1, 1]))))
    expect(await values(state)).toEqual([1, 2])
    graph.run()
    expect(await values(state)).toEqual([2, 3])
  })

  test('returns the same tensors each time, overwritten by the next run', async () => {
    const graph = captured(dut.capture(({ x }) => ({ twice: add(x, x), x, n: 5 }), { x: kept(tensor([1, 2], at)) }))
    const first = graph.run()
    expect([await values(first.twice), await values(first.x), first.n]).toEqual([[2, 4], [1, 2], 5])
    const second = graph.run({ x: kept(tensor([5, 6], at)) })
    expect(second).toBe(first)
    expect([await values(first.twice), await values(first.x)]).toEqual([
      [10, 12],
      [5, 6],
    ])
    graph.run() // with the inputs of the run before
    expect(await values(first.twice)).toEqual([10, 12])
  })

  test('what data() handed out, or was asked for, does not change with the next run', async () => {
    const size = 5000
    const fill = (v: number): Tensor => kept(tensor(new Float32Array(size).fill(v), at))
    const graph = captured(dut.capture((x: Tensor) => add(x, x), fill(0)))
    const reads: Promise<unknown>[] = []
    for (let i = 0; i < 20; i++) reads.push(graph.run(fill(i)).data())
    const now = graph.run(fill(100)).dataSync()
    graph.run(fill(101))
    const all = (await Promise.all(reads)) as Float32Array[]
    expect(all.map((r) => [r.length, new Set(r)])).toEqual(all.map((_, i) => [size, new Set([2 * i])]))
    expect(new Set(now as Float32Array)).toEqual(new Set([200]))
  })

  test('takes its own result as its next input', async () => {
    const graph = captured(dut.capture((x: Tensor) => add(x, x), kept(tensor([1, 3], at))))
    let x = graph.run()
    for (let i = 0; i < 5; i++) x = graph.run(x)
    expect(await values(x)).toEqual([64, 192])
  })

  test('may be fed by another graph', async () => {
    const one = captured(dut.capture((x: Tensor) => add(x, [1, 1]), kept(tensor([1, 2], at))))
    const out = one.run()
    const two = captured(dut.capture(() => mul(out, [10, 10]))) // uses the first one's memory
    expect(await values(two.run())).toEqual([20, 30])
    one.run(kept(tensor([5, 6], at)))
    expect(await values(two.run())).toEqual([60, 70])
    one.dispose()
    for (let i = 0; i < 20; i++) kept(tensor([-1, -1], at)) // not in its memory
    expect(await values(two.run())).toEqual([60, 70])
  })

  test('keeps its memory to itself', async () => {
    const x = kept(random('own', 64))
    const chain = (t: Tensor): Tensor => {
      for (let i = 0; i < 20; i++) t = add(silu(t), t)
      return t
    }
    const graph = captured(dut.capture(chain, x))
    const wanted = kept(scope(() => chain(x)))
    for (let i = 0; i < 4; i++) {
      const others = Array.from({ length: 60 }, () => kept(tensor(new Float32Array(64).fill(NaN), at)))
      const out = graph.run()
      for (const t of others.splice(0, 30)) t.copyFrom(new Float32Array(64).fill(i))
      expect(await out.data()).toEqual(await wanted.data())
      for (const t of others) expect((await values(t)).every(Number.isNaN)).toBe(true)
    }
  })

  test('keeps arrays given inside as they were', async () => {
    const bias = Float32Array.of(1, 2)
    const x = kept(tensor([1, 1], at))
    const graph = captured(
      dut.capture(
        (t: Tensor) =>
          add(
            silu(add(t, bias)),
            tensor([[5], [6]])
              .to(dut)
              .reshape(2),
          ),
        x,
      ),
    )
    const wanted = await values(kept(scope(() => add(silu(add(x, bias)), [5, 6]))))
    for (let i = 0; i < 3; i++) {
      kept(tensor([-9, -9], at))
      expect(await values(graph.run())).toEqual(wanted)
    }
  })

  test('belongs to no scope, nor do its results', async () => {
    const x = kept(tensor([2], at))
    let graph: Graph<Tensor, Tensor> | undefined
    scope(() => {
      graph = captured(dut.capture((t: Tensor) => mul(t, t), x))
      graph.run()
    })
    expect(await values(graph!.run())).toEqual([4])
  })

  test.runIf(on === 'cuda')('is one launch from its second run on', async () => {
    const graph = captured(dut.capture((t: Tensor) => silu(t), kept(tensor([2], at))))
    graph.run()
    expect(debug.lastKernel(dut)).toBe('cuda.any.silu')
    graph.run()
    expect(debug.lastKernel(dut)).toBe('cuda.graph')
  })

  test('of nothing does nothing', () => {
    const graph = captured(dut.capture(() => undefined))
    expect([graph.run(), graph.run(), graph.run()]).toEqual([undefined, undefined, undefined])
  })

  test('in poisoned memory', async () => {
    debug.poison(true)
    try {
      const x = kept(random('poison', 3, 50))
      const graph = captured(dut.capture((t: Tensor) => softmax(add(silu(t), t)), x))
      for (let i = 0; i < 3; i++)
        expect(await graph.run().data()).toEqual(await kept(scope(() => softmax(add(silu(x), x)))).data())
    } finally {
      debug.poison(false)
    }
  })

  test('many of them, alive at once and one after the other', async () => {
    const x = kept(random('many', 300))
    const graphs = Array.from({ length: 20 }, (_, i) => captured(dut.capture((t: Tensor) => mul(silu(t), [i]), x)))
    for (let round = 0; round < 3; round++)
      for (const [i, g] of graphs.entries())
        expect(await g.run().data()).toEqual(await kept(scope(() => mul(silu(x), [i]))).data())
    for (let i = 0; i < 50; i++) {
      const g = dut.capture((t: Tensor) => add(t, t), x)
      g.run()
      if (i % 2) g.run()
      g.dispose()
    }
  })
})

describe('what a graph changes in place', () => {
  const step = (state: Tensor, x: Tensor, conv: Tensor): Tensor => {
    const u = causalConv1dUpdate(x, conv, [[1, 2, 3], [4, 5, 6]]) // prettier-ignore
    return selectiveStateUpdate(state, u, u, [[-1, -2], [-3, -4]], [[1, 2]], [[3, 4]], { dtSoftplus: true }) // prettier-ignore
  }
  const states = (): [Tensor, Tensor] => [kept(random('state', 1, 2, 2)), kept(random('conv', 1, 2, 3))]
  const token = (i: number): Tensor => kept(random(`token ${i}`, 1, 2))

  test('moves on at each run, as by hand', async () => {
    const [mine, conv] = states()
    const [byHand, convByHand] = states()
    const graph = captured(dut.capture((x) => step(mine, x, conv), token(0)))
    for (let i = 0; i < 6; i++) {
      const wanted = kept(scope(() => step(byHand, token(i), convByHand)))
      expect(await graph.run(token(i)).data()).toEqual(await wanted.data())
      expect(await mine.data()).toEqual(await byHand.data())
      expect(conv.dataSync()).toEqual(convByHand.dataSync())
    }
  })

  test('can be read and changed between runs, while reads are under way', async () => {
    const [mine, conv] = states()
    const [byHand, convByHand] = states()
    const early = mine.data() // under way when it is captured
    const start = await kept(mine.clone()).data()
    const graph = captured(dut.capture((x) => step(mine, x, conv), token(0)))
    expect(await early).toEqual(start)
    const reads: Promise<unknown>[] = []
    const wanted: unknown[] = []
    for (let i = 0; i < 8; i++) {
      if (i === 4) {
        for (const t of [mine, byHand]) t.copyFrom(kept(random('other', 1, 2, 2)))
        scope(() => [step(mine, token(9), conv), step(byHand, token(9), convByHand)]).forEach((t) => t.dispose())
      }
      graph.run(token(i))
      reads.push(mine.data(), mine.narrow(2, 1, 1).data())
      scope(() => void step(byHand, token(i), convByHand))
      wanted.push(byHand.dataSync().slice(), byHand.narrow(2, 1, 1).dataSync().slice())
    }
    expect(await Promise.all(reads)).toEqual(wanted)
    expect(await mine.data()).toEqual(await byHand.data())
  })

  test('and arrays that were handed out stay as they are', async () => {
    const n = 5000 // more bytes than are copied at any rate
    const all = (value: number): Float32Array => new Float32Array(n).fill(value)
    const [x, one] = [kept(zeros([n], at)), kept(tensor(all(1), at))]
    const seen = [x.dataSync()]
    const graph = captured(
      dut.capture(() => {
        x.copyFrom(add(x, one))
        return mul(x, x)
      }),
    )
    for (let i = 1; i < 5; i++) {
      const out = graph.run()
      if (i % 2) seen.push(x.dataSync(), out.dataSync())
      else seen.push((await x.data()) as Float32Array, (await out.data()) as Float32Array)
    }
    expect(seen).toEqual([0, 1, 1, 2, 4, 3, 9, 4, 16].map(all))
  })

  test('may be disposed: the graph keeps the memory', async () => {
    const [mine, conv] = states()
    const [byHand, convByHand] = states()
    const graph = captured(dut.capture((x) => step(mine, x, conv), token(0)))
    graph.run(token(0))
    scope(() => void step(byHand, token(0), convByHand))
    mine.dispose()
    conv.dispose()
    for (let i = 0; i < 30; i++) kept(tensor([9, 9, 9, 9, 9, 9], at))
    for (let i = 1; i < 4; i++) {
      const wanted = kept(scope(() => step(byHand, token(i), convByHand)))
      expect(await graph.run(token(i)).data()).toEqual(await wanted.data())
    }
  })

  test('shares no memory with another argument of the op that changes it', async () => {
    const state = kept(random('shared', 2, 2, 2))
    const x = state.narrow(2, 0, 1).reshape(2, 2)
    const change = (): Tensor => selectiveStateUpdate(state, x, x, [[-1, -2], [-3, -4]], [[1, 2], [3, 4]], [[3, 4], [5, 6]]) // prettier-ignore
    kept(x)
    expect(() => dut.capture(() => change())).toThrow(codeOf('ERR_UNSUPPORTED'))
    const wanted = await values(kept(change()))
    const graph = captured(dut.capture(() => add(state, state)))
    expect(change).toThrow(codeOf('ERR_UNSUPPORTED'))
    graph.dispose()
    expect(wanted.length).toBe(4)
    kept(change())
  })

  test('inside, memory made inside may', async () => {
    const start = kept(random('inside', 2, 2, 2))
    const change = (): Tensor => {
      const state = start.clone()
      const x = state.narrow(2, 0, 1).reshape(2, 2)
      const y = selectiveStateUpdate(state, x, x, [[-1, -2], [-3, -4]], [[1, 2], [3, 4]], [[3, 4], [5, 6]]) // prettier-ignore
      return add(y, state.narrow(2, 1, 1).reshape(2, 2))
    }
    const graph = captured(dut.capture(change))
    const wanted = await values(kept(scope(change)))
    for (let i = 0; i < 3; i++) expect(await values(graph.run())).toEqual(wanted)
  })

  test('a counter on the device: each run draws anew, as with the step given by hand', async () => {
    const logits = kept(random('logits', 40, 30))
    for (const dtype of ['int32', 'int64'] as const) {
      const counter = kept(tensor([3], at).to(dtype))
      const options = { seed: 11, temperature: 0.8, topP: 0.9 }
      const graph = captured(
        dut.capture((x) => {
          const drawn = sample(x, { ...options, step: counter })
          increment(counter, 2)
          return drawn
        }, logits),
      )
      for (const step of [3, 5, 7, 9])
        expect([step, await values(graph.run())]).toEqual([
          step,
          await values(kept(sample(logits, { ...options, step }))),
        ])
      expect(await values(counter)).toEqual([11])
    }
  })
})

describe('a bad index in a graph', () => {
  const table = (): Tensor => kept(put(new Random('table').normal([4, 3])))
  const ids = (...list: number[]): Tensor => kept(tensor(Int32Array.from(list), at))
  const told = codeOf('ERR_INDEX', /embedding/)

  test('is told by the first read after the run that met it, at each such run', async () => {
    const graph = captured(dut.capture((i) => embedding(i, table()), ids(1)))
    for (let round = 0; round < 3; round++) {
      const bad = graph.run(ids(9))
      await expect(bad.data()).rejects.toThrow(told)
      expect(await values(bad)).toEqual([0, 0, 0])
      expect((await values(graph.run(ids(2)))).length).toBe(3)
      graph.run(ids(-7))
      await expect(dut.synchronize()).rejects.toThrow(told)
      await dut.synchronize()
    }
  })

  test('is not told by a read that was asked for before the run', async () => {
    const other = kept(tensor([1, 2], at))
    const graph = captured(dut.capture((i) => embedding(i, table()), ids(1)))
    for (let round = 0; round < 6; round++) {
      const pending = kept(add(other, other)).data()
      const t = graph.run(ids(9))
      expect(await pending).toEqual(Float32Array.of(2, 4))
      await expect(t.data()).rejects.toThrow(told)
    }
  })

  test('of two the first is named, with the number of its run', async () => {
    const graph = captured(dut.capture((i) => embedding(i, table()), ids(1)))
    graph.run(ids(1))
    graph.run(ids(9))
    const numbers: number[] = []
    for (let i = 0; i < 2; i++) {
      graph.run(ids(9))
      const message = await dut.synchronize().then(
        () => '',
        (e: Error) => e.message,
      )
      numbers.push(Number(/op (\d+) of/.exec(message)?.[1]))
    }
    expect(numbers[1]).toBeGreaterThan(numbers[0]!)
  })
})

describe('what a captured function may not do', () => {
  const x = (): Tensor => kept(tensor([1, 2], at))
  // On the CPU the function is called by run.
  const attempt = (fn: (t: Tensor) => unknown, t = x()): void => {
    const graph = dut.capture(fn, t)
    try {
      graph.run()
    } finally {
      graph.dispose()
    }
  }

  test.each<[string, (t: Tensor) => unknown]>([
    ['dataSync', (t) => t.dataSync()],
    ['synchronizeSync', () => dut.synchronizeSync()],
    ['lastKernel', () => debug.lastKernel(dut)],
    ['another capture', () => dut.capture(() => 1)],
    ['a run of another graph', () => other.run()],
    ...(on === 'cuda' ? ([['to another device', (t) => t.to('cpu')]] as [string, (t: Tensor) => unknown][]) : []),
  ])('%s', async (_, fn) => {
    other = captured(dut.capture((t: Tensor) => add(t, t), x()))
    expect(() => attempt((t) => [add(t, t), fn(t)])).toThrow(codeOf('ERR_UNSUPPORTED'))
    expect(await values(kept(add([1], x())))).toEqual([2, 3])
    expect(await values(other.run())).toEqual([2, 4])
  })
  let other: Graph<Tensor, Tensor>

  test.each<[string, (t: Tensor) => Promise<unknown>]>([
    ['data', (t) => t.data()],
    ['toFloat32', (t) => t.toFloat32()],
    ['synchronize', () => dut.synchronize()],
  ])('%s', async (_, fn) => {
    let promise: Promise<unknown> | undefined
    attempt((t) => {
      promise = fn(t)
      promise.catch(() => undefined)
    })
    await expect(promise).rejects.toThrow(codeOf('ERR_UNSUPPORTED'))
    expect(await values(kept(add([1], x())))).toEqual([2, 3])
  })

  test('return a promise', () => {
    const late = async (t: Tensor): Promise<Tensor> => add(t, t)
    expect(() => attempt(late)).toThrow(codeOf('ERR_OPTION', /capture: expected a synchronous function/))
  })

  test('throw: its errors come through, and the next op is as before', async () => {
    const state = x()
    for (let i = 0; i < 5; i++) {
      expect(() =>
        attempt((t) => {
          state.copyFrom(add(t, t))
          silu(t)
          throw new Error('mine')
        }),
      ).toThrow('mine')
      expect(() => attempt((t) => add(silu(t), [1, 2, 3]))).toThrow(codeOf('ERR_SHAPE'))
    }
    expect(await values(kept(add(x(), x())))).toEqual([2, 4])
  })

  test('harm the inputs: it has handles of its own', async () => {
    const input = x()
    const graph = captured(
      dut.capture((t: Tensor) => {
        const out = add(t, t)
        t.copyFrom(out)
        t.dispose()
        return out
      }, input),
    )
    for (let i = 0; i < 3; i++) expect(await values(graph.run(input))).toEqual([2, 4])
    expect(await values(input)).toEqual([1, 2])
  })
})

describe('mistakes are errors at the call', () => {
  const graph = (): Graph<{ readonly a: Tensor; readonly list: readonly [Tensor] }, Tensor> =>
    captured(
      dut.capture(({ a, list }) => add(a, list[0]), {
        a: kept(tensor([1, 2], at)),
        list: [kept(tensor([[1], [2]], at))],
      }),
    )
  const good = (): { a: Tensor; list: [Tensor] } => ({
    a: kept(tensor([3, 4], at)),
    list: [kept(tensor([[5], [6]], at))],
  })

  test.each<[string, (g: ReturnType<typeof good>) => unknown, string, RegExp]>([
    [
      'another shape',
      (g) => ({ ...g, a: kept(tensor([1], at)) }),
      'ERR_SHAPE',
      /^inputs.a: expected shape \(2\), .*, got \(1\)$/,
    ],
    [
      'another dtype',
      (g) => ({ ...g, a: kept(g.a.to('int32')) }),
      'ERR_DTYPE',
      /^inputs.a: expected float32, .*, got int32$/,
    ],
    ['one that was disposed', (g) => (g.list[0].dispose(), g), 'ERR_DISPOSED', /^inputs.list\[0\]: /],
    ['one too few', ({ a }) => ({ a }), 'ERR_SHAPE', /^inputs: expected a, list, .*, got a$/],
    ['one too many', (g) => ({ ...g, b: g.a }), 'ERR_SHAPE', /^inputs: /],
    ['an empty list', (g) => ({ ...g, list: [] }), 'ERR_SHAPE', /^inputs.list: /],
    ['numbers', (g) => ({ ...g, a: 5 }), 'ERR_DTYPE', /^inputs.a: /],
    ['another form', (g) => ({ ...g, a: [g.a] }), 'ERR_DTYPE', /^inputs.a: /],
    ['null', () => null, 'ERR_DTYPE', /^inputs: /],
  ])('%s', async (_, wrong, code, message) => {
    const g = graph()
    expect(await values(g.run(good()))).toEqual([8, 9, 9, 10])
    expect(() => g.run(wrong(good()) as never)).toThrow(codeOf(code, message))
    expect(await values(g.run())).toEqual([8, 9, 9, 10]) // nothing was taken over
  })

  test('inputs of a graph that has none', () => {
    const g = captured(dut.capture(() => 1))
    expect(() => g.run(kept(tensor([1], at)) as never)).toThrow(codeOf('ERR_OPTION', /^inputs: expected none/))
  })

  test('what is no function, and inputs that are none', () => {
    expect(() => dut.capture(5 as never)).toThrow(codeOf('ERR_OPTION', /^capture: expected a function, got 5$/))
    expect(() => dut.capture((x) => x, [1, 2] as never)).toThrow(codeOf('ERR_DTYPE', /^inputs\[0\]: /))
    const gone = tensor([1], at)
    gone.dispose()
    expect(() => dut.capture((x) => x, gone)).toThrow(codeOf('ERR_DISPOSED', /^inputs: /))
  })

  test.runIf(on === 'cuda')('inputs on another device', () => {
    const there = tensor([1, 2], { device: 'cpu' })
    expect(() => dut.capture((x) => x, there)).toThrow(codeOf('ERR_DEVICE', /^inputs: /))
    const g = captured(dut.capture((x: Tensor) => silu(x), kept(tensor([1, 2], at))))
    expect(() => g.run(there)).toThrow(codeOf('ERR_DEVICE', /^inputs: expected a tensor on cuda:0, got one on cpu$/))
    there.dispose()
  })
})

describe('dispose', () => {
  test('leaves nothing behind', () => {
    const state = kept(random('nothing', 5, 5))
    const input = kept(random('input', 5, 5))
    const fn = (t: Tensor): Tensor[] => {
      const u = silu(linear(t, state, { bias: [1, 2, 3, 4, 5] }))
      state.copyFrom(u)
      return [u, u.transpose(0, 1), zeros([7], at)]
    }
    const before = live() // nothing is left to the collector from here on: it cannot run
    for (let runs = 0; runs < 5; runs++) {
      const graph = dut.capture(fn, input)
      for (let i = 0; i < runs; i++) graph.run(input)
      graph.dispose()
      expect(() => {
        const failing = dut.capture((t: Tensor) => [fn(t), add(t, [1, 2, 3])], input)
        captured(failing).run()
      }).toThrow()
    }
    for (const g of graphs) g.dispose()
    dut.synchronizeSync()
    expect(live()).toEqual(before)
  })

  test('twice does nothing; a run after it throws; its results are gone, what was made of them is not', async () => {
    const x = kept(tensor([1, 2], at))
    const graph = dut.capture((t: Tensor) => add(t, t), x)
    const out = graph.run()
    const copy = kept(out.clone())
    const view = kept(out.narrow(0, 1, 1))
    expect(graph.disposed).toBe(false)
    graph.dispose()
    graph.dispose()
    expect([graph.disposed, out.disposed]).toEqual([true, true])
    expect(() => graph.run()).toThrow(codeOf('ERR_DISPOSED', /graph: expected a live Graph/))
    for (let i = 0; i < 30; i++) kept(tensor([7, 7], at))
    expect([await values(copy), await values(view)]).toEqual([[2, 4], [4]])
  })

  test('right after a run, a read under way', async () => {
    for (let i = 0; i < 20; i++) {
      const graph = dut.capture((t: Tensor) => linear(silu(t), t), kept(random('late', 60, 60)))
      const wanted = i % 3 ? graph.run().dataSync() : undefined
      if (i % 2) graph.run()
      const pending = graph.run().data()
      graph.dispose()
      kept(tensor(new Float32Array(3600).fill(NaN), at))
      const got = (await pending) as Float32Array
      expect(got.some(Number.isNaN)).toBe(false)
      if (wanted) expect(got).toEqual(wanted)
    }
  })

  test('of a graph that never ran', () => {
    dut.capture((t: Tensor) => silu(add(t, t)), kept(tensor([1, 2], at))).dispose()
  })

  test('results may be disposed before the graph', async () => {
    const graph = captured(dut.capture((t: Tensor) => ({ a: add(t, t), b: mul(t, t) }), kept(tensor([1, 2], at))))
    const { a, b } = graph.run()
    a.dispose()
    for (let i = 0; i < 3; i++) {
      const other = kept(tensor([5, 5], at))
      graph.run(kept(tensor([3, 4], at)))
      expect([await values(b), await values(other)]).toEqual([
        [9, 16],
        [5, 5],
      ])
    }
  })

  test('Symbol.dispose, where the runtime has it', () => {
    const symbol = (Symbol as { dispose?: symbol }).dispose
    const graph = dut.capture(() => 1) as Graph & Record<symbol, () => void>
    if (symbol) graph[symbol]!()
    else graph.dispose()
    expect(graph.disposed).toBe(true)
  })

  test('Graph is not made by new', () => {
    const made = captured(dut.capture(() => 1))
    expect(() => new (made.constructor as new () => unknown)()).toThrow(/device.capture/)
  })
})

test.runIf(on === 'cuda')('the CPU and a GPU agree on what a capture is', async () => {
  const results = [dut, device('cpu')].map(async (d) => {
    const state = tensor([1, 1], { device: d })
    const g = d.capture(
      (x: Tensor) => {
        state.copyFrom(add(state, x))
        return [mul(state, x), state] as const
      },
      tensor([2, 3], { device: d }),
    )
    const seen: unknown[] = [await values(state)]
    for (const v of [1, 2, 3]) {
      const [y, s] = g.run(kept(tensor([v, -v], { device: d })))
      seen.push(await values(y), s === state, await values(s))
    }
    g.dispose()
    seen.push(state.disposed, await values(state))
    state.dispose()
    return seen
  })
  const [gpu, cpu] = await Promise.all(results)
  expect(gpu).toEqual(cpu)
})
