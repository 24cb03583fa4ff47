import { NDArray } from './array.js'
import { siluOf } from './functions.js'

export function silu(x: NDArray): NDArray {
  return x.map((v) => siluOf(v))
}

/** x Φ(x), Φ(x) = erfc(−x/√2) / 2. */
export function gelu(x: NDArray): NDArray {
  return x.map((v) => (v === -Infinity ? 0 : v * (erfc(-v / Math.SQRT2) / 2)))
}

export function geluTanh(x: NDArray): NDArray {
  return x.map((v) => {
    const u = Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)
    return v === -Infinity ? 0 : v / (1 + Math.exp(-2 * u)) // (1 + tanh u) / 2, without loss where tanh is near −1
  })
}

/** cap tanh(x / cap) */
export function softcap(x: NDArray, cap: number): NDArray {
  return x.map((v) => cap * Math.tanh(v / cap))
}

/** 2/√π ∫ e^−t² from x to infinity, by its series near 0 and its continued fraction elsewhere. */
export function erfc(x: number): number {
  if (Number.isNaN(x)) return NaN
  if (x < 0) return 2 - erfc(-x)
  if (x < 2) {
    let [term, sum] = [x, x]
    for (let n = 1; n < 60; n++) {
      term *= -(x * x) / n
      sum += term / (2 * n + 1)
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * sum
  }
  let fraction = x
  for (let n = 120; n > 0; n--) fraction = x + n / 2 / fraction
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / fraction
}

export function add(a: NDArray, b: NDArray): NDArray {
  return broadcast(a, b, (x, y) => x + y)
}

export function mul(a: NDArray, b: NDArray): NDArray {
  return broadcast(a, b, (x, y) => x * y)
}

/** Numpy's rule: shapes are aligned at their last dimension; a dimension of 1, or none, repeats. */
function broadcast(a: NDArray, b: NDArray, f: (x: number, y: number) => number): NDArray {
  const rank = Math.max(a.shape.length, b.shape.length)
  const dim = (x: NDArray, i: number): number => x.shape[i - (rank - x.shape.length)] ?? 1
  const stride = (x: NDArray, i: number): number => (dim(x, i) === 1 ? 0 : x.strides[i - (rank - x.shape.length)]!)
  const shape = Array.from({ length: rank }, (_, i) => (dim(a, i) === 1 ? dim(b, i) : dim(a, i)))
  const out = new NDArray(shape)
  for (let o = 0; o < out.size; o++) {
    let [rest, atA, atB] = [o, 0, 0]
    for (let i = rank - 1; i >= 0; i--) {
      const index = rest % shape[i]!
      rest = Math.floor(rest / shape[i]!)
      atA += index * stride(a, i)
      atB += index * stride(b, i)
    }
    out.data[o] = f(a.data[atA]!, b.data[atB]!)
  }
  return out
}
