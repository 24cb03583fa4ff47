import { describe, expect, test } from 'vitest'

import { bfloat16ToFloat32, float16ToFloat32 } from '../../lib/checkpoint/index.js'

const everyPattern = Uint16Array.from({ length: 65536 }, (_, i) => i)

// The definition: sign · 2^(exponent − bias) · 1.fraction, without the 1 and with the least exponent where it is 0.
function value(bits: number, fractionBits: number, exponentBits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const bias = 2 ** (exponentBits - 1) - 1
  const exponent = (bits >> fractionBits) & (2 ** exponentBits - 1)
  const fraction = (bits & (2 ** fractionBits - 1)) / 2 ** fractionBits
  if (exponent === 2 ** exponentBits - 1) return fraction === 0 ? sign * Infinity : NaN
  return exponent === 0 ? sign * fraction * 2 ** (1 - bias) : sign * (1 + fraction) * 2 ** (exponent - bias)
}

describe('conversion to float32', () => {
  test('every float16 value is exact', () => {
    const wrong = [...float16ToFloat32(everyPattern)].filter((v, bits) => !Object.is(v, value(bits, 10, 5)))
    expect(wrong).toEqual([])
  })

  test('every bfloat16 value is exact', () => {
    const wrong = [...bfloat16ToFloat32(everyPattern)].filter((v, bits) => !Object.is(v, value(bits, 7, 8)))
    expect(wrong).toEqual([])
  })

  test('no values give no values', () => {
    expect(float16ToFloat32(new Uint16Array(0))).toEqual(new Float32Array(0))
    expect(bfloat16ToFloat32(new Uint16Array(0))).toEqual(new Float32Array(0))
  })
})
