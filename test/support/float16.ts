/** What a 16-bit float's bits mean: the definition of both formats, without a table or a trick. */
function decode(bits: number, exponentBits: number, fractionBits: number): number {
  const sign = bits >> 15 ? -1 : 1
  const exponent = (bits >> fractionBits) & (2 ** exponentBits - 1)
  const fraction = (bits & (2 ** fractionBits - 1)) / 2 ** fractionBits
  const bias = 2 ** (exponentBits - 1) - 1
  if (exponent === 2 ** exponentBits - 1) return fraction ? NaN : sign * Infinity
  return exponent === 0 ? sign * fraction * 2 ** (1 - bias) : sign * (1 + fraction) * 2 ** (exponent - bias)
}

/** The bits nearest to a value, ties to the even one; NaN has no particular bits. */
function encode(x: number, exponentBits: number, fractionBits: number): number {
  const bias = 2 ** (exponentBits - 1) - 1
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0
  const size = Math.abs(x)
  const infinity = (2 ** exponentBits - 1) << fractionBits
  if (Number.isNaN(x)) return infinity + 1
  if (size === Infinity) return sign | infinity
  let exponent = 1 - bias // of subnormals
  if (size > 0) exponent = Math.max(exponent, Math.floor(Math.log2(size)) - 1) // near it from below
  while (size >= 2 ** (exponent + 1)) exponent++
  // In units of the last place; a whole number after rounding, and a carry into the exponent comes out by itself.
  const units = roundHalfToEven(size / 2 ** (exponent - fractionBits))
  const bits = (exponent - (1 - bias)) * 2 ** fractionBits + units
  return sign | Math.min(bits, infinity)
}

function roundHalfToEven(x: number): number {
  const below = Math.floor(x)
  if (x - below !== 0.5) return Math.round(x)
  return below % 2 === 0 ? below : below + 1
}

export const formats = {
  float16: {
    decode: (bits: number): number => decode(bits, 5, 10),
    encode: (x: number): number => encode(x, 5, 10),
  },
  bfloat16: {
    decode: (bits: number): number => decode(bits, 8, 7),
    encode: (x: number): number => encode(x, 8, 7),
  },
}
