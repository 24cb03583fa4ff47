import { exact, NDArray, type Round } from './array.js'
import { siluOf } from './functions.js'

export interface LinearOptions {
  bias?: NDArray | null // (out)
  activation?: null | 'silu'
  residual?: NDArray | null // (…, out)
}

/** activation(x·Wᵀ + bias) + residual, x (…, in), weight (out, in). */
export function linear(x: NDArray, weight: NDArray, options: LinearOptions = {}, r: Round = exact): NDArray {
  const [outs, ins] = weight.shape as [number, number]
  const rows = x.shape.slice(0, -1).reduce((a, n) => a * n, 1)
  const out = new NDArray([...x.shape.slice(0, -1), outs])
  for (let i = 0; i < rows; i++)
    for (let o = 0; o < outs; o++) {
      let y = 0
      for (let k = 0; k < ins; k++) y = r(y + r(x.data[i * ins + k]! * weight.at(o, k)))
      if (options.bias) y = r(y + options.bias.at(o))
      if (options.activation === 'silu') y = siluOf(y, r)
      if (options.residual) y = r(y + options.residual.data[i * outs + o]!)
      out.data[i * outs + o] = y
    }
  return out
}
