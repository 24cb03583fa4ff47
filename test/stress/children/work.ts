// Work for workers and processes to be ended in the middle of.
import { type Tensor, empty, linear, selectiveScan, tensor, zeros } from '../../../lib/index.js'

/** One scan that takes some 100 ms to seconds, unless it is cut short. */
export function longScan(): Tensor {
  const d = 256
  const L = 1024
  const n = 1024
  const u = zeros([1, d, L])
  return selectiveScan(u, u, zeros([d, n]), zeros([1, n, L]), zeros([1, n, L]), { deltaSoftplus: true })
}

/** Some milliseconds each. */
export function product(): Tensor {
  const x = zeros([64, 512])
  return linear(x, zeros([512, 512]))
}

/** A long queue of it. */
export function manyProducts(count = 150): Tensor[] {
  return Array.from({ length: count }, product)
}

/** Arrays that share memory with tensors, which are gone. */
export function sharedArrays(count = 20): unknown[] {
  return Array.from({ length: count }, () => {
    const t = empty([1 << 15])
    const data = t.dataSync()
    t.dispose()
    return data
  })
}

/** Everything that nothing refers to is gone, and its finalizers have run. Needs --expose-gc. */
export async function collected(): Promise<void> {
  for (let i = 0; i < 4; i++) {
    globalThis.gc!()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** Results that depend on each other, the same in every thread: as bits. */
export async function computation(seed: number): Promise<string> {
  const d = 24
  const L = 200
  const n = 5
  let at = seed
  const values = (count: number, low: number, high: number): Float32Array =>
    Float32Array.from({ length: count }, () => {
      at = (Math.imul(at, 1664525) + 1013904223) >>> 0
      return low + ((high - low) * at) / 2 ** 32
    })
  let u = tensor(values(d * L, -1, 1), { shape: [1, d, L] })
  const delta = tensor(values(d * L, 0, 0.5), { shape: [1, d, L] })
  const A = tensor(values(d * n, -1, 0), { shape: [d, n] })
  const B = tensor(values(n * L, -1, 1), { shape: [1, n, L] })
  const W = tensor(values(L * L, -0.1, 0.1), { shape: [L, L] })
  for (let i = 0; i < 6; i++) {
    const scanned = selectiveScan(u, delta, A, B, B, { D: values(d, -1, 1), deltaSoftplus: true })
    u.dispose()
    u = linear(scanned, W, { activation: 'silu' })
    scanned.dispose()
  }
  const bits = new Uint32Array(((await u.data()) as Float32Array).slice().buffer)
  for (const t of [u, delta, A, B, W]) t.dispose()
  return bits.reduce((hash, b) => (Math.imul(hash ^ b, 16777619) >>> 0) + 1, 2166136261).toString(16)
}
