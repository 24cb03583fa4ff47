import { native } from '../native.js'
import { type Activation, activation, checkOptions, flag } from '../options.js'
import type { Tensor, TensorInput } from '../tensor.js'
import { call, inPlace, one, two } from './call.js'

export interface CausalConv1dOptions {
  /** (d) */
  bias?: TensorInput | null
  /** `'silu'`, or null for none. */
  activation?: Activation
  /** (b, d, w - 1), of any of the dtypes: the inputs before the first token, oldest first; 0 when absent. */
  initialStates?: TensorInput | null
  /** (b, L) int32: which packed sequence each token belongs to, another one wherever it changes; taps from another count as 0. */
  seqIdx?: TensorInput | null
  /** Also return the last w - 1 inputs. */
  returnFinalStates?: boolean
}

const known = ['bias', 'activation', 'initialStates', 'seqIdx', 'returnFinalStates'] as const
const names = ['x', 'weight', 'bias', 'initialStates', 'seqIdx']

/**
 * A causal convolution along L, each channel on its own (`causal_conv1d_fn` of causal-conv1d):
 *
 *     out[t] = activation(bias + Σ_k weight[k] x[t - (w - 1) + k])
 *
 * x (b, d, L), float32, float16 or bfloat16, in either memory order; weight (d, w), any w ≥ 1, and bias, each of any of the
 * three. Returns out (b, d, L) of x's dtype, laid out in memory as x is; with `returnFinalStates`, `{ out, finalStates }`
 * with finalStates (b, d, w - 1) of x's dtype, which the next call takes as `initialStates`. Sums are float32.
 *
 * Errors: ERR_SHAPE, ERR_DTYPE, ERR_DEVICE, ERR_DISPOSED, ERR_OPTION.
 */
export function causalConv1d(
  x: TensorInput,
  weight: TensorInput,
  options: CausalConv1dOptions & { returnFinalStates: true },
): { out: Tensor; finalStates: Tensor }
export function causalConv1d(
  x: TensorInput,
  weight: TensorInput,
  options?: CausalConv1dOptions & { returnFinalStates?: false },
): Tensor
export function causalConv1d(
  x: TensorInput,
  weight: TensorInput,
  options?: CausalConv1dOptions,
): Tensor | { out: Tensor; finalStates: Tensor }
export function causalConv1d(
  x: TensorInput,
  weight: TensorInput,
  options: CausalConv1dOptions = {},
): Tensor | { out: Tensor; finalStates: Tensor } {
  checkOptions(options, known)
  const act = activation(options.activation)
  const final = flag(options.returnFinalStates, 'returnFinalStates')
  const { bias, initialStates, seqIdx } = options
  const result = call(names, 2, [x, weight, bias, initialStates, seqIdx], (h) =>
    native.causalConv1d(h[0]!, h[1]!, h[2], h[3], h[4], act, final),
  )
  if (!final) return one(result)
  const [out, finalStates] = two(result)
  return { out, finalStates }
}

export interface CausalConv1dUpdateOptions {
  /** (d) */
  bias?: TensorInput | null
  /** `'silu'`, or null for none. */
  activation?: Activation
  /** (b) int32: tokens before these. With it the state is a ring: position p is at p modulo its length. */
  cacheSeqlens?: TensorInput | null
  /** (b) int32: the row of convState that each row of x has. Negative: that row's out is 0 and no state is touched. */
  stateIndices?: TensorInput | null
}

const knownUpdate = ['bias', 'activation', 'cacheSeqlens', 'stateIndices'] as const
const namesUpdate = ['x', 'convState', 'weight', 'bias', 'cacheSeqlens', 'stateIndices']

/**
 * One or a few more tokens of the convolution (`causal_conv1d_update` of causal-conv1d): `convState` (b, d, length ≥ w - 1),
 * the last inputs with the newest at the end, is changed in place, and may have any of the dtypes: inputs are rounded to it
 * as they come in. x (b, d) or (b, d, s); returns out in x's shape and dtype.
 *
 * Errors: as `causalConv1d`; an entry of stateIndices past the last state is ERR_INDEX at the next read.
 */
export function causalConv1dUpdate(
  x: TensorInput,
  convState: Tensor,
  weight: TensorInput,
  options: CausalConv1dUpdateOptions = {},
): Tensor {
  checkOptions(options, knownUpdate)
  inPlace(convState, 'convState')
  const act = activation(options.activation)
  const { bias, cacheSeqlens, stateIndices } = options
  return one(
    call(namesUpdate, 3, [x, convState, weight, bias, cacheSeqlens, stateIndices], (h) =>
      native.causalConv1dUpdate(h[0]!, h[1]!, h[2]!, h[3], h[4], h[5], act),
    ),
  )
}
