// What the tests measure with, measured.
import { describe, expect, test } from 'vitest'
import { debug, empty } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { mix, sample, splitmix64 } from '../reference/sample.js'
import { expectClose } from '../support/close.js'
import { dut } from '../support/device.js'
import { layouts, place } from '../support/layout.js'
import { pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'
import { formats } from '../support/float16.js'
import { floatTypes, fromBits, halfTypes, roundTo, rounded, toBits } from '../support/floats.js'

const on = 'cpu'

describe('expectClose', () => {
  const ref = new Random('close').normal([10, 100])
  const off = (change: (v: number, i: number) => number): NDArray => ref.map(change)
  const passes = (out: NDArray): void => void expectClose(out, ref, { on })
  const fails = (out: NDArray): void => expect(() => expectClose(out, ref, { on })).toThrow(/relative error|shape/)

  test('passes what is near and fails what is not', () => {
    passes(ref)
    passes(off((v) => v * (1 + 1.9e-6)))
    fails(off((v) => v * (1 + 2.1e-6)))
  })

  test('fails NaN, infinities, missing elements and another shape', () => {
    fails(off((v, i) => (i === 999 ? NaN : v)))
    fails(off((v, i) => (i === 0 ? Infinity : v)))
    fails(new NDArray([10, 99]))
    fails(ref.reshape([100, 10]))
    const infinite = new NDArray([1], [Infinity])
    expect(() => expectClose(infinite, infinite, { on })).toThrow()
  })

  test('fails one row that the whole would hide', () => {
    const long = new Random('long').normal([10000, 10])
    const row = long.map((v, i) => (i < 10 ? v * (1 + 5e-5) : v))
    expect(() => expectClose(row, long, { on })).toThrow(/worst row 0/)
  })

  test('measures a small row against the whole, and nothing but 0 against 0', () => {
    const small = ref.map((v, i) => (i < 100 ? v * 1e-9 : v))
    expectClose(
      small.map((v, i) => (i < 100 ? v * 2 : v)),
      small,
      { on },
    )
    const zero = new NDArray([3])
    expectClose(zero, zero, { on })
    expect(() => expectClose(new NDArray([3], [0, 1e-30, 0]), zero, { on })).toThrow()
  })

  test('widens to twice the error of a plain float32 evaluation, and no further', () => {
    const by = (e: number): NDArray => ref.map((v) => v * (1 + e))
    expectClose(by(1.9e-5), ref, { on, plain: () => by(1e-5) })
    expect(() => expectClose(by(2.1e-5), ref, { on, plain: () => by(1e-5) })).toThrow()
  })

  test('of 16 bits, passes a rounding and not two, and says when a dtype is not the one due', () => {
    for (const dtype of halfTypes) {
      const once = rounded(ref, dtype)
      expectClose(once, ref, { on, dtype })
      const unit = dtype === 'float16' ? 2 ** -10 : 2 ** -7
      const cut = ref.map((v) => roundTo(dtype)(v - (v * unit) / 2)) // towards zero: twice the error
      expect(() => expectClose(cut, ref, { on, dtype })).toThrow(/relative error/)
      expect(() => expectClose({ ...once, dtype: 'float32' }, ref, { on, dtype })).toThrow(/dtype/)
      expect(() => expectClose({ ...once, dtype }, once, { on })).toThrow(/dtype/)
      // Of one value, the nearest there is, however far that is.
      const one = new NDArray([1], [1 + 0.499 * unit])
      expectClose(rounded(one, dtype), one, { on, dtype })
      expect(() => expectClose(new NDArray([1], [1 + unit]), one, { on, dtype })).not.toThrow()
      expect(() => expectClose(new NDArray([1], [1 + 2 * unit]), one, { on, dtype })).toThrow()
    }
  })
})

test('the poison switch fills new memory with NaN', () => {
  debug.poison(true)
  expect(Array.from(empty([5], { device: dut }).dataSync() as Float32Array)).toEqual([NaN, NaN, NaN, NaN, NaN])
  debug.poison(false)
})

test('every layout holds the values it was given, and no two alike', async () => {
  const a = new Random('layout').normal([3, 4, 5])
  const strides = new Set<string>()
  for (const layout of layouts) {
    const t = place(a, layout)
    expect(t.shape).toEqual(a.shape)
    expect(Array.from((await t.data()) as Float32Array)).toEqual(Array.from(a.data))
    strides.add(t.strides.join())
  }
  expect(strides.size).toBe(layouts.length)
})

test('pairwise has every pair', () => {
  const factors = { a: [1, 2, 3], b: ['x', 'y'], c: [true, false], d: [0, 1, 2, 3] }
  const rows = pairwise(factors)
  expect(rows.length).toBeLessThan(20)
  for (const [p, ps] of Object.entries(factors))
    for (const [q, qs] of Object.entries(factors))
      if (p < q)
        for (const x of ps)
          for (const y of qs) expect(rows.some((r) => (r as never)[p] === x && (r as never)[q] === y)).toBe(true)
})

test('the random bits of sample are those of splitmix64', () => {
  // The generator's published first outputs for seed 0.
  expect(splitmix64(0n)).toBe(0xe220a8397b1dcdafn)
  expect(splitmix64(0x9e3779b97f4a7c15n)).toBe(0x6e789e6aa1b965f4n)
  expect(new Set([mix(0n, 0n, 0n), mix(0n, 0n, 1n), mix(0n, 1n, 0n), mix(1n, 0n, 0n)]).size).toBe(4)
})

test('the reference draws from what it should', () => {
  const logits = new NDArray([1, 4], [Math.log(0.4), Math.log(0.3), Math.log(0.2), Math.log(0.1)])
  const drawn = (options: object): Set<number> =>
    new Set(Array.from({ length: 200 }, (_, step) => sample(logits, { ...options, step })[0]!.token))
  expect(drawn({})).toEqual(new Set([0, 1, 2, 3]))
  expect(drawn({ topK: 2 })).toEqual(new Set([0, 1]))
  expect(drawn({ topP: 0.65 })).toEqual(new Set([0, 1]))
  expect(drawn({ topP: 0.75 })).toEqual(new Set([0, 1, 2]))
  expect(drawn({ temperature: 0 })).toEqual(new Set([0]))
})

test('16-bit formats against known values', () => {
  const { float16, bfloat16 } = formats
  expect([0x0001, 0x03ff, 0x0400, 0x3555, 0x7bff, 0xfc00].map(float16.decode)).toEqual([
    2 ** -24,
    1023 * 2 ** -24,
    2 ** -14,
    0.333251953125,
    65504,
    -Infinity,
  ])
  expect([65504, 65519.99, 65520, 2 ** -25, 2 ** -25 * 1.001, -0].map(float16.encode)).toEqual([
    0x7bff, 0x7bff, 0x7c00, 0, 1, 0x8000,
  ])
  expect([0x3f80, 0x4049, 0x7f7f, 0x0001].map(bfloat16.decode)).toEqual([
    1,
    3.140625,
    2 ** 127 * (2 - 2 ** -7),
    2 ** -133,
  ])
  expect([Math.PI, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.4e38].map(bfloat16.encode)).toEqual([0x4049, 0x3f80, 0x3f82, 0x7f80])
})

test('16-bit values, quickly, are what the formats say', () => {
  const random = new Random('quickly')
  for (const dtype of halfTypes) {
    const { decode, encode } = formats[dtype]
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i)
    const values = fromBits(all, dtype)
    expect(Array.from(values)).toEqual(Array.from(all, decode))
    const back = toBits(values, dtype)
    for (let i = 0; i < 65536; i++)
      if (Number.isNaN(values[i])) expect(decode(back[i]!)).toBeNaN()
      else if (back[i] !== i) expect([i, back[i]]).toEqual([i, i])
    const between = (x: number, by: number): number[] => [x * (1 - by), x, x * (1 + by)]
    const middles = Array.from({ length: 3000 }, () => random.int(0, 0x7f00)).flatMap((i) =>
      between((decode(i) + decode(i + 1)) / 2, 1e-12),
    )
    const odd = [0, -0, 65519.99, 65520, 3.39e38, 3.4e38, 1e300, 1e-300, 2 ** -25, 2 ** -134, Infinity]
    for (const x of [...middles, ...odd].flatMap((v) => [v, -v])) {
      const want = decode(encode(x))
      if (!Object.is(roundTo(dtype)(x), want)) expect([x, roundTo(dtype)(x)]).toEqual([x, want])
    }
    expect(roundTo(dtype)(NaN)).toBeNaN()
    expect(() => toBits([1 + 2 ** -12], dtype)).toThrow(/round the inputs/)
  }
  expect(floatTypes.map((t) => roundTo(t)(Math.PI))).toEqual([Math.fround(Math.PI), 3.140625, 3.140625])
})
