import { rotate, type RotaryInputs } from './attention.js'
import { NDArray } from './array.js'

/** x (b, L, h, d); position(row, token), of which those outside the tables give 0. */
export function rotary(x: NDArray, tables: RotaryInputs, position = (_: number, t: number): number => t): NDArray {
  const [b, L, h, d] = x.shape as [number, number, number, number]
  const out = new NDArray(x.shape)
  const one = L * h * d
  for (let r = 0; r < b; r++) {
    const good = (t: number): boolean => position(r, t) >= 0 && position(r, t) < tables.cos.shape[0]!
    const row = new NDArray([L, h, d], x.data.slice(r * one, (r + 1) * one))
    const turned = rotate(row, (t) => (good(t) ? position(r, t) : 0), tables)
    for (let i = 0; i < one; i++) out.data[r * one + i] = good(Math.floor(i / (h * d))) ? turned.data[i]! : 0
  }
  return out
}
