import { native } from '../native.js'
import { checkOptions, flag } from '../options.js'
import type { Tensor, TensorInput } from '../tensor.js'
import { call, one } from './call.js'

export interface RotaryOptions {
  /** Pairs (0, 1), (2, 3), …; else (0, r / 2), (1, r / 2 + 1), …, as most checkpoints have them. */
  interleaved?: boolean
  /** (L) or (b, L) int32 or int64: each token's row of the tables. Token t is at t where none are given. */
  positions?: TensorInput | null
}

const names = ['x', 'cos', 'sin', 'positions']

/**
 * Rotary position embedding (Su et al., RoFormer, 2021): turns pairs of a head's elements by an angle that grows with the
 * token's position. x (b, L, h, d), float32, float16 or bfloat16, of any strides; cos and sin (positions, r / 2) of any of the
 * three. The first r elements of each head are turned, pair (x₁, x₂) into (x₁ cos − x₂ sin, x₁ sin + x₂ cos); the others are
 * copied. Returns (b, L, h, d) of x's dtype.
 *
 * Errors: ERR_SHAPE, ERR_DTYPE, ERR_DEVICE, ERR_DISPOSED, ERR_OPTION. A token whose position is no row of the tables gives 0,
 * and the next read throws ERR_INDEX.
 */
export function rotary(x: TensorInput, cos: TensorInput, sin: TensorInput, options: RotaryOptions = {}): Tensor {
  checkOptions(options, ['interleaved', 'positions'])
  const interleaved = flag(options.interleaved, 'interleaved')
  return one(
    call(names, 3, [x, cos, sin, options.positions], (h) => native.rotary(h[0]!, h[1]!, h[2]!, h[3], interleaved)),
  )
}
