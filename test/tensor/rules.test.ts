import { describe, expect, test } from 'vitest'
import {
  add,
  cat,
  linear,
  memory,
  rmsNorm,
  scope,
  setThreads,
  silu,
  softmax,
  tensor,
  Tensor,
  zeros,
} from '../../lib/index.js'
import { dut } from '../support/device.js'

const on = { device: dut }
const coded = (code: string, message: RegExp): unknown =>
  expect.objectContaining({ code, message: expect.stringMatching(message) })

describe('dtypes are not mixed', () => {
  test('an op of floats given integers', () => {
    const ints = tensor(Int32Array.of(1, 2), on)
    expect(() => add(tensor([1, 2], on), ints)).toThrow(coded('ERR_DTYPE', /^b: expected float32 as a has, got int32/))
    expect(() => silu(ints)).toThrow(coded('ERR_DTYPE', /^x: expected float32, float16 or bfloat16, got int32/))
    expect(() => silu(tensor([true, false], on))).toThrow(
      coded('ERR_DTYPE', /^x: expected float32, float16 or bfloat16, got bool/),
    )
  })

  test.each(['float16', 'bfloat16'] as const)('activations of float32 and %s do not mix', (dtype) => {
    const half = tensor([[1, 2]], { ...on, dtype })
    const full = tensor([[1, 2]], on)
    for (const [run, message] of [
      [() => add(full, half), `b: expected float32 as a has, got ${dtype}`],
      [() => add(half, full), `b: expected ${dtype} as a has, got float32`],
      [
        () => linear([[1]], full.reshape(2, 1), { residual: half }),
        `residual: expected float32 as x has, got ${dtype}`,
      ],
      [() => rmsNorm(full, null, { residual: half }), `residual: expected float32 as x has, or float32, got ${dtype}`],
    ] as const)
      expect(run).toThrow(expect.objectContaining({ name: 'TypeError', code: 'ERR_DTYPE', message }))
  })
})

describe('options', () => {
  test('a misspelt one is an error that names the right one', () => {
    const x = tensor([[1, 2]], on)
    for (const [call, right] of [
      [() => rmsNorm(x, null, { epsilon: 1 } as object), 'eps'],
      [() => linear(x, x, { biass: x } as object), 'bias'],
      [() => linear(x, x, { Residual: x } as object), 'residual'],
      [() => tensor([1], { dType: 'int32' } as object), 'dtype'],
      [() => zeros([1], { divice: 'cpu' } as object), 'device'],
    ] as const)
      expect(call).toThrow(
        expect.objectContaining({
          name: 'TypeError',
          code: 'ERR_OPTION',
          message: expect.stringMatching(new RegExp(`expected ${right}, got `)),
        }),
      )
  })

  test('one that is undefined counts as absent, and so does null where a tensor may be', async () => {
    const x = tensor([[3, 4]], on)
    const plain = await rmsNorm(x, null).data()
    expect(await rmsNorm(x, null, { eps: undefined, residual: undefined }).data()).toEqual(plain)
    expect(await rmsNorm(x, null, { residual: null }).data()).toEqual(plain)
    expect(await linear(x, x, { bias: null, activation: null, residual: null }).data()).toEqual(Float32Array.of(25))
  })

  test('one of a wrong kind', () => {
    const x = tensor([[3, 4]], on)
    expect(() => rmsNorm(x, null, { eps: '1' as never })).toThrow(coded('ERR_OPTION', /^eps: expected .*, got '1'/))
    expect(() => rmsNorm(x, null, null as never)).toThrow(coded('ERR_OPTION', /^options: expected .*, got null/))
    expect(() => linear(x, x, { bias: 5 as never })).toThrow(coded('ERR_SHAPE', /^bias: expected .*, got /))
    expect(() => linear(x, x, { bias: 'b' as never })).toThrow(coded('ERR_DTYPE', /^bias: expected .*, got 'b'/))
  })

  test('threads', () => {
    for (const n of [0, -1, 1.5, NaN, '2' as never, 2 ** 31])
      expect(() => setThreads(n)).toThrow(coded('ERR_OPTION', /^threads: expected .*, got /))
  })
})

describe('inputs', () => {
  test('a plain input may be changed as soon as the op returns', async () => {
    const a = new Float32Array(200_000).fill(1)
    const sum = add(a, tensor(a, on))
    a.fill(9)
    expect((await sum.data()).every((v) => v === 2)).toBe(true)
  })

  test('a call that fails leaves no tensor behind', () => {
    const x = tensor([[1, 2]], on)
    const calls: (() => unknown)[] = [
      () => softmax([[1, 2]], { dim: 5 }),
      () => softmax(x, { dim: 5 }),
      () => tensor(x, { dtype: 'float64' as 'float32' }),
      () => tensor(x, { shape: [3] }),
      () => tensor(x, { device: 'cuda:99' }),
      () => add([1, 2, 3], x),
      () => add([1, 2], 'b' as never),
      () => x.copyFrom([1, 2, 3]),
      () => x.copyFrom([[1, 2]].concat([[3, 4]])),
      () => cat([x, [[1, 2, 3]]], 0),
      () => cat([x, [[1, 2]], 'x' as never], 0),
      () => x.reshape(5),
      () => x.to('nowhere'),
      () => zeros([2 ** 52], on),
    ]
    for (const call of calls) {
      const before = memory()[dut.name]!.tensors
      expect(() => scope(call)).toThrow(expect.objectContaining({ code: expect.stringMatching(/^ERR_/) }))
      const inScope = memory()[dut.name]!.tensors
      expect(call).toThrow()
      expect([call.toString(), inScope, memory()[dut.name]!.tensors]).toEqual([call.toString(), before, before])
    }
  })

  test('required ones', () => {
    for (const missing of [undefined, null])
      expect(() => add([1], missing as never)).toThrow(coded('ERR_DTYPE', /^b: expected .*, got (undefined|null)/))
  })

  test('a Tensor comes from an op or from tensor(), never from new', () => {
    expect(() => Reflect.construct(Tensor, [Symbol('x'), {}])).toThrow(TypeError)
  })

  test('more dimensions than there may be', () => {
    const x = zeros([1, 1, 1, 1, 1, 1, 1, 1], on)
    expect(silu(x).shape).toHaveLength(8)
    expect(() => x.reshape(1, 1, 1, 1, 1, 1, 1, 1, 1)).toThrow(coded('ERR_SHAPE', /at most 8/))
  })
})

describe('reading', () => {
  test('many at once, in any order', async () => {
    const x = tensor(
      Float32Array.from({ length: 5000 }, (_, i) => i),
      on,
    )
    const all = Array.from({ length: 50 }, (_, i) => ({ i, sum: add(x, tensor([i], on)) }))
    const pending = all.map(({ sum }) => sum.data())
    for (const { i, sum } of all.slice().reverse()) expect(sum.dataSync()[7]).toBe(7 + i)
    const read = await Promise.all(pending)
    read.forEach((data, i) => expect(data[4999]).toBe(4999 + i))
  })

  test('a long chain of ops, each input gone at once', async () => {
    const out = scope(() => {
      let x = tensor(new Float32Array(3000).fill(1), on)
      for (let i = 0; i < 300; i++) x = add(x, tensor([1], on))
      return x
    })
    expect((await out.data()).every((v) => v === 301)).toBe(true)
  })

  test('what is handed out is as large as the tensor, and its own', async () => {
    const x = tensor(Float32Array.of(1, 2, 3, 4), on)
    const part = (await x.narrow(0, 1, 2).data()) as Float32Array
    expect([part.length, part.byteLength]).toEqual([2, 8])
    expect(part.buffer.byteLength - part.byteOffset).toBeGreaterThanOrEqual(8)
  })
})
