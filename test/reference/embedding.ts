import { NDArray } from './array.js'

/** The rows of table (vocabulary, dim) that ids name; an id outside the table gives a row of 0. */
export function embedding(ids: NDArray, table: NDArray): NDArray {
  const [rows, dim] = table.shape as [number, number]
  const out = new NDArray([...ids.shape, dim])
  ids.data.forEach((id, i) => {
    if (id >= 0 && id < rows) out.data.set(table.data.subarray(id * dim, (id + 1) * dim), i * dim)
  })
  return out
}
