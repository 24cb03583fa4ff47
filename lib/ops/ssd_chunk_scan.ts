import { rangeError, shown, typeError } from '../errors.js'
import { native } from '../native.js'
import { checkOptions, flag, whole } from '../options.js'
import type { Tensor, TensorInput } from '../tensor.js'
import { call, one, two } from './call.js'

/** How `ssdChunkScan` computes: see there. */
export type SsdMode = 'auto' | 'chunked' | 'recurrent' | 'quadratic'

export interface SsdChunkScanOptions {
  /** Tokens of a chunk, 16 to 256, in the CPU's chunked form; what is fastest when absent. It changes nothing but rounding. */
  chunkSize?: number
  /** (h) or (h, p): adds D·x to y. */
  D?: TensorInput | null
  /** (b, L, h, p): the gate; out = y·silu(z). */
  z?: TensorInput | null
  /** (h): added to dt. */
  dtBias?: TensorInput | null
  /** softplus(dt + dtBias). */
  dtSoftplus?: boolean
  /** The last step for dt: it is clamped to [lowest, highest]. Default [0, Infinity], as in `mamba_ssm`. */
  dtLimit?: readonly [number, number]
  /** (b, h, p, n): the states before the first token; 0 when absent. With `seqIdx` they go to each row's first sequence. */
  initialStates?: TensorInput | null
  /** (b, L) int32: which packed sequence each token belongs to; the state is 0 again where it changes. */
  seqIdx?: TensorInput | null
  /** Also return the states after the last token. */
  returnFinalStates?: boolean
  /** Which of the three forms; 'auto', the default, takes the fastest. */
  mode?: SsdMode
}

const known = [
  'chunkSize',
  'D',
  'z',
  'dtBias',
  'dtSoftplus',
  'dtLimit',
  'initialStates',
  'seqIdx',
  'returnFinalStates',
  'mode',
] as const
const names = ['x', 'dt', 'A', 'B', 'C', 'D', 'z', 'dtBias', 'initialStates', 'seqIdx']
const modes: readonly SsdMode[] = ['auto', 'chunked', 'recurrent', 'quadratic'] // in the addon's order

/**
 * The scan of Mamba-2 (Dao and Gu, 2024; `mamba_chunk_scan_combined` of mamba_ssm), for each head on its own, its decay one
 * number a token:
 *
 *     dt' = dt + dtBias, through softplus if asked, then clamped to dtLimit
 *     h_t = exp(dt'_t A) h_{t-1} + dt'_t x_t ⊗ B_t      (p × n states a head, float32)
 *     y_t = h_t C_t + D x_t,   out = y silu(z)
 *
 * The paper's point is that this recurrence is also a kind of attention. With a_t = Σ_{s≤t} dt'_s A, unrolled,
 *
 *     y_i = Σ_{j≤i} exp(a_i − a_j) (C_i · B_j) dt'_j x_j,   that is   Y = (C Bᵀ ∘ M) X,   M_ij = exp(a_i − a_j) dt'_j for j ≤ i
 *
 * so `mode` may be
 * - `'recurrent'`: token by token as above; work in L·p·n;
 * - `'quadratic'`: the matrix product, C for queries, B for keys and the decays for a softmax; work in L²·(p + n/heads of a
 *   group), least for short sequences;
 * - `'chunked'`: the quadratic form inside chunks and the recurrence between them, Y += exp(a_i) C S with S the state that
 *   the chunk began with: matrix products all of it, and linear in L;
 * - `'auto'`: the one that is fastest for these sizes on this device.
 *
 * They give the same result to rounding. A may be positive too. On the CPU each mode is a kernel of its own. On CUDA there are
 * two kernels, and `debug.lastKernel` names the one that ran:
 * - in chunks of 64 tokens on tensor cores, for float16 and bfloat16 in every mode but 'recurrent', where L, p and n are at
 *   least 16, n at most 256, dtLimit not negative, and the channels and states of x, B, C and z lie side by side. It rounds
 *   decays and states to the 16-bit dtype before it multiplies them. Heads whose results it finds not to be finite are done
 *   again by the other kernel, so that NaN and infinity stay in their channel and sequence;
 * - token by token in float32 arithmetic for everything else: float32 operands, mode 'recurrent', other sizes and strides.
 *
 * x, z (b, L, h, p), B, C (b, L, g, n), of one dtype: float32, float16 or bfloat16; head i uses group ⌊i·g/h⌋. dt (b, L, h) of that
 * dtype or float32. A (h), D, dtBias, initialStates of any of the three. Any p, n, L and strides. Returns out (b, L, h, p)
 * of x's dtype; with `returnFinalStates`, `{ out, finalStates }` with finalStates (b, h, p, n) float32.
 *
 * Errors: ERR_SHAPE, ERR_DTYPE, ERR_DEVICE, ERR_DISPOSED, ERR_OPTION.
 */
export function ssdChunkScan(
  x: TensorInput,
  dt: TensorInput,
  A: TensorInput,
  B: TensorInput,
  C: TensorInput,
  options: SsdChunkScanOptions & { returnFinalStates: true },
): { out: Tensor; finalStates: Tensor }
export function ssdChunkScan(
  x: TensorInput,
  dt: TensorInput,
  A: TensorInput,
  B: TensorInput,
  C: TensorInput,
  options?: SsdChunkScanOptions & { returnFinalStates?: false },
): Tensor
export function ssdChunkScan(
  x: TensorInput,
  dt: TensorInput,
  A: TensorInput,
  B: TensorInput,
  C: TensorInput,
  options?: SsdChunkScanOptions,
): Tensor | { out: Tensor; finalStates: Tensor }
export function ssdChunkScan(
  x: TensorInput,
  dt: TensorInput,
  A: TensorInput,
  B: TensorInput,
  C: TensorInput,
  options: SsdChunkScanOptions = {},
): Tensor | { out: Tensor; finalStates: Tensor } {
  checkOptions(options, known)
  const { D, z, dtBias, initialStates, seqIdx } = options
  const softplus = flag(options.dtSoftplus, 'dtSoftplus')
  const final = flag(options.returnFinalStates, 'returnFinalStates')
  const [lowest, highest] = limits(options.dtLimit)
  const chunk = chunkSize(options.chunkSize)
  const mode = modeNumber(options.mode)
  const inputs = [x, dt, A, B, C, D, z, dtBias, initialStates, seqIdx]
  const result = call(names, 5, inputs, (h) =>
    native.ssdChunkScan(
      ...([h[0]!, h[1]!, h[2]!, h[3]!, h[4]!, h[5], h[6], h[7], h[8], h[9]] as const),
      ...([softplus, lowest, highest, chunk, mode, final] as const),
    ),
  )
  if (!final) return one(result)
  const [out, finalStates] = two(result)
  return { out, finalStates }
}

function limits(value: unknown): readonly [number, number] {
  if (value === undefined || value === null) return [0, Infinity]
  const [lowest, highest]: unknown[] = Array.isArray(value) && value.length === 2 ? [value[0], value[1]] : []
  if (typeof lowest !== 'number' || typeof highest !== 'number')
    throw typeError('ERR_OPTION', 'dtLimit', 'two numbers, the lower first', shown(value))
  return [lowest, highest]
}

/** 0 stands for the fastest. */
function chunkSize(value: unknown): number {
  const size = whole(value, 'chunkSize', 0)
  if (size === 0 && value !== undefined) throw rangeError('ERR_OPTION', 'chunkSize', 'a number from 16 to 256', '0')
  return size
}

function modeNumber(value: unknown): number {
  if (value === undefined) return 0
  const at = modes.indexOf(value as SsdMode)
  if (at < 0) throw typeError('ERR_OPTION', 'mode', `one of ${modes.map((m) => `'${m}'`).join(', ')}`, shown(value))
  return at
}
