import { exact, NDArray, type Round } from './array.js'
import { siluOf, softplus } from './functions.js'

export interface UpdateInputs {
  state: NDArray // (b or slots, d, n), changed in place
  x: NDArray // (b, d)
  dt: NDArray // (b, d)
  A: NDArray // (d, n)
  B: NDArray // (b, n) or (b, g, n)
  C: NDArray // as B
  D?: NDArray | null // (d)
  z?: NDArray | null // (b, d)
  dtBias?: NDArray | null // (d)
  dtSoftplus?: boolean
  stateIndices?: ArrayLike<number> | null // (b)
}

/**
 * One token of the selective scan, the state changed in place. Row i works on slot stateIndices[i] (its own, where
 * there are none); a negative index gives a row of 0 and touches nothing.
 *
 * The form with heads (state (·, h, p, n), x (b, h, p), A (h, p, n), B (b, g, n), D and dtBias (h, p)) is the same
 * with h·p channels: head k of h uses group ⌊k·g/h⌋, and so does each of its channels.
 */
export function selectiveStateUpdate(q: UpdateInputs, r: Round = exact): NDArray {
  const channels = q.x.shape.slice(1)
  const d = channels.reduce((a, m) => a * m, 1)
  const b = q.x.shape[0]!
  const slots = q.state.shape[0]!
  const n = q.state.shape.at(-1)!
  const state = q.state.reshape([slots, d, n])
  const [x, dtIn, z] = [q.x, q.dt, q.z].map((t) => t?.reshape([b, d]))
  const A = q.A.reshape([d, n])
  const D = q.D?.reshape([d])
  const dtBias = q.dtBias?.reshape([d])
  const groups = q.B.shape.length === 3 ? q.B.shape[1]! : 1
  const [B, C] = [q.B, q.C].map((t) => t.reshape([b, groups, n])) as [NDArray, NDArray]

  const out = new NDArray([b, d])
  for (let i = 0; i < b; i++) {
    const slot = q.stateIndices ? q.stateIndices[i]! : i
    if (slot < 0) continue
    for (let c = 0; c < d; c++) {
      const group = Math.floor((c * groups) / d)
      let dt = r(dtIn!.at(i, c) + (dtBias?.at(c) ?? 0))
      if (q.dtSoftplus) dt = softplus(dt, r)
      let y = 0
      for (let s = 0; s < n; s++) {
        const decay = r(Math.exp(r(dt * A.at(c, s))))
        const input = r(r(dt * B.at(i, group, s)) * x!.at(i, c))
        const h = r(r(decay * state.at(slot, c, s)) + input)
        state.set(h, slot, c, s)
        y = r(y + r(C.at(i, group, s) * h))
      }
      if (D) y = r(y + r(D.at(c) * x!.at(i, c)))
      if (z) y = r(y * siluOf(z.at(i, c), r))
      out.set(y, i, c)
    }
  }
  return out.reshape(q.x.shape)
}
