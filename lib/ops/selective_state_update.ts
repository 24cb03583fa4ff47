import { native } from '../native.js'
import { checkOptions, flag } from '../options.js'
import type { Tensor, TensorInput } from '../tensor.js'
import { call, inPlace, one } from './call.js'

export interface SelectiveStateUpdateOptions {
  /** (d), or (h, p) or (h): adds D·x to y. */
  D?: TensorInput | null
  /** As x: the gate; out = y·silu(z). */
  z?: TensorInput | null
  /** (d), or (h, p) or (h): added to dt. */
  dtBias?: TensorInput | null
  /** Δ = softplus(dt + dtBias). */
  dtSoftplus?: boolean
  /** (b) int32: the row of `state` that each row of x has. Negative: that row's out is 0 and no state is touched. */
  stateIndices?: TensorInput | null
}

const known = ['D', 'z', 'dtBias', 'dtSoftplus', 'stateIndices'] as const
const names = ['state', 'x', 'dt', 'A', 'B', 'C', 'D', 'z', 'dtBias', 'stateIndices']

/**
 * One token of the selective scan, as `selective_state_update` of mamba_ssm: `state` is changed in place and the token's
 * output returned. It is the same arithmetic as `selectiveScan`, so a scan token by token agrees with a scan at once.
 *
 * Mamba: state (b, d, n); x, dt, z (b, d); A (d, n); B, C (b, n) or (b, g, n); D, dtBias (d); out (b, d).
 * Mamba-2: state (b, h, p, n); x, z (b, h, p); dt (b, h, p) or (b, h); A (h, p, n) or (h); B, C (b, n) or (b, g, n);
 * D, dtBias (h, p) or (h); out (b, h, p). With `stateIndices`, state may have any number of rows.
 *
 * x, dt, z, B and C are of one dtype, float32, float16 or bfloat16, and so is out; A, D, dtBias and state may each have any of
 * the three. The token is computed in float32; a state in 16 bits is rounded to nearest even at each.
 *
 * Errors: ERR_SHAPE, ERR_DTYPE, ERR_DEVICE, ERR_DISPOSED, ERR_OPTION; an entry of stateIndices past the last state touches
 * nothing, gives 0, and is reported as ERR_INDEX by the next read.
 */
export function selectiveStateUpdate(
  state: Tensor,
  x: TensorInput,
  dt: TensorInput,
  A: TensorInput,
  B: TensorInput,
  C: TensorInput,
  options: SelectiveStateUpdateOptions = {},
): Tensor {
  checkOptions(options, known)
  inPlace(state, 'state')
  const { D, z, dtBias, stateIndices } = options
  const softplus = flag(options.dtSoftplus, 'dtSoftplus')
  const inputs = [state, x, dt, A, B, C, D, z, dtBias, stateIndices]
  return one(
    call(names, 6, inputs, (h) =>
      native.selectiveStateUpdate(h[0]!, h[1]!, h[2]!, h[3]!, h[4]!, h[5]!, h[6], h[7], h[8], h[9], softplus),
    ),
  )
}
