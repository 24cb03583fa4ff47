import { native } from '../native.js'
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

/** a · b element by element, with NumPy's broadcasting; both float32, float16 or bfloat16, and so is the product. */
export function mul(a: TensorInput, b: TensorInput): Tensor {
  return one(call(both, 2, [a, b], (h) => native.mul(h[0]!, h[1]!)))
}
