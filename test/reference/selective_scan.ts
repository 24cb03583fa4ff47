import { exact, NDArray, type Round } from './array.js'
import { siluOf, softplus } from './functions.js'

export interface ScanInputs {
  u: NDArray // (b, d, L)
  delta: NDArray // (b, d, L)
  A: NDArray // (d, n)
  B: NDArray // (d, n), (b, n, L) or (b, g, n, L)
  C: NDArray // as B
  D?: NDArray | null // (d)
  z?: NDArray | null // (b, d, L)
  deltaBias?: NDArray | null // (d)
  deltaSoftplus?: boolean
  initialState?: NDArray | null // (b, d, n)
  seqIdx?: NDArray | null // (b, L)
}

/**
 * The selective scan of Mamba (Gu and Dao, 2023):
 *
 *   Δ = delta + deltaBias, through softplus if asked
 *   h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t u_t
 *   y_t = C_t·h_t + D u_t,   out_t = y_t silu(z_t)
 *
 * The state starts at initialState and falls back to zero wherever seqIdx changes.
 */
export function selectiveScan(x: ScanInputs, r: Round = exact): { out: NDArray; lastState: NDArray } {
  const [b, d, L] = x.u.shape as [number, number, number]
  const n = x.A.shape[1]!
  const out = new NDArray([b, d, L])
  const lastState = new NDArray([b, d, n])
  const h = new Float64Array(n)
  for (let i = 0; i < b; i++)
    for (let c = 0; c < d; c++) {
      for (let s = 0; s < n; s++) h[s] = x.initialState ? x.initialState.at(i, c, s) : 0
      for (let t = 0; t < L; t++) {
        if (x.seqIdx && t > 0 && x.seqIdx.at(i, t) !== x.seqIdx.at(i, t - 1)) h.fill(0)
        const u = x.u.at(i, c, t)
        let dt = x.delta.at(i, c, t)
        if (x.deltaBias) dt = r(dt + x.deltaBias.at(c))
        if (x.deltaSoftplus) dt = softplus(dt, r)
        let y = 0
        for (let s = 0; s < n; s++) {
          const decay = r(Math.exp(r(dt * x.A.at(c, s))))
          const input = r(r(dt * coefficient(x.B, d, i, c, s, t)) * u)
          h[s] = r(r(decay * h[s]!) + input)
          y = r(y + r(coefficient(x.C, d, i, c, s, t) * h[s]!))
        }
        if (x.D) y = r(y + r(x.D.at(c) * u))
        if (x.z) y = r(y * siluOf(x.z.at(i, c, t), r))
        out.set(y, i, c, t)
      }
      for (let s = 0; s < n; s++) lastState.set(h[s]!, i, c, s)
    }
  return { out, lastState }
}

/** B or C for batch row i, channel c, state s, time t, in any of its three forms; of g groups, channel c uses ⌊c·g/d⌋. */
function coefficient(m: NDArray, d: number, i: number, c: number, s: number, t: number): number {
  if (m.shape.length === 2) return m.at(c, s)
  if (m.shape.length === 3) return m.at(i, s, t)
  return m.at(i, Math.floor((c * m.shape[1]!) / d), s, t)
}
