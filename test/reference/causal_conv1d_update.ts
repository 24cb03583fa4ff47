import { NDArray } from './array.js'
import { siluOf } from './functions.js'

export interface ConvUpdateInputs {
  x: NDArray // (b, d) or (b, d, s)
  convState: NDArray // (b or slots, d, m), m ≥ w−1, changed in place
  weight: NDArray // (d, w)
  bias?: NDArray | null // (d)
  activation?: null | 'silu'
  cacheSeqlens?: ArrayLike<number> | null // (b)
  stateIndices?: ArrayLike<number> | null // (b)
}

/**
 * The causal convolution of s more tokens, given the inputs before them. The state is a window of the last m inputs that
 * shifts left as new ones come in; with cacheSeqlens it is a ring instead, in which the input of position p lies in slot
 * p mod m, and the new tokens are at positions cacheSeqlens, cacheSeqlens + 1, …
 */
export function causalConv1dUpdate(q: ConvUpdateInputs): NDArray {
  const b = q.x.shape[0]!
  const d = q.x.shape[1]!
  const s = q.x.shape[2] ?? 1
  const x = q.x.reshape([b, d, s])
  const w = q.weight.shape[1]!
  const m = q.convState.shape[2]!
  const out = new NDArray([b, d, s])
  for (let i = 0; i < b; i++) {
    const slot = q.stateIndices ? q.stateIndices[i]! : i
    if (slot < 0) continue
    for (let c = 0; c < d; c++) {
      const before = new Map<number, number>() // inputs by position relative to the first new token
      for (let k = 1; k < w; k++) {
        const at = q.cacheSeqlens ? modulo(q.cacheSeqlens[i]! - k, m) : m - k
        before.set(-k, q.convState.at(slot, c, at))
      }
      const input = (t: number): number => (t >= 0 ? x.at(i, c, t) : before.get(t)!)
      for (let t = 0; t < s; t++) {
        let y = q.bias ? q.bias.at(c) : 0
        for (let k = 0; k < w; k++) y += q.weight.at(c, k) * input(t - (w - 1) + k)
        out.set(q.activation === 'silu' ? siluOf(y) : y, i, c, t)
      }
      if (q.cacheSeqlens) {
        for (let t = 0; t < s; t++) q.convState.set(x.at(i, c, t), slot, c, modulo(q.cacheSeqlens[i]! + t, m))
      } else {
        const old = Array.from({ length: m }, (_, k) => q.convState.at(slot, c, k))
        const all = [...old, ...Array.from({ length: s }, (_, t) => x.at(i, c, t))]
        all.slice(-m).forEach((value, k) => q.convState.set(value, slot, c, k))
      }
    }
  }
  return out.reshape(q.x.shape)
}

function modulo(a: number, m: number): number {
  return ((a % m) + m) % m
}
