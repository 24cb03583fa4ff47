import { NDArray } from './array.js'
import { siluOf } from './functions.js'

export interface RmsNormOptions {
  eps?: number
  residual?: NDArray | null
  z?: NDArray | null
  groupSize?: number | undefined
  normBeforeGate?: boolean
}

/**
 * x / √(mean(x²) + eps) · weight over the last dimension (Zhang and Sennrich, 2019), or over each group of `groupSize` of it.
 * With residual, the sum x + residual is what is normed, and is returned too. With a gate z (Mamba-2), that is multiplied by
 * silu(z) before it is normed, or the norm is with normBeforeGate.
 */
export function rmsNorm(
  x: NDArray,
  weight: NDArray | null,
  { eps = 1e-5, residual = null, z = null, groupSize = x.shape.at(-1)!, normBeforeGate = false }: RmsNormOptions = {},
): { out: NDArray; residual: NDArray } {
  const sum = residual ? x.map((v, i) => v + residual.data[i]!) : x
  const gate = (i: number): number => (z ? siluOf(z.data[i]!) : 1)
  const normed = normBeforeGate ? sum : sum.map((v, i) => v * gate(i))
  const n = x.shape.at(-1)!
  const out = new NDArray(x.shape)
  for (let group = 0; group < x.size; group += groupSize) {
    let squares = 0
    for (let i = group; i < group + groupSize; i++) squares += normed.data[i]! ** 2
    const scale = 1 / Math.sqrt(squares / groupSize + eps)
    for (let i = group; i < group + groupSize; i++) {
      const w = weight ? weight.at(i % n) : 1
      out.data[i] = normed.data[i]! * scale * w * (normBeforeGate ? gate(i) : 1)
    }
  }
  return { out, residual: sum }
}
