import { afterEach, describe, expect, test } from 'vitest'
import { add, keep, memory, scope, tensor, zeros, type Tensor } from '../../lib/index.js'
import { dut } from '../support/device.js'

const on = { device: dut }
const disposedError = expect.objectContaining({
  code: 'ERR_DISPOSED',
  message: expect.stringMatching(/disposed/),
}) as unknown

function live(): number {
  return memory()[dut.name]?.tensors ?? 0
}

describe('dispose', () => {
  test('twice does nothing; use after it throws', async () => {
    const t = tensor([1, 2], on)
    t.dispose()
    t.dispose()
    expect(t.disposed).toBe(true)
    for (const use of [
      () => t.dataSync(),
      () => t.reshape(2),
      () => t.narrow(0, 0, 1),
      () => t.transpose(0, 0),
      () => t.to('int32'),
      () => t.contiguous(),
      () => t.clone(),
      () => add(t, t),
      () => t.copyFrom(tensor([1, 2], on)),
      () => tensor([1, 2], on).copyFrom(t),
    ])
      expect(use).toThrow(disposedError)
    await expect((async () => t.data())()).rejects.toThrow(disposedError)
    await expect((async () => t.toFloat32())()).rejects.toThrow(disposedError)
  })

  test('what it was is still known', () => {
    const t = tensor([1, 2], on)
    t.dispose()
    expect([t.shape, t.dtype, t.size, t.device]).toEqual([[2], 'float32', 2, dut])
  })

  test('the message names the argument', () => {
    const [a, b] = [tensor([1], on), tensor([1], on)]
    b.dispose()
    expect(() => add(a, b)).toThrow(
      expect.objectContaining({ message: expect.stringMatching(/^b: expected .*, got /) }),
    )
  })

  test('right after an op is safe', async () => {
    const a = tensor(new Float32Array(100_000).fill(1), on)
    const b = add(a, a)
    a.dispose()
    const c = add(b, b)
    b.dispose()
    expect((await c.data()).every((v) => v === 4)).toBe(true)
  })

  test('right after data() was asked for', async () => {
    const a = tensor(new Float32Array(100_000).fill(1), on)
    const b = add(a, a)
    const pending = b.data()
    b.dispose()
    zeros([100_000], on)
    expect((await pending).every((v) => v === 2)).toBe(true)
  })

  test('Symbol.dispose, where the runtime has it', () => {
    const symbol = (Symbol as { dispose?: symbol }).dispose
    const t = tensor([1], on) as Tensor & Record<symbol, () => void>
    if (symbol) {
      t[symbol]!()
      expect(t.disposed).toBe(true)
    } else expect(symbol).toBeUndefined()
  })

  test('memory() counts handles and bytes', () => {
    const before = { ...memory()[dut.name] } as { tensors: number; bytes: number }
    const t = zeros([1000], on)
    const view = t.narrow(0, 5, 10)
    const during = memory()[dut.name]!
    expect(during.tensors - before.tensors).toBe(2)
    expect(during.bytes - before.bytes).toBeGreaterThanOrEqual(4000)
    t.dispose()
    expect(memory()[dut.name]!.bytes).toBe(during.bytes) // the view still holds them
    view.dispose()
    dut.synchronizeSync()
    expect(memory()[dut.name]!.tensors).toBe(before.tensors)
    expect(memory()[dut.name]!.bytes).toBe(before.bytes)
  })
})

describe('what data() hands out', () => {
  test('survives dispose', async () => {
    const t = tensor([1, 2, 3], on)
    const [a, b] = [await t.data(), t.dataSync()]
    t.dispose()
    for (let i = 0; i < 50; i++) zeros([3], on).dispose()
    expect([a, b]).toEqual([Float32Array.of(1, 2, 3), Float32Array.of(1, 2, 3)])
  })

  test('never changes under the caller, whatever view it was read through', async () => {
    const t = tensor([1, 2, 3, 4], on)
    const view = t.narrow(0, 1, 2)
    const reads = [await t.data(), t.dataSync(), await view.data(), view.dataSync()] as Float32Array[]
    const copies = reads.map((r) => Array.from(r))
    view.copyFrom(tensor([8, 9], on))
    t.copyFrom(tensor([5, 6, 7, 8], on))
    expect(reads.map((r) => Array.from(r))).toEqual(copies)
    expect(await t.data()).toEqual(Float32Array.of(5, 6, 7, 8))
    expect(await view.data()).toEqual(Float32Array.of(6, 7))
  })

  test('is what was there when it was asked for, though an in-place op follows at once', async () => {
    const t = tensor([1, 2, 3, 4], on)
    const pending = t.data()
    t.copyFrom(tensor([5, 6, 7, 8], on))
    expect(await pending).toEqual(Float32Array.of(1, 2, 3, 4))
    expect(await t.data()).toEqual(Float32Array.of(5, 6, 7, 8))
  })

  test('is only the view’s part, in its order', async () => {
    const t = tensor(
      [
        [1, 2, 3],
        [4, 5, 6],
      ],
      on,
    )
    expect(await t.narrow(0, 1, 1).data()).toEqual(Float32Array.of(4, 5, 6))
    expect(await t.transpose(0, 1).data()).toEqual(Float32Array.of(1, 4, 2, 5, 3, 6))
    expect(t.narrow(1, 2, 1).dataSync()).toEqual(Float32Array.of(3, 6))
  })

  test('can be transferred away without harm to the tensor', async () => {
    const t = tensor([1, 2, 3], on)
    const data = await t.data()
    try {
      structuredClone(data.buffer, { transfer: [data.buffer as ArrayBuffer] })
    } catch {
      // A buffer that cannot be transferred is no harm either.
    }
    expect(await t.data()).toEqual(Float32Array.of(1, 2, 3))
    expect(await add(t, t).data()).toEqual(Float32Array.of(2, 4, 6))
  })
})

describe('scope', () => {
  let before = 0
  afterEach(() => expect(live()).toBe(before))

  test('frees what was made inside and not returned', () => {
    before = live()
    let inner: Tensor | undefined
    const out = scope(() => {
      inner = tensor([1, 2], on)
      const view = inner.reshape(2, 1)
      return add(view, view)
    })
    expect([inner!.disposed, out.disposed, live()]).toEqual([true, false, before + 1])
    expect(out.dataSync()).toEqual(Float32Array.of(2, 4))
    out.dispose()
  })

  test('keeps tensors in arrays and plain objects, however deep', () => {
    before = live()
    const made = (): Tensor => tensor([1], on)
    const out = scope(() => ({ a: made(), list: [made(), { deep: [made()] }], n: 1, text: 'x', none: null }))
    const kept = [out.a, out.list[0] as Tensor, (out.list[1] as { deep: Tensor[] }).deep[0]!]
    expect(kept.map((t) => t.disposed)).toEqual([false, false, false])
    kept.forEach((t) => t.dispose())
  })

  test('leaves alone what was made outside, and what keep() was given', () => {
    before = live()
    const outside = tensor([1], on)
    let kept: Tensor | undefined
    scope(() => {
      kept = keep(tensor([2], on))
      outside.reshape(1)
    })
    expect([outside.disposed, kept!.disposed]).toEqual([false, false])
    outside.dispose()
    kept!.dispose()
  })

  test('nests: what an inner one returns belongs to the outer', () => {
    before = live()
    let middle: Tensor | undefined
    const out = scope(() => {
      middle = scope(() => tensor([3], on))
      return add(middle, middle)
    })
    expect([middle!.disposed, out.disposed]).toEqual([true, false])
    out.dispose()
  })

  test('frees everything when fn throws, and lets the error through', () => {
    before = live()
    const made: Tensor[] = []
    expect(() =>
      scope(() => {
        made.push(tensor([1], on))
        scope(() => made.push(tensor([2], on)))
        throw new Error('mine')
      }),
    ).toThrow('mine')
    expect(made.every((t) => t.disposed)).toBe(true)
  })

  test('is synchronous: a thenable result throws, and nothing leaks', async () => {
    before = live()
    expect(() => scope(() => Promise.resolve(tensor([1], on)) as never)).toThrow(
      expect.objectContaining({ message: expect.stringMatching(/expected .*, got /) }),
    )
    await Promise.resolve()
  })

  test('returns what fn returns when that is no tensor', () => {
    before = live()
    expect(scope(() => 5)).toBe(5)
    expect(scope(() => undefined)).toBeUndefined()
    const circular: { self?: unknown } = {}
    circular.self = circular
    expect(scope(() => circular)).toBe(circular)
  })

  test('a tensor that was disposed inside, or returned twice', () => {
    before = live()
    const [a, b] = scope(() => {
      const t = tensor([1], on)
      tensor([2], on).dispose()
      return [t, t]
    })
    expect([a, a!.disposed]).toEqual([b, false])
    a!.dispose()
  })
})
