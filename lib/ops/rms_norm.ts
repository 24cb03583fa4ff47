import { rangeError } from '../errors.js'
import { native } from '../native.js'
import { checkOptions, flag, number, whole } from '../options.js'
import type { Tensor, TensorInput } from '../tensor.js'
import { call, one, two } from './call.js'

export interface RmsNormOptions {
  /** Added to the mean square. Default 1e-5. */
  eps?: number
  /** As x, or float32: added to x first; the sum is returned too. */
  residual?: TensorInput | null
  /** Keep that sum in float32 where x and residual have 16 bits (false). A float32 residual gives a float32 sum anyway. */
  residualInFp32?: boolean
  /** As x: the gate. What is normed is x·silu(z), or the norm is multiplied by silu(z) where `normBeforeGate`. */
  z?: TensorInput | null
  /** How many neighbours are normed together, a divisor of n (n). `mamba_ssm` has n over its number of groups. */
  groupSize?: number
  /** Gate after the norm (false, as Mamba-2 has it; `mamba_ssm`'s function by itself takes true for the default). */
  normBeforeGate?: boolean
}

const known = ['eps', 'residual', 'residualInFp32', 'z', 'groupSize', 'normBeforeGate'] as const
const names = ['x', 'weight', 'residual', 'z']

/**
 * Root mean square norm over the last dimension (Zhang and Sennrich, 2019), or over groups of it: x / √(mean(x²) + eps) · weight.
 * With a gate z, as Mamba-2's layer ends (`RMSNormGated` of mamba_ssm):
 *
 *     norm(x · silu(z)) · weight, or norm(x) · weight · silu(z) with normBeforeGate
 *
 * x, z (…, n), of one dtype: float32, float16 or bfloat16, in any strides; weight (n) of any of the three, or null for 1.
 * Returns out, in x's shape and dtype; with `residual`, `{ out, residual }` where x + residual, the new residual, takes the
 * place of x above, before it is rounded. Computed in float32.
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
  const normBeforeGate = flag(options.normBeforeGate, 'normBeforeGate')
  const groupSize = sizeOfGroups(options.groupSize)
  const { residual, z } = options
  const result = call(names, 1, [x, weight, residual, z], (h) =>
    native.rmsNorm(h[0]!, h[1], h[2], h[3], eps, groupSize, residualInFp32, normBeforeGate),
  )
  if (residual === undefined || residual === null) return one(result)
  const [out, sum] = two(result)
  return { out, residual: sum }
}

/** 0 stands for all of a row. */
function sizeOfGroups(value: unknown): number {
  const size = whole(value, 'groupSize', 0)
  if (size === 0 && value !== undefined) throw rangeError('ERR_OPTION', 'groupSize', 'a whole number from 1 on', '0')
  return size
}
