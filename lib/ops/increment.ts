import { native } from '../native.js'
import { Tensor } from '../tensor.js'
import { inPlace } from './call.js'
import { counter } from './choice.js'

/**
 * Adds a whole number (1) to every element of an int32 or int64 tensor, in place, and returns it. A counter on a device: what
 * `sample` takes as `step` where a captured graph draws. Past the largest number it wraps around.
 */
export function increment(t: Tensor, by: number | bigint = 1): Tensor {
  inPlace(t, 't')
  native.increment(Tensor.handleOf(t), counter(by, 'by'))
  return t
}
