// What the layers of Mamba and Mamba-2 share: how they check their arguments, their convolution, and how A comes out of a
// checkpoint.

import type { Device } from '../index.js'
import { SeqmixError, rangeError, shown, typeError } from '../errors.js'
import { causalConv1d, tensor, type Tensor } from '../index.js'
import { checkOptions } from '../options.js'
import type { RecurrentCache, RecurrentStates } from './recurrent-cache.js'
import { expectInput } from './state.js'

/** Refuses before the cache changes what would be refused only after. Throws as the ops do. */
export function expectContext(
  x: Tensor,
  rank: 2 | 3,
  cache: RecurrentCache | undefined,
  options: { residual?: Tensor },
): void {
  checkOptions(options, ['residual'])
  expectInput(x, rank, options.residual)
  if (cache !== undefined && cache.batch !== x.shape[0]) {
    throw rangeError('ERR_SHAPE', 'cache', `a batch of ${x.shape[0]} as x has`, `${cache.batch}`)
  }
}

/** The cache of a layer of one kind. Throws ERR_OPTION for anything else. */
export function expectCache<C extends RecurrentCache>(cache: unknown, Kind: new (states: RecurrentStates) => C): C {
  if (cache instanceof Kind) return cache
  throw typeError('ERR_OPTION', 'cache', 'what newCache returns', shown(cache))
}

/** Throws ERR_UNSUPPORTED for an activation that the layer does not have. */
export function checkActivation(name: unknown = 'silu'): void {
  if (name === 'silu' || name === 'swish') return
  throw new SeqmixError('ERR_UNSUPPORTED', `hidden_act: expected 'silu', the one that is supported, got ${shown(name)}`)
}

/** A of A_log: in float64 and rounded once, so that nothing is lost beyond what the stored value lost. */
export function negativeExp(values: Float32Array, shape: readonly number[], device: Device): Tensor {
  return tensor(
    values.map((v) => -Math.exp(v)),
    { shape: [...shape], device },
  )
}

/**
 * The layers' convolution, with silu: (b, d, L) → (b, d, L), continuing what a cache holds and keeping its last inputs there.
 */
export function convolve(
  input: Tensor,
  weight: Tensor,
  bias: Tensor | undefined,
  cache: RecurrentCache | undefined,
): Tensor {
  const options = { bias, activation: 'silu' } as const
  if (!cache) return causalConv1d(input, weight, options)
  const { out, finalStates } = causalConv1d(input, weight, {
    ...options,
    initialStates: cache.convState,
    returnFinalStates: true,
  })
  cache.keepInputs(finalStates)
  return out
}
