import { NDArray } from './array.js'
import { siluOf } from './functions.js'

export interface ConvInputs {
  x: NDArray // (b, d, L)
  weight: NDArray // (d, w)
  bias?: NDArray | null // (d)
  activation?: null | 'silu'
  initialStates?: NDArray | null // (b, d, w−1), oldest first
  seqIdx?: NDArray | null // (b, L)
}

/**
 * The causal depthwise convolution of Mamba: out_t = act(bias + Σ_k weight_k x_{t−(w−1)+k}), where what lies before the
 * first token is initialStates (or 0), which belongs to the first sequence of the row. A tap that would reach past the
 * beginning of its token's sequence counts as 0; a sequence begins wherever seqIdx changes. finalStates are the last w−1 inputs, whatever their sequence.
 */
export function causalConv1d(q: ConvInputs): { out: NDArray; finalStates: NDArray } {
  const [b, d, L] = q.x.shape as [number, number, number]
  const w = q.weight.shape[1]!
  const out = new NDArray([b, d, L])
  const finalStates = new NDArray([b, d, w - 1])
  for (let i = 0; i < b; i++) {
    const begins = sequenceStarts(q.seqIdx, i, L)
    for (let c = 0; c < d; c++) {
      const input = (t: number): number =>
        t >= 0 ? q.x.at(i, c, t) : q.initialStates ? q.initialStates.at(i, c, t + w - 1) : 0
      for (let t = 0; t < L; t++) {
        let y = q.bias ? q.bias.at(c) : 0
        for (let k = 0; k < w; k++) {
          const from = t - (w - 1) + k
          if (from >= begins[t]!) y += q.weight.at(c, k) * input(from)
        }
        out.set(q.activation === 'silu' ? siluOf(y) : y, i, c, t)
      }
      for (let k = 0; k < w - 1; k++) finalStates.set(input(L - (w - 1) + k), i, c, k)
    }
  }
  return { out, finalStates }
}

/** For each token of row i the first position of its sequence; the first sequence reaches back into the initial states. */
function sequenceStarts(seqIdx: NDArray | null | undefined, i: number, L: number): number[] {
  const begins: number[] = []
  let start = -Infinity
  for (let t = 0; t < L; t++) {
    if (seqIdx && t > 0 && seqIdx.at(i, t) !== seqIdx.at(i, t - 1)) start = t
    begins.push(start)
  }
  return begins
}
