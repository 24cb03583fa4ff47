import { native } from '../native.js'
import { type Activation, activation, checkOptions } from '../options.js'
import type { Tensor, TensorInput } from '../tensor.js'
import { call, one } from './call.js'

export interface LinearOptions {
  /** (out) */
  bias?: TensorInput | null
  /** `'silu'`, or null for none. */
  activation?: Activation
  /** In the result's shape and dtype: added at the end. */
  residual?: TensorInput | null
}

const known = ['bias', 'activation', 'residual'] as const
const names = ['x', 'weight', 'bias', 'residual']

/**
 * activation(x Wᵀ + bias) + residual. x (…, in), float32, float16 or bfloat16; weight (out, in) as checkpoints have it, and
 * bias, each of any of the three; returns (…, out) of x's dtype. Sums are float32, and the result is rounded once. On CUDA, x
 * and a weight of one 16-bit dtype are multiplied by tensor cores.
 *
 * Errors: ERR_SHAPE, ERR_DTYPE, ERR_DEVICE, ERR_DISPOSED, ERR_OPTION.
 */
export function linear(x: TensorInput, weight: TensorInput, options: LinearOptions = {}): Tensor {
  checkOptions(options, known)
  const act = activation(options.activation)
  return one(
    call(names, 2, [x, weight, options.bias, options.residual], (h) => native.linear(h[0]!, h[1]!, h[2], h[3], act)),
  )
}
