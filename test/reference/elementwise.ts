import { NDArray } from './array.js'
import { siluOf } from './functions.js'

export function silu(x: NDArray): NDArray {
  return x.map((v) => siluOf(v))
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
