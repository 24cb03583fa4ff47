import { shown, typeError } from '../errors.js'
import { native } from '../native.js'
import { checkOptions, number } from '../options.js'
import type { Tensor, TensorInput } from '../tensor.js'
import { call, one } from './call.js'

/** x / (1 + e^-x), element by element, of float32, float16 or bfloat16 and in that dtype. Laid out in memory as x is. */
export function silu(x: TensorInput): Tensor {
  return one(call(['x'], 1, [x], (h) => native.silu(h[0]!)))
}

const both = ['a', 'b']

/** a + b, with NumPy's broadcasting; both float32, float16 or bfloat16, and so is the sum. */
export function add(a: TensorInput, b: TensorInput): Tensor {
  return one(call(both, 2, [a, b], (h) => native.add(h[0]!, h[1]!)))
}

export interface GeluOptions {
  /** 'none', the default, for x·Φ(x) with the normal distribution's Φ; 'tanh' for the approximation that many models use. */
  approximate?: 'none' | 'tanh'
}

/**
 * The Gaussian error linear unit (Hendrycks and Gimpel, 2016), element by element, of float32, float16 or bfloat16 and in that
 * dtype: x·Φ(x), or with `approximate: 'tanh'` x·(1 + tanh(√(2/π)·(x + 0.044715 x³))) / 2. Laid out in memory as x is.
 *
 * Errors: ERR_DTYPE, ERR_DISPOSED, ERR_OPTION.
 */
export function gelu(x: TensorInput, options: GeluOptions = {}): Tensor {
  checkOptions(options, ['approximate'])
  const { approximate = 'none' } = options
  if (approximate !== 'none' && approximate !== 'tanh')
    throw typeError('ERR_OPTION', 'approximate', "'none' or 'tanh'", shown(approximate))
  return one(call(['x'], 1, [x], (h) => native.gelu(h[0]!, approximate === 'tanh')))
}

/**
 * cap·tanh(x / cap), element by element: x where it is small, and never beyond ±cap, as Gemma 2 bounds its logits. Of float32,
 * float16 or bfloat16 and in that dtype; cap is above 0. Laid out in memory as x is.
 *
 * Errors: ERR_DTYPE, ERR_DISPOSED, ERR_OPTION.
 */
export function softcap(x: TensorInput, cap: number): Tensor {
  const most = number(cap, 'cap', NaN)
  return one(call(['x'], 1, [x], (h) => native.softcap(h[0]!, most)))
}

/** What `mul` may do to its first operand; 'gelu_tanh' is `gelu` with `approximate: 'tanh'`. */
export type Gate = 'silu' | 'gelu' | 'gelu_tanh' | null

export interface MulOptions {
  /** Multiplies activation(a) by b: a gated layer's two halves in one pass (SwiGLU, GeGLU: Shazeer, 2020). Default none. */
  activation?: Gate
}

const gates = [null, 'silu', 'gelu', 'gelu_tanh'] as const

/**
 * activation(a) · b element by element, with NumPy's broadcasting; both float32, float16 or bfloat16, and so is the product,
 * which is rounded once.
 *
 * Errors: ERR_SHAPE, ERR_DTYPE, ERR_DEVICE, ERR_DISPOSED, ERR_OPTION.
 */
export function mul(a: TensorInput, b: TensorInput, options: MulOptions = {}): Tensor {
  checkOptions(options, ['activation'])
  const gate = gates.indexOf(options.activation ?? null)
  if (gate < 0)
    throw typeError('ERR_OPTION', 'activation', "null, 'silu', 'gelu' or 'gelu_tanh'", shown(options.activation))
  return one(call(both, 2, [a, b], (h) => native.mul(h[0]!, h[1]!, gate)))
}
