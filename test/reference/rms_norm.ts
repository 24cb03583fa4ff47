import { NDArray } from './array.js'

/**
 * x / √(mean(x²) + eps) · weight over the last dimension (Zhang and Sennrich, 2019). With residual, the sum
 * x + residual is what is normed, and is returned too.
 */
export function rmsNorm(
  x: NDArray,
  weight: NDArray | null,
  { eps = 1e-5, residual = null }: { eps?: number; residual?: NDArray | null } = {},
): { out: NDArray; residual: NDArray } {
  const sum = residual ? x.map((v, i) => v + residual.data[i]!) : x
  const n = x.shape.at(-1)!
  const out = new NDArray(x.shape)
  for (let row = 0; row < x.size; row += n) {
    let squares = 0
    for (let i = 0; i < n; i++) squares += sum.data[row + i]! ** 2
    const scale = 1 / Math.sqrt(squares / n + eps)
    for (let i = 0; i < n; i++) out.data[row + i] = sum.data[row + i]! * scale * (weight ? weight.at(i) : 1)
  }
  return { out, residual: sum }
}
