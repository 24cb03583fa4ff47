import { expect, test } from 'vitest'
import { argmax, sample, tensor } from '../../lib/index.js'
import { NDArray } from '../reference/array.js'
import { sample as reference, type SampleOptions } from '../reference/sample.js'
import { describeOp, dut, expectKernel, on, put, take } from '../support/device.js'
import { floatTypes, halfTypes, rounded } from '../support/floats.js'
import { layouts, place } from '../support/layout.js'
import { describeCase, pairwise } from '../support/pairwise.js'
import { Random } from '../support/random.js'

// Below this the exponential's last bit may decide; nothing drawn here is as near but by the rarest chance.
const undecided = 1e-9

async function check(
  logits: NDArray,
  options: SampleOptions,
  drawn = sample(put(logits), options as object),
): Promise<void> {
  const got = await take(drawn)
  expect([drawn.shape, drawn.dtype]).toEqual([logits.shape.slice(0, -1), 'int32'])
  reference(logits, options).forEach(({ token, margin }, row) => {
    if (margin > undecided) expect([row, got.data[row]]).toEqual([row, token])
  })
}

describeOp('sample', () => {
  const grid = pairwise({
    rows: [[], [1], [3], [2, 7], [33]],
    n: [1, 2, 7, 16, 17, 100, 257, 2050],
    layout: layouts,
    temperature: [undefined, 1, 0.3, 5, 1e-6, 0],
    topK: [undefined, 0, 1, 3, 50, 5000],
    topP: [undefined, 1, 0.9, 0.5, 0.01, 0],
    seed: [undefined, 0, 1, 12345, 2 ** 32 + 7, 2 ** 53 - 1],
    step: [undefined, 0, 1, 1000, 2 ** 40],
    spread: [0.01, 1, 4, 30],
    ties: [false, true],
    dtype: floatTypes,
  })
  test.each(grid.map((c) => ({ c, name: describeCase({ ...c, rows: c.rows.join('x') }) })))(
    '$name',
    async ({ c, name }) => {
      const { rows, n, layout, spread, ties, dtype, ...given } = c
      let logits = new Random(name).normal([...rows, n], spread)
      if (ties) logits = logits.map((v) => Math.round(v))
      logits = rounded(logits, dtype)
      const options = Object.fromEntries(Object.entries(given).filter(([, v]) => v !== undefined)) as SampleOptions
      const drawn = sample(place(logits, layout, dtype), options as object)
      expectKernel('sample')
      await check(logits, options, drawn)
    },
  )

  test('each step, each seed and each row draws anew, and the same draw comes again', async () => {
    const logits = new NDArray([64, 50])
    const draws = new Set<string>()
    for (let seed = 0; seed < 3; seed++)
      for (let step = 0; step < 5; step++) {
        const once = Array.from((await take(sample(put(logits), { seed, step }))).data)
        expect(Array.from((await take(sample(put(logits), { seed, step }))).data)).toEqual(once)
        expect(new Set(once).size).toBeGreaterThan(25) // of 64 rows over 50 equal tokens
        draws.add(once.join())
      }
    expect(draws.size).toBe(15)
  })

  test('the step as a counter on the device draws what the number draws', async () => {
    const logits = new Random('counter').normal([20, 300], 3)
    for (const options of [{}, { topK: 9 }, { topP: 0.7, temperature: 2 }, { temperature: 0 }])
      for (const step of [0, 1, 77, 2 ** 31 - 1, -5]) {
        const wanted = await sample(put(logits), { ...options, seed: 5, step }).data()
        for (const dtype of ['int32', 'int64'] as const) {
          const counter = tensor(Int32Array.of(step), { device: dut }).to(dtype)
          for (const shaped of [counter, counter.reshape([]), counter.reshape(1, 1)])
            expect(await sample(put(logits), { ...options, seed: 5, step: shaped }).data()).toEqual(wanted)
          expect(Array.from(await counter.data(), Number)).toEqual([step]) // it is only read
        }
      }
    const far = tensor(BigInt64Array.of(2n ** 40n), { device: dut })
    expect(await sample(put(logits), { step: far }).data()).toEqual(
      await sample(put(logits), { step: 2n ** 40n }).data(),
    )
  })

  test('as often as the probabilities say', async () => {
    const p = [0.5, 0.25, 0.15, 0.07, 0.03]
    const rows = 4000
    const logits = new NDArray([rows, 5]).map((_, i) => Math.fround(Math.log(p[i % 5]!)))
    const count = [0, 0, 0, 0, 0]
    for (let step = 0; step < 5; step++)
      for (const i of Array.from((await take(sample(put(logits), { seed: 3, step }))).data)) count[i]!++
    const draws = rows * 5
    const chi2 = count.reduce((a, k, i) => a + (k - draws * p[i]!) ** 2 / (draws * p[i]!), 0)
    expect(chi2).toBeLessThan(18.5) // the 99.9th percentile for 4 degrees of freedom
  })

  test('temperature 0, NaN and infinities: the argmax', async () => {
    const x = new NDArray([6, 20]).map((_, i) => (i * 7) % 20)
    x.set(NaN, 1, 4)
    x.set(Infinity, 2, 5)
    x.set(Infinity, 2, 9)
    for (let i = 0; i < 20; i++) x.set(-Infinity, 3, i)
    x.set(NaN, 4, 19)
    x.set(Infinity, 4, 2)
    const greedy = Array.from((await take(argmax(put(x)))).data)
    expect(Array.from((await take(sample(put(x), { temperature: 0 }))).data)).toEqual(greedy)
    for (const options of [{}, { topK: 3 }, { topP: 0.4 }, { topK: 7, topP: 0.9, temperature: 2 }])
      expect(Array.from((await take(sample(put(x), options))).data).slice(1, 5)).toEqual(greedy.slice(1, 5))
  })

  test.runIf(on === 'cuda')('a GPU draws what the CPU draws', async () => {
    const logits = new Random('both').normal([200, 3000], 3)
    const cpu = tensor(Float32Array.from(logits.data), { shape: [200, 3000], device: 'cpu' })
    for (const options of [
      {},
      { topK: 40 },
      { topP: 0.9 },
      { topK: 500, topP: 0.8, temperature: 0.6, seed: 7, step: 3 },
    ])
      expect(await sample(put(logits), options).data()).toEqual(await sample(cpu, options).data())
  })

  test.each(halfTypes)('%s logits draw what the same values in float32 do', async (dtype) => {
    const logits = rounded(new Random(dtype).normal([20, 3000], 3), dtype)
    for (const options of [{}, { topK: 40 }, { topP: 0.9, seed: 3 }, { temperature: 0 }])
      expect(await sample(put(logits, dtype), options).data()).toEqual(await sample(put(logits), options).data())
  })

  test('−∞ is never drawn', async () => {
    const logits = new NDArray([500, 6]).map((_, i) => (i % 2 ? 0 : -Infinity))
    for (const options of [{}, { topK: 5 }, { topP: 0.99 }])
      for (const i of Array.from((await take(sample(put(logits), options))).data)) expect(i % 2).toBe(1)
  })

  test('a large vocabulary', async () => {
    const logits = new Random('large').normal([3, 50280], 3)
    for (const options of [
      { seed: 1 },
      { seed: 2, topK: 50 },
      { seed: 3, topP: 0.9 },
      { seed: 4, topK: 1000, topP: 0.95, temperature: 0.7 },
    ])
      await check(logits, options)
  })

  test('a counter that is none is refused', () => {
    const logits = put(new NDArray([2, 5]))
    const wrong = [
      [tensor(Int32Array.of(1, 2), { device: dut }), 'ERR_SHAPE'],
      [tensor([1], { device: dut }), 'ERR_DTYPE'],
      ['1', 'ERR_OPTION'],
    ] as const
    for (const [step, code] of wrong)
      expect(() => sample(logits, { step: step as never })).toThrow(
        expect.objectContaining({ code, message: expect.stringMatching(/^step: expected .*, got /) }),
      )
  })

  test.each([
    ['temperature', { temperature: -1 }],
    ['temperature', { temperature: NaN }],
    ['topK', { topK: -1 }],
    ['topK', { topK: 1.5 }],
    ['topP', { topP: 1.1 }],
    ['topP', { topP: -0.1 }],
    ['seed', { seed: NaN }],
    ['step', { step: 1.5 }],
    ['seed', { seed: 0.5 }],
  ])('%s: %j is refused', (what, options) => {
    expect(() => sample(put(new NDArray([2, 5])), options)).toThrow(
      expect.objectContaining({
        code: 'ERR_OPTION',
        message: expect.stringMatching(new RegExp(`^${what}: expected .*, got `)),
      }),
    )
  })
})
