import { exact, NDArray, type Round } from './array.js'

export interface ScoreOptions {
  causal?: boolean
  window?: readonly [number, number] | null // keys from i + sk − sq − left to i + sk − sq + right; −1 for no bound
  softcap?: number // 0 for none
  scale?: number | null // 1/√d
  alibiSlopes?: NDArray | null // (hq) or (b, hq)
  sinks?: NDArray | null // (hq)
  leftPad?: ArrayLike<number> | null // (b): keys at the beginning that do not count
}

export interface AttentionInputs extends ScoreOptions {
  q: NDArray // (b, sq, hq, d)
  k: NDArray // (b, sk, hk, d)
  v: NDArray // (b, sk, hk, dv)
}

export interface AttentionResult {
  out: NDArray
  lse: NDArray
}

/** Attention as its formula says, one score after the other. lse (b, hq, sq) is the natural logarithm of the softmax's sum. */
export function attention(x: AttentionInputs, round: Round = exact): AttentionResult {
  const [b, sq, hq, d] = x.q.shape as [number, number, number, number]
  const [, sk, hk, dv] = x.v.shape as [number, number, number, number]
  const scale = round(x.scale ?? 1 / Math.sqrt(d))
  const out = new NDArray([b, sq, hq, dv])
  const lse = new NDArray([b, hq, sq])
  for (let r = 0; r < b; r++)
    for (let h = 0; h < hq; h++) {
      const g = Math.floor((h * hk) / hq)
      const slope = !x.alibiSlopes ? 0 : x.alibiSlopes.shape.length === 1 ? x.alibiSlopes.at(h) : x.alibiSlopes.at(r, h)
      for (let i = 0; i < sq; i++) {
        const seen: number[] = []
        for (let j = x.leftPad?.[r] ?? 0; j < sk; j++) if (sees(x, i + sk - sq, j)) seen.push(j)
        const scores = seen.map((j) => {
          let dot = 0
          for (let c = 0; c < d; c++) dot = round(dot + round(x.q.at(r, i, h, c) * x.k.at(r, j, g, c)))
          let s = round(scale * dot)
          if (x.softcap) s = round(x.softcap * round(Math.tanh(round(s / x.softcap))))
          if (x.alibiSlopes) s = round(s - round(slope * Math.abs(i + sk - sq - j)))
          return s
        })
        const sink = x.sinks ? x.sinks.at(h) : -Infinity
        const high = Math.max(sink, ...scores)
        if (high === -Infinity) {
          lse.set(-Infinity, r, h, i)
          continue
        }
        const weights = scores.map((s) => round(Math.exp(round(s - high))))
        const sum = weights.reduce((a, w) => round(a + w), round(Math.exp(round(sink - high))))
        lse.set(round(high + round(Math.log(sum))), r, h, i)
        for (let c = 0; c < dv; c++) {
          let o = 0
          seen.forEach((j, n) => (o = round(o + round(weights[n]! * x.v.at(r, j, g, c)))))
          out.set(round(o / sum), r, i, h, c)
        }
      }
    }
  return { out, lse }
}

/** Whether the query whose place among the keys is p sees key j. */
function sees(x: ScoreOptions, p: number, j: number): boolean {
  const [left, right] = x.window ?? [-1, -1]
  if (left >= 0 && j < p - left) return false
  if (x.causal) return j <= p
  return right < 0 || j <= p + right
}

export interface RotaryInputs {
  cos: NDArray // (positions, r/2)
  sin: NDArray
  interleaved?: boolean
}

/** Rotates the first r elements of x (L, h, d), token t by position at(t). */
export function rotate(x: NDArray, at: (t: number) => number, { cos, sin, interleaved }: RotaryInputs): NDArray {
  const half = cos.shape[1]!
  const out = x.clone()
  for (let t = 0; t < x.shape[0]!; t++)
    for (let h = 0; h < x.shape[1]!; h++)
      for (let c = 0; c < half; c++) {
        const [i, j] = interleaved ? [2 * c, 2 * c + 1] : [c, c + half]
        const [a, b] = [x.at(t, h, i), x.at(t, h, j)]
        out.set(a * cos.at(at(t), c) - b * sin.at(at(t), c), t, h, i)
        out.set(a * sin.at(at(t), c) + b * cos.at(at(t), c), t, h, j)
      }
  return out
}

/** One sequence of a packed batch: (L, h, d) as (1, L, h, d), and back. */
export const asRow = (x: NDArray): NDArray => x.reshape([1, ...x.shape])
export const rowOf = (x: NDArray): NDArray => x.reshape(x.shape.slice(1))

/** A key of n elements as an int8 cache keeps it: what it is multiplied by, and whole numbers. */
export function quantised(x: ArrayLike<number>): { scale: number; values: number[] } {
  const f = Math.fround
  const a = Math.max(...Array.from(x, Math.abs))
  const inverse = f(127 / f(a))
  if (!Number.isFinite(inverse)) return { scale: 0, values: Array.from(x, () => 0) }
  return { scale: f(f(a) / 127), values: Array.from(x, (v) => toEven(f(f(v) * inverse))) }
}

function toEven(x: number): number {
  const r = Math.round(x)
  return Math.abs(x - Math.trunc(x)) === 0.5 && r % 2 !== 0 ? r - 1 : r
}
