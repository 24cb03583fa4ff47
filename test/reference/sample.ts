import type { NDArray } from './array.js'
import { descending } from './topk.js'

export interface SampleOptions {
  temperature?: number
  topK?: number
  topP?: number
  seed?: number | bigint
  step?: number | bigint
}

/** One row's draw: the token, and how near (as a share of all weights) a decision on the way to it lay to its boundary. */
export interface Draw {
  token: number
  margin: number
}

/**
 * Draws one token a row from softmax(logits / temperature), cut to the topK largest and to the shortest prefix, in
 * descending order, whose share is at least topP. All in integers after the exponential, so that every device draws the
 * same: weights are ⌊exp((l − max)/T)·2⁴⁰⌋, the random number a 64-bit mix of (seed, step, row). The exponential here is
 * JavaScript's, so that a weight may be off by one: where the margin is less than 10⁻⁹ a device may draw otherwise.
 */
export function sample(logits: NDArray, options: SampleOptions = {}): Draw[] {
  const n = logits.shape.at(-1)!
  const rows = logits.shape.slice(0, -1).reduce((a, m) => a * m, 1)
  return Array.from({ length: rows }, (_, row) => sampleRow(logits.data.subarray(row * n, (row + 1) * n), row, options))
}

function sampleRow(logits: Float64Array, row: number, options: SampleOptions): Draw {
  const { temperature = 1, topK = 0, topP = 1, seed = 0, step = 0 } = options
  const order = descending(logits)
  const max = logits[order[0]!]!
  // Greedy; and where the largest is NaN or infinite there is no distribution to draw from.
  if (temperature === 0 || !Number.isFinite(max)) return { token: order[0]!, margin: 1 }

  const weights = Array.from(logits, (l) => BigInt(Math.floor(Math.exp((l - max) / temperature) * 2 ** 40)))
  const sum = (list: number[]): bigint => list.reduce((a, i) => a + weights[i]!, 0n)
  let kept = topK > 0 ? order.slice(0, topK) : order
  let margin = 1
  if (topP < 1) {
    const total = sum(kept)
    const wanted = BigInt(Math.floor(topP * 2 ** 32)) * total // in 2³²ths
    let count = 1
    let reached = weights[kept[0]!]! << 32n
    const distances: bigint[] = [reached - wanted]
    while (reached < wanted) {
      reached += weights[kept[count++]!]! << 32n
      distances.push(reached - wanted)
    }
    kept = kept.slice(0, count)
    margin = Math.min(...distances.map((x) => Math.abs(Number(x)) / 2 ** 32 / Number(total)))
  }
  kept = [...kept].sort((a, b) => a - b)

  const S = sum(kept)
  const r = (mix(BigInt(seed), BigInt(step), BigInt(row)) * S) >> 64n
  let at = 0
  let running = weights[kept[0]!]!
  while (running <= r) running += weights[kept[++at]!]!
  const token = kept[at]!
  margin = Math.min(margin, Number(running - r) / Number(S), Number(r - running + weights[token]!) / Number(S))
  return { token, margin }
}

const mask = (1n << 64n) - 1n

/** The finaliser of splitmix64 (Steele, Lea and Flood, 2014). */
export function splitmix64(z: bigint): bigint {
  z = (z + 0x9e3779b97f4a7c15n) & mask
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask
  return z ^ (z >> 31n)
}

/** The 64 random bits of a draw. */
export function mix(seed: bigint, step: bigint, row: bigint): bigint {
  const z = splitmix64((seed + 0x9e3779b97f4a7c15n * (step + 1n)) & mask)
  return splitmix64(z ^ ((row * 0xd1342543de82ef95n) & mask))
}
