import { native } from '../native.js'
import { checkOptions, flag, number } from '../options.js'
import type { Tensor, TensorInput } from '../tensor.js'
import { call, one, two } from './call.js'

export interface RmsNormOptions {
  /** Added to the mean square. Default 1e-5. */
  eps?: number
  /** As x, or float32: added to x first; the sum is returned too. */
  residual?: TensorInput | null
  /** Keep that sum in float32 where x and residual have 16 bits (false). A float32 residual gives a float32 sum anyway. */
  residualInFp32?: boolean
}

const known = ['eps', 'residual', 'residualInFp32'] as const
const names = ['x', 'weight', 'residual']

/**
 * Root mean square norm over the last dimension (Zhang and Sennrich, 2019): x / √(mean(x²) + eps) · weight.
 * x (…, n), float32, float16 or bfloat16; weight (n) of any of the three, or null for 1. Returns out, in x's shape and dtype;
 * with `residual`, `{ out, residual }` where out is the norm of the new residual, x + residual, before that is rounded.
 * Computed in float32.
 *
 * Errors: ERR_SHAPE, ERR_DTYPE, ERR_DEVICE, ERR_DISPOSED, ERR_OPTION.
 */
export function rmsNorm(
  x: TensorInput,
  weight: TensorInput | null,
  options: RmsNormOptions & { residual: TensorInput },
): { out: Tensor; residual: Tensor }
export function rmsNorm(
  x: TensorInput,
  weight: TensorInput | null,
  options?: RmsNormOptions & { residual?: null },
): Tensor
export function rmsNorm(
  x: TensorInput,
  weight: TensorInput | null,
  options?: RmsNormOptions,
): Tensor | { out: Tensor; residual: Tensor }
export function rmsNorm(
  x: TensorInput,
  weight: TensorInput | null,
  options: RmsNormOptions = {},
): Tensor | { out: Tensor; residual: Tensor } {
  checkOptions(options, known)
  const eps = number(options.eps, 'eps', 1e-5)
  const residualInFp32 = flag(options.residualInFp32, 'residualInFp32')
  const { residual } = options
  const result = call(names, 1, [x, weight, residual], (h) => native.rmsNorm(h[0]!, h[1], h[2], eps, residualInFp32))
  if (residual === undefined || residual === null) return one(result)
  const [out, sum] = two(result)
  return { out, residual: sum }
}
