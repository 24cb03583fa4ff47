import { NDArray } from './array.js'

/** Whether a comes before b in descending order: NaN is the largest of all, as in argmax. */
function larger(a: number, b: number): boolean {
  return Number.isNaN(a) ? !Number.isNaN(b) : a > b
}

/** Indices of a row from the largest value to the smallest, ties to the lower index. */
export function descending(row: ArrayLike<number>): number[] {
  const order = Array.from({ length: row.length }, (_, i) => i)
  return order.sort((i, j) => (larger(row[i]!, row[j]!) ? -1 : larger(row[j]!, row[i]!) ? 1 : i - j))
}

/** The k largest values of each row (the last dimension), largest first, and where they lie. */
export function topk(x: NDArray, k: number): { values: NDArray; indices: NDArray } {
  const n = x.shape.at(-1)!
  const shape = [...x.shape.slice(0, -1), k]
  const values = new NDArray(shape)
  const indices = new NDArray(shape)
  for (let row = 0; row * k < values.size; row++) {
    const v = x.data.subarray(row * n, (row + 1) * n)
    descending(v)
      .slice(0, k)
      .forEach((at, i) => {
        values.data[row * k + i] = v[at]!
        indices.data[row * k + i] = at
      })
  }
  return { values, indices }
}

/** Where the largest value of each row lies; NaN counts as largest, ties go to the lower index. */
export function argmax(x: NDArray): NDArray {
  const { indices } = topk(x, 1)
  return indices.reshape(x.shape.slice(0, -1))
}
