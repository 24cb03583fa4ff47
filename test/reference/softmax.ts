import { NDArray } from './array.js'

/** eˣ / Σ eˣ over dimension dim, the largest value taken off first; a row of nothing but −∞ gives 0. */
export function softmax(x: NDArray, dim = -1): NDArray {
  const axis = dim < 0 ? dim + x.shape.length : dim
  const n = x.shape[axis]!
  const inner = x.strides[axis]!
  const out = new NDArray(x.shape)
  for (let start = 0; start < x.size; start++) {
    if (Math.floor(start / inner) % n !== 0) continue
    const at = (k: number): number => start + k * inner
    let max = -Infinity
    for (let k = 0; k < n; k++) max = Math.max(max, x.data[at(k)]!)
    if (max === -Infinity) continue
    let sum = 0
    for (let k = 0; k < n; k++) sum += Math.exp(x.data[at(k)]! - max)
    for (let k = 0; k < n; k++) out.data[at(k)] = Math.exp(x.data[at(k)]! - max) / sum
  }
  return out
}
