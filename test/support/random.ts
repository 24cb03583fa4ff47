import { NDArray } from '../reference/array.js'

/** A seeded stream of random numbers (mulberry32): a test that fails once fails every time. */
export class Random {
  private state: number

  constructor(seed: number | string) {
    let h = 0x811c9dc5
    for (const c of String(seed)) h = Math.imul(h ^ c.charCodeAt(0), 0x01000193)
    this.state = h >>> 0
  }

  /** In [0, 1). */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0
    let t = this.state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }

  /** A whole number in [from, to]. */
  int(from: number, to: number): number {
    return from + Math.floor(this.next() * (to - from + 1))
  }

  pick<T>(list: readonly T[]): T {
    return list[this.int(0, list.length - 1)]!
  }

  bool(chance = 0.5): boolean {
    return this.next() < chance
  }

  /** Values uniform in [from, to), rounded to float32. */
  uniform(shape: readonly number[], from = 0, to = 1): NDArray {
    return new NDArray(shape).map(() => Math.fround(from + (to - from) * this.next()))
  }

  /** Values of the normal distribution, rounded to float32. */
  normal(shape: readonly number[], scale = 1, mean = 0): NDArray {
    return new NDArray(shape).map(() =>
      Math.fround(mean + scale * Math.sqrt(-2 * Math.log(1 - this.next())) * Math.cos(2 * Math.PI * this.next())),
    )
  }

  ints(shape: readonly number[], from: number, to: number): NDArray {
    return new NDArray(shape).map(() => this.int(from, to))
  }

  /** Sequence numbers (b, L) that grow along each row, with the changes where `at` says or at random places. */
  sequences(b: number, L: number, at?: readonly number[]): NDArray {
    const out = new NDArray([b, L])
    for (let i = 0; i < b; i++) {
      let id = this.int(0, 3)
      for (let t = 0; t < L; t++) {
        if (t > 0 && (at ? at.includes(t) : this.bool(0.08))) id += this.int(1, 2)
        out.set(id, i, t)
      }
    }
    return out
  }
}
