import { expect } from 'vitest'
import type { NDArray } from '../reference/array.js'
import type { Values } from './device.js'
import { rounded, type FloatType } from './floats.js'

export interface Bounds {
  /** What the result must be held in, which sets the bound; float32 where it is not said. */
  dtype?: FloatType
  /** What the work ran on; the bound of float32 depends on it. */
  on: 'cpu' | 'cuda'
  /** A plain float32 evaluation of the same formula, asked for only where the bound itself is missed. */
  plain?: () => NDArray
  /** A bound of this op's own, with its reason beside it where it is given. */
  bound?: number
}

interface Errors {
  total: number
  row: number
  at: number
}

// One rounding to nearest of many values costs 2.1e-4 and 1.7e-3 (half a unit in the last place, over the square root of 3,
// at an average place between two powers of two); the bounds are not twice that.
const bounds = { float16: 4e-4, bfloat16: 3e-3 }

/**
 * ‖out − ref‖ / ‖ref‖ within the bound of the dtype and device, and each row (the last dimension) within 8 times the
 * bound, relative to the larger of its own and the tensor's root mean square. Where the bound is missed, twice the error
 * of a plain float32 evaluation is the bound if that is larger; of few values in 16 bits, none of which can be nearer than
 * half a unit in its last place, the error of the reference itself in that dtype (and a tenth, for what lies halfway between
 * two). NaN never passes. On CUDA a difference below float32's smallest normal number is none: what lies there may become 0.
 */
export function expectClose(out: Values, ref: NDArray, limits: Bounds): Errors {
  expect(out.shape, 'shape').toEqual(ref.shape)
  if (out.data.length !== ref.size) expect.fail(`${out.data.length} values where ${ref.size} are due`)
  const dtype = limits.dtype ?? 'float32'
  if (out.dtype) expect(out.dtype, 'dtype').toBe(dtype)
  const base = limits.bound ?? (dtype === 'float32' ? (limits.on === 'cpu' ? 2e-6 : 1e-5) : bounds[dtype])
  const smallest = limits.on === 'cuda' ? 2 ** -126 : 0
  const got = errors(out.data, ref, smallest)
  let bound = base
  if (!passes(got, base) && limits.plain) {
    const plain = errors(limits.plain().data, ref, smallest)
    bound = Math.max(base, 2 * plain.total)
  }
  if (!passes(got, bound) && dtype !== 'float32') {
    bound = Math.max(bound, 1.1 * errors(rounded(ref, dtype).data, ref, smallest).total)
  }
  if (!passes(got, bound))
    expect.fail(
      `relative error ${got.total.toExponential(2)} of at most ${bound.toExponential(2)}; worst row ${got.at}: ` +
        `${got.row.toExponential(2)} of at most ${(8 * bound).toExponential(2)}; ${worst(out, ref)}`,
    )
  return got
}

function passes(e: Errors, bound: number): boolean {
  return e.total <= bound && e.row <= 8 * bound // false for NaN
}

/** The two errors, of differences from `smallest` on; an error where the reference is all 0 is infinite. */
function errors(out: ArrayLike<number>, ref: NDArray, smallest: number): Errors {
  if (ref.size === 0) return { total: 0, row: 0, at: 0 }
  const n = ref.shape.at(-1) ?? 1
  const rows = ref.size / n
  const square = new Float64Array(rows)
  const missed = new Float64Array(rows)
  for (let i = 0, row = 0; row < rows; row++)
    for (let k = 0; k < n; k++, i++) {
      square[row]! += ref.data[i]! ** 2
      const off = out[i]! - ref.data[i]!
      if (!(Math.abs(off) < smallest)) missed[row]! += off ** 2
    }
  const sum = (x: Float64Array): number => x.reduce((a, v) => a + v, 0)
  const ratio = (a: number, b: number): number => (a === 0 ? 0 : Math.sqrt(a / b))
  const meanSquare = sum(square) / rows // of a row
  let [row, at] = [0, 0]
  for (let r = 0; r < rows; r++) {
    const e = ratio(missed[r]!, Math.max(square[r]!, meanSquare))
    if (!(e <= row)) [row, at] = [e, r]
    if (Number.isNaN(e)) break
  }
  return { total: ratio(sum(missed), sum(square)), row, at }
}

/** Where the largest single difference lies, for the message. */
function worst(out: { data: ArrayLike<number> }, ref: NDArray): string {
  let [at, most, nans] = [0, -1, 0]
  for (let i = 0; i < ref.size; i++) {
    const e = Math.abs(out.data[i]! - ref.data[i]!)
    if (Number.isNaN(out.data[i]!)) nans++
    if (Number.isNaN(e) ? !Number.isNaN(most) : e > most) [at, most] = [i, e]
  }
  const index: number[] = []
  for (let i = ref.shape.length - 1, rest = at; i >= 0; i--) {
    index.unshift(rest % ref.shape[i]!)
    rest = Math.floor(rest / ref.shape[i]!)
  }
  return (
    `largest at (${index.join(', ')}) of (${ref.shape.join(', ')}): ${out.data[at]!} for ${ref.data[at]!}` +
    (nans ? `; ${nans} NaN` : '')
  )
}
