// Values as each float dtype holds them, quickly: float16.ts has the definition of the 16-bit formats, against which
// these are tested.
import type { NDArray } from '../reference/array.js'
import { formats } from './float16.js'

export type FloatType = 'float32' | 'float16' | 'bfloat16'
export const floatTypes = ['float32', 'float16', 'bfloat16'] as const
export const halfTypes = ['float16', 'bfloat16'] as const
type HalfType = (typeof halfTypes)[number]

const layout = {
  float16: { fraction: 10, least: -14, largest: 15 },
  bfloat16: { fraction: 7, least: -126, largest: 127 },
}

const double = new Float64Array(1)
const words = new Uint32Array(double.buffer)

/** The power of two that a magnitude's last place counts in. */
function exponentOf(magnitude: number, least: number): number {
  double[0] = magnitude
  return Math.max(least, (words[1]! >>> 20) - 1023)
}

/** 2ᵉ, faster than by `**`. */
function power(e: number): number {
  words[0] = 0
  words[1] = (e + 1023) << 20
  return double[0]!
}

/** To a whole number, ties to the even one, for 0 ≤ x < 2⁵¹: float64 itself rounds so. */
function whole(x: number): number {
  return x + 2 ** 52 - 2 ** 52
}

function roundHalf(x: number, dtype: HalfType): number {
  const { fraction, least, largest } = layout[dtype]
  const magnitude = Math.abs(x)
  if (!(magnitude < Infinity)) return x
  const unit = power(exponentOf(magnitude, least) - fraction)
  const nearest = whole(magnitude / unit) * unit
  return Math.sign(x) * (nearest < power(largest + 1) ? nearest : Infinity) || x * 0
}

/** How a number is rounded, once, to be an element of a dtype. */
export function roundTo(dtype: FloatType): (x: number) => number {
  return dtype === 'float32' ? Math.fround : (x) => roundHalf(x, dtype)
}

/** The values that a tensor of a dtype holds where these were meant. */
export function rounded(a: NDArray, dtype: FloatType): NDArray {
  return a.map(roundTo(dtype))
}

/** An op's inputs with those that `types` names rounded to the dtype that each will have. */
export function roundedTo<T extends object>(inputs: T, types: { readonly [K in keyof T]?: FloatType | undefined }): T {
  const result = { ...inputs }
  for (const [key, dtype] of Object.entries(types) as [keyof T, FloatType | undefined][]) {
    const a = inputs[key] as NDArray | null | undefined
    if (a && dtype) result[key] = rounded(a, dtype) as T[keyof T]
  }
  return result
}

/** The bits of values that a 16-bit format holds exactly: a reference must see what the op sees. */
export function toBits(values: ArrayLike<number>, dtype: HalfType): Uint16Array {
  const { fraction, least, largest } = layout[dtype]
  const bits = new Uint16Array(values.length)
  for (let i = 0; i < bits.length; i++) bits[i] = bitsOf(values[i]!)
  return bits

  function bitsOf(x: number): number {
    const magnitude = Math.abs(x)
    if (Number.isNaN(x)) return ((2 * largest + 1) << fraction) + 1
    if (roundHalf(x, dtype) !== x) throw new Error(`${x} is no ${dtype}: round the inputs first, with rounded()`)
    const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0
    if (magnitude === Infinity) return sign | ((2 * largest + 1) << fraction)
    const exponent = exponentOf(magnitude, least)
    // The leading one of a number that is not subnormal adds one to the exponent's field.
    return sign | (((exponent - least) << fraction) + magnitude / power(exponent - fraction))
  }
}

const tables = new Map<HalfType, Float32Array>()

/** What bits stand for. */
export function fromBits(bits: Uint16Array, dtype: HalfType): Float32Array {
  let table = tables.get(dtype)
  if (!table) tables.set(dtype, (table = Float32Array.from({ length: 65536 }, (_, i) => formats[dtype].decode(i))))
  const values = new Float32Array(bits.length)
  for (let i = 0; i < bits.length; i++) values[i] = table[bits[i]!]!
  return values
}
