// Bad input by the hundred: every public function with some of its arguments replaced by what nobody should pass. Each call
// must give an error that says what, expected and got, with a code, or a result whose every element can be read; and leave no
// tensor behind. (A crash or a hang is a failure of the whole file.)
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { SeqmixError, Tensor, debug, device, memory, scope, setThreads, tensor, zeros } from '../../lib/index.js'
import { dut } from '../support/device.js'
import { Trap, anything, calls, hostile, type Call } from './hostile.js'

const codes = /^ERR_(SHAPE|DTYPE|DEVICE|DISPOSED|OPTION|OUT_OF_MEMORY|UNSUPPORTED|INDEX)$/
const seed = 20260801
const threads = device('cpu').info.threads!

function expectClean(error: unknown): void {
  if (error instanceof Trap) return
  const { code, message } = error as { code?: unknown; message: string }
  const kind = error instanceof TypeError || error instanceof RangeError || error instanceof SeqmixError
  const grammar = /^[^\n]+: expected [^\n]+, got [^\n]+$/.test(message) && message.length < 600
  if (kind && grammar && (codes.test(String(code)) || /got new$/.test(message))) return
  throw new Error(`not a clean error: ${String(error)} (code ${String(code)})`, { cause: error })
}

/** Reads every element of every tensor in a result. */
function readAll(value: unknown): void {
  if (Tensor.isTensor(value)) {
    if (value.disposed) return
    expect(value.dataSync().length).toBe(value.size)
    expect(value.size).toBe(product(value.shape))
    expect(String(value)).toContain(value.dtype)
  } else if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    Object.values(value).forEach(readAll)
  }
}

/** One call; nothing that it made may be left. */
function attempt(run: () => unknown): void {
  const before = memory()[dut.name]!.tensors
  try {
    scope(() => {
      readAll(run())
    })
  } catch (error) {
    expectClean(error)
  }
  expect(memory()[dut.name]!.tensors).toBe(before)
}

/** The call, with some arguments (by number) and options (by name) replaced. */
function replaced(call: Call, changes: readonly [place: number, what: string][], extra?: [string, string]): unknown {
  const args = call.args()
  const options = call.options?.()
  const names = options ? Object.keys(options) : []
  for (const [place, what] of changes) {
    const at = place % (args.length + names.length + (options ? 1 : 0))
    if (at < args.length) args[at] = hostile[what]!()
    else if (at < args.length + names.length) options![names[at - args.length]!] = hostile[what]!()
    else return (call.run as (...a: unknown[]) => unknown)(...args, hostile[what]!())
  }
  if (options && extra) options[extra[0]] = hostile[extra[1]]!()
  return (call.run as (...a: unknown[]) => unknown)(...(options ? [...args, options] : args))
}

afterAll(() => {
  setThreads(threads)
  debug.poison(false)
})

describe.each(Object.keys(calls))('%s', (name) => {
  const call = calls[name]!
  const places = call.args().length + (call.options ? Object.keys(call.options()).length + 1 : 0)

  test('works with good arguments', () => {
    scope(() => {
      if (!name.startsWith('new ')) readAll(replaced(call, []))
    })
  })

  test('with each argument bad in turn', () => {
    for (let place = 0; place < places; place++)
      for (const what of Object.keys(hostile)) {
        try {
          attempt(() => replaced(call, [[place, what]]))
        } catch (cause) {
          throw new Error(`argument ${place}: ${what}: ${String(cause)}`, { cause })
        }
      }
  })

  test('with several bad at once', () => {
    const change = fc.tuple(fc.nat(places - 1), anything)
    fc.assert(
      fc.property(
        fc.array(change, { minLength: 2, maxLength: 4 }),
        fc.option(fc.tuple(fc.string(), anything)),
        (changes, extra) => attempt(() => replaced(call, changes, extra ?? undefined)),
      ),
      { seed, numRuns: 250 },
    )
  })

  test('with arguments left out', () => {
    for (let n = 0; n < call.args().length; n++)
      attempt(() => (call.run as (...a: unknown[]) => unknown)(...call.args().slice(0, n)))
  })

  test.runIf(call.options)('with an option misspelled', () => {
    for (const option of Object.keys(call.options!())) {
      const wrong = option.slice(0, -1) + option.at(-1)!.toUpperCase() + 's'
      const run = (): unknown =>
        scope(() => void (call.run as (...a: unknown[]) => unknown)(...call.args(), { [wrong]: 1 }))
      expect(run).toThrow(`options: expected ${option}, got ${wrong}`)
    }
  })
})

describe('shapes at random', () => {
  const sizes = fc.oneof(
    { weight: 8, arbitrary: fc.nat(4) },
    { weight: 1, arbitrary: fc.constantFrom(-1, 0, 1.5, NaN, 2 ** 31, 2 ** 40, 2 ** 53 - 1, 2 ** 53) },
  )
  const shape = fc.array(sizes, { maxLength: 9 })

  test('empty and zeros', () => {
    fc.assert(
      fc.property(shape, (s) => {
        const elements = product(s)
        if (elements > 1e6 && elements < 2 ** 40) return // there may be so much memory
        attempt(() => zeros(s))
      }),
      { seed, numRuns: 400 },
    )
  })

  test('every op with tensors of random shapes and layouts', () => {
    const random = fc
      .tuple(
        fc.array(fc.nat(5), { maxLength: 5 }),
        fc.nat(),
        fc.constantFrom('float32', 'float32', 'float32', 'int32', 'int64'),
      )
      .map(([dims, how, dtype]) => () => {
        let t = zeros(dims, { dtype: dtype as 'float32' })
        if (dims.length > 1 && how % 2) t = t.transpose(0, -1)
        if (dims.length > 0 && how % 3 === 0)
          t = t.narrow(how % dims.length, 0, Math.floor(t.shape[how % dims.length]! / 2))
        return t
      })
    const ops = Object.keys(calls).filter(
      (name) => name !== 'keep' && !name.startsWith('new ') && calls[name]!.args().some((a) => a instanceof Tensor),
    )
    fc.assert(
      fc.property(
        fc.constantFrom(...ops),
        fc.array(random, { minLength: 8, maxLength: 8 }),
        fc.nat(),
        (name, tensors, which) =>
          attempt(() => {
            const call = calls[name]!
            const options = call.options?.() ?? {}
            const mix = (value: unknown, i: number): unknown =>
              value instanceof Tensor && (which >> i) % 2 ? tensors[i % 8]!() : value
            const args = call.args().map(mix)
            const changed = Object.entries(options).map(([key, value], i) => [key, mix(value, i + args.length)])
            return (call.run as (...a: unknown[]) => unknown)(
              ...args,
              ...(call.options ? [Object.fromEntries(changed)] : []),
            )
          }),
      ),
      { seed, numRuns: 2500 },
    )
  })

  test('chains of views read what they should', () => {
    const step = fc.tuple(
      fc.constantFrom('transpose', 'narrow', 'reshape', 'contiguous', 'clone'),
      fc.nat(),
      fc.nat(),
      fc.nat(),
    )
    fc.assert(
      fc.property(fc.array(fc.nat(4), { maxLength: 4 }), fc.array(step, { maxLength: 7 }), (dims, steps) => {
        scope(() => {
          let want = Array.from({ length: product(dims) }, (_, i) => i) // the elements in row-major order
          let t = tensor(Int32Array.from(want), { shape: dims })
          for (const [kind, a, b, c] of steps) {
            const { shape } = t
            const rank = shape.length
            // What t becomes, and where in the old shape the element at an index of the new one was.
            let was = (index: number[]): number[] => index
            if (kind === 'transpose' && rank > 0) {
              const [i, j] = [a % rank, b % rank]
              t = t.transpose(i, j)
              was = (index) => index.map((_, d) => index[d === i ? j : d === j ? i : d]!)
            } else if (kind === 'narrow' && rank > 0) {
              const d = a % rank
              const from = b % (shape[d]! + 1)
              t = t.narrow(d, from, c % (shape[d]! - from + 1))
              was = (index) => index.map((n, e) => (e === d ? n + from : n))
            } else if (kind === 'reshape') {
              const order = [...shape, 1].sort((m, n) => ((m * 31 + a) % 7) - ((n * 31 + a) % 7))
              t = t.reshape(order.length > 8 ? shape : order)
              continue
            } else if (kind === 'contiguous') t = t.contiguous()
            else if (kind === 'clone') t = t.clone()
            want = indices(t.shape).map((index) => want[flat(was(index), shape)]!)
          }
          expect([...t.dataSync()]).toEqual(want)
        })
      }),
      { seed, numRuns: 1000 },
    )
  })
})

function product(shape: readonly number[]): number {
  return shape.reduce((n, m) => n * m, 1)
}

/** Of every element, in row-major order. */
function indices(shape: readonly number[]): number[][] {
  return shape.reduce<number[][]>((all, n) => all.flatMap((i) => Array.from({ length: n }, (_, j) => [...i, j])), [[]])
}

function flat(index: readonly number[], shape: readonly number[]): number {
  return index.reduce((n, i, d) => n * shape[d]! + i, 0)
}

describe('index tensors of any values', () => {
  const index = fc.oneof(fc.integer({ min: -3, max: 5 }), fc.constantFrom(2 ** 31 - 1, -(2 ** 31)))
  test.each(['embedding', 'causalConv1dUpdate', 'selectiveStateUpdate'])('%s', (name) => {
    fc.assert(
      fc.property(
        fc.array(index, { minLength: 3, maxLength: 3 }),
        fc.array(index, { minLength: 2, maxLength: 2 }),
        (three, two) =>
          attempt(() => {
            const call = calls[name]!
            const args = call.args()
            const options = call.options?.()
            if (name === 'embedding') args[0] = tensor(three, { dtype: 'int32' })
            for (const key of ['cacheSeqlens', 'stateIndices']) {
              if (options && key in options)
                options[key] = tensor(key === 'stateIndices' ? two : three.slice(0, 2), { dtype: 'int32' })
            }
            return (call.run as (...a: unknown[]) => unknown)(...args, ...(options ? [options] : []))
          }),
      ),
      { seed, numRuns: 100 },
    )
  })
})

test('what a caller does to Object.prototype is not an option', () => {
  const proto = Object.prototype as unknown as Record<string, unknown>
  proto['nonsense'] = 5
  try {
    expect(zeros([2], { dtype: 'int32' }).dtype).toBe('int32')
  } finally {
    delete proto['nonsense']
  }
})

test('shapes that are given out cannot be changed', () => {
  const t = zeros([2, 3])
  expect(() => ((t.shape as number[])[0] = 1000)).toThrow(TypeError)
  expect(() => (t.strides as number[]).push(1)).toThrow(TypeError)
  expect(t.reshape(6).shape).toEqual([6])
  expect(() => ((dut as { id: number }).id = -1)).toThrow(TypeError)
})
