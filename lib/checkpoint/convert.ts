// Sixteen-bit floats as they lie in a checkpoint, widened to float32. Both conversions are exact: every float16 and
// every bfloat16 value, the subnormal ones, the infinities and NaN's payload included, is a float32 value.

import type { FloatDType } from '../dtype.js'

/**
 * bfloat16 bits to float32: the upper half of the word.
 *
 * @param bits any number of bfloat16 values
 * @returns as many float32 values
 */
export function bfloat16ToFloat32(bits: Uint16Array): Float32Array {
  const out = new Float32Array(bits.length)
  const words = new Uint32Array(out.buffer)
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16
  return out
}

/**
 * float16 bits to float32.
 *
 * A table gives the upper half of the work (65536 words, made at the first use): a loop over it is several times faster
 * than taking each value apart.
 *
 * @param bits any number of float16 values
 * @returns as many float32 values
 */
export function float16ToFloat32(bits: Uint16Array): Float32Array {
  const table = (halfTable ??= makeHalfTable())
  const out = new Float32Array(bits.length)
  const words = new Uint32Array(out.buffer)
  for (let i = 0; i < bits.length; i++) words[i] = table[bits[i]!]!
  return out
}

/** @internal values of any floating-point dtype as float32; those that are float32 already, themselves */
export function toFloat32(data: Float32Array | Uint16Array, dtype: FloatDType): Float32Array {
  if (dtype === 'float32') return data as Float32Array
  return (dtype === 'float16' ? float16ToFloat32 : bfloat16ToFloat32)(data as Uint16Array)
}

let halfTable: Uint32Array | undefined

function makeHalfTable(): Uint32Array {
  const table = new Uint32Array(65536)
  const float = new Float32Array(1)
  const word = new Uint32Array(float.buffer)
  for (let h = 0; h < 65536; h++) {
    const sign = (h & 0x8000) << 16
    const exponent = (h >> 10) & 31
    const fraction = h & 0x3ff
    if (exponent === 31) {
      table[h] = sign | 0x7f800000 | (fraction << 13)
    } else if (exponent > 0) {
      table[h] = sign | ((exponent + 112) << 23) | (fraction << 13)
    } else {
      float[0] = fraction * 2 ** -24
      table[h] = sign | word[0]!
    }
  }
  return table
}
