import { native } from '../native.js'
import { checkOptions, flag } from '../options.js'
import type { Tensor, TensorInput } from '../tensor.js'
import { call, one, two } from './call.js'

export interface SelectiveScanOptions {
  /** (d): adds D·u to y. */
  D?: TensorInput | null
  /** (b, d, L): the gate; out = y·silu(z). */
  z?: TensorInput | null
  /** (d): added to delta. */
  deltaBias?: TensorInput | null
  /** Δ = softplus(delta + deltaBias). */
  deltaSoftplus?: boolean
  /**
   * (b, d, n), of any of the dtypes: the state before the first token; 0 when absent. With `seqIdx` it goes to each row's first
   * sequence.
   */
  initialState?: TensorInput | null
  /** (b, L) int32: which packed sequence each token belongs to; the state is 0 again where it changes. */
  seqIdx?: TensorInput | null
  /** Also return the state after the last token. */
  returnLastState?: boolean
}

const known = ['D', 'z', 'deltaBias', 'deltaSoftplus', 'initialState', 'seqIdx', 'returnLastState'] as const
const names = ['u', 'delta', 'A', 'B', 'C', 'D', 'z', 'deltaBias', 'initialState', 'seqIdx']

/**
 * The selective scan of Mamba (Gu and Dao, 2023; `selective_scan_fn` of mamba_ssm), for each channel on its own:
 *
 *     Δ = delta + deltaBias, through softplus if asked
 *     h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t        (n states a channel, float32)
 *     y_t = C_t · h_t + D u_t,   out = y silu(z)
 *
 * u, delta, z (b, d, L), of one dtype: float32, float16 or bfloat16. B, C (b, n, L) of that dtype, or (b, g, n, L) with a group
 * for every d/g channels; or (d, n), constant in time. Those, A (d, n), D and deltaBias may each have any of the three. Any n,
 * any L, any strides; fastest where L or d has stride 1. Returns out (b, d, L) of u's dtype, laid out in memory as u is; with
 * `returnLastState`, `{ out, lastState }` with lastState (b, d, n) float32.
 *
 * Errors: ERR_SHAPE, ERR_DTYPE, ERR_DEVICE, ERR_DISPOSED, ERR_OPTION.
 */
export function selectiveScan(
  u: TensorInput,
  delta: TensorInput,
  A: TensorInput,
  B: TensorInput,
  C: TensorInput,
  options: SelectiveScanOptions & { returnLastState: true },
): { out: Tensor; lastState: Tensor }
export function selectiveScan(
  u: TensorInput,
  delta: TensorInput,
  A: TensorInput,
  B: TensorInput,
  C: TensorInput,
  options?: SelectiveScanOptions & { returnLastState?: false },
): Tensor
export function selectiveScan(
  u: TensorInput,
  delta: TensorInput,
  A: TensorInput,
  B: TensorInput,
  C: TensorInput,
  options?: SelectiveScanOptions,
): Tensor | { out: Tensor; lastState: Tensor }
export function selectiveScan(
  u: TensorInput,
  delta: TensorInput,
  A: TensorInput,
  B: TensorInput,
  C: TensorInput,
  options: SelectiveScanOptions = {},
): Tensor | { out: Tensor; lastState: Tensor } {
  checkOptions(options, known)
  const { D, z, deltaBias, initialState, seqIdx } = options
  const softplus = flag(options.deltaSoftplus, 'deltaSoftplus')
  const last = flag(options.returnLastState, 'returnLastState')
  const inputs = [u, delta, A, B, C, D, z, deltaBias, initialState, seqIdx]
  const result = call(names, 5, inputs, (h) =>
    native.selectiveScan(h[0]!, h[1]!, h[2]!, h[3]!, h[4]!, h[5], h[6], h[7], h[8], h[9], softplus, last),
  )
  if (!last) return one(result)
  const [out, lastState] = two(result)
  return { out, lastState }
}
