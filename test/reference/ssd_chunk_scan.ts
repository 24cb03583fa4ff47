import { exact, NDArray, type Round } from './array.js'
import { siluOf, softplus } from './functions.js'

export interface SsdInputs {
  x: NDArray // (b, L, h, p)
  dt: NDArray // (b, L, h)
  A: NDArray // (h)
  B: NDArray // (b, L, g, n)
  C: NDArray // (b, L, g, n)
  D?: NDArray | null // (h) or (h, p)
  z?: NDArray | null // (b, L, h, p)
  dtBias?: NDArray | null // (h)
  dtSoftplus?: boolean
  dtLimit?: readonly [number, number] | null
  initialStates?: NDArray | null // (b, h, p, n)
  seqIdx?: NDArray | null // (b, L)
}

export interface SsdResult {
  out: NDArray // (b, L, h, p)
  finalStates: NDArray // (b, h, p, n)
}

/**
 * Mamba-2's scan (Dao and Gu, 2024), one decay a head and token:
 *
 *   Δ = dt + dtBias, through softplus if asked, then clamped to dtLimit
 *   h_t = exp(Δ_t A) h_{t−1} + Δ_t x_t ⊗ B_t
 *   y_t = h_t C_t + D x_t,   out_t = y_t silu(z_t)
 *
 * The state starts at initialStates and falls back to zero wherever seqIdx changes.
 */
export function ssdRecurrent(q: SsdInputs, r: Round = exact): SsdResult {
  return forEachHead(q, r, (head) => {
    const { L, p, n, Δ, A, x, B, C, state, starts } = head
    const y = new NDArray([L, p])
    for (let t = 0; t < L; t++) {
      if (starts(t)) state.fill(0)
      const decay = r(Math.exp(r(Δ[t]! * A)))
      for (let c = 0; c < p; c++)
        for (let s = 0; s < n; s++) {
          const h = r(r(decay * state[c * n + s]!) + r(r(Δ[t]! * x(t, c)) * B(t, s)))
          state[c * n + s] = h
          y.set(r(y.at(t, c) + r(h * C(t, s))), t, c)
        }
    }
    return y
  })
}

/**
 * The same as attention without a softmax: with a_t = Σ_{s≤t} Δ_s A,
 *
 *   y_i = Σ_{j≤i} exp(a_i − a_j) (C_i·B_j) Δ_j x_j + exp(a_i) h_0 C_i
 *
 * where j runs over tokens of i's own sequence, and h_0 is seen by the first one.
 */
export function ssdQuadratic(q: SsdInputs): SsdResult {
  return forEachHead(q, exact, (head) => {
    const { L, p, n, Δ, x, B, C, state, firstOf } = head
    const y = new NDArray([L, p])
    const decay = decays(head)
    const initial = state.slice()
    for (let i = 0; i < L; i++) {
      for (let j = firstOf(i); j <= i; j++) {
        let product = 0
        for (let s = 0; s < n; s++) product += C(i, s) * B(j, s)
        const weight = decay(i, j) * product * Δ[j]!
        for (let c = 0; c < p; c++) y.set(y.at(i, c) + weight * x(j, c), i, c)
      }
      if (firstOf(i) === 0)
        for (let c = 0; c < p; c++)
          for (let s = 0; s < n; s++) y.set(y.at(i, c) + decay(i, -1) * initial[c * n + s]! * C(i, s), i, c)
    }
    if (L > 0) {
      const from = firstOf(L - 1)
      state.fill(0)
      for (let c = 0; c < p; c++)
        for (let s = 0; s < n; s++) {
          let h = from === 0 ? decay(L - 1, -1) * initial[c * n + s]! : 0
          for (let j = from; j < L; j++) h += decay(L - 1, j) * Δ[j]! * x(j, c) * B(j, s)
          state[c * n + s] = h
        }
    }
    return y
  })
}

/**
 * The same with both: inside a chunk of Q tokens as attention, and from chunk to chunk through the state S,
 *
 *   y_i = exp(a_i) S C_i + Σ_{j≤i in the chunk} exp(a_i − a_j) (C_i·B_j) Δ_j x_j
 *   S ← exp(a_Q) S + Σ_j exp(a_Q − a_j) Δ_j x_j ⊗ B_j
 *
 * with a counted from the chunk's beginning; a chunk ends where a sequence does.
 */
export function ssdChunked(q: SsdInputs, chunkSize: number): SsdResult {
  return forEachHead(q, exact, (head) => {
    const { L, p, n, Δ, x, B, C, state, starts } = head
    const y = new NDArray([L, p])
    const decay = decays(head)
    for (let from = 0, to: number; from < L; from = to) {
      to = from + 1
      while (to < L && to - from < chunkSize && !starts(to)) to++
      if (starts(from)) state.fill(0)
      for (let i = from; i < to; i++) {
        for (let c = 0; c < p; c++) {
          let inter = 0
          for (let s = 0; s < n; s++) inter += state[c * n + s]! * C(i, s)
          y.set(decay(i, from - 1) * inter, i, c)
        }
        for (let j = from; j <= i; j++) {
          let product = 0
          for (let s = 0; s < n; s++) product += C(i, s) * B(j, s)
          const weight = decay(i, j) * product * Δ[j]!
          for (let c = 0; c < p; c++) y.set(y.at(i, c) + weight * x(j, c), i, c)
        }
      }
      for (let c = 0; c < p; c++)
        for (let s = 0; s < n; s++) {
          let h = decay(to - 1, from - 1) * state[c * n + s]!
          for (let j = from; j < to; j++) h += decay(to - 1, j) * Δ[j]! * x(j, c) * B(j, s)
          state[c * n + s] = h
        }
    }
    return y
  })
}

/** One head of one batch row: what the three forms are written in. */
interface Head {
  L: number
  p: number
  n: number
  A: number
  Δ: Float64Array
  x: (t: number, c: number) => number
  B: (t: number, s: number) => number
  C: (t: number, s: number) => number
  /** (p, n), the initial state; the form leaves the final one in it. */
  state: Float64Array
  /** Whether a sequence begins with token t and not before: no state comes in. */
  starts: (t: number) => boolean
  /** The first token of t's sequence. */
  firstOf: (t: number) => number
}

/** exp(a_i − a_j) for j ≤ i, the decay over the tokens after j up to i; j may be −1. */
function decays({ L, Δ, A }: Head): (i: number, j: number) => number {
  const a = new Float64Array(L + 1)
  for (let t = 0; t < L; t++) a[t + 1] = a[t]! + Δ[t]! * A
  return (i, j) => Math.exp(a[i + 1]! - a[j + 1]!)
}

/** What is common to the forms: Δ before, the skip and the gate after. `form` gives y of a head, (L, p). */
function forEachHead(q: SsdInputs, r: Round, form: (head: Head) => NDArray): SsdResult {
  const [b, L, h, p] = q.x.shape as [number, number, number, number]
  const [g, n] = [q.B.shape[2]!, q.B.shape[3]!]
  const out = new NDArray([b, L, h, p])
  const finalStates = new NDArray([b, h, p, n])
  for (let i = 0; i < b; i++)
    for (let k = 0; k < h; k++) {
      const group = Math.floor((k * g) / h)
      const starts = (t: number): boolean => !!q.seqIdx && t > 0 && q.seqIdx.at(i, t) !== q.seqIdx.at(i, t - 1)
      const first = new Int32Array(L)
      for (let t = 1; t < L; t++) first[t] = starts(t) ? t : first[t - 1]!
      const state = finalStates.data.subarray((i * h + k) * p * n, (i * h + k + 1) * p * n)
      if (q.initialStates) state.set(q.initialStates.data.subarray((i * h + k) * p * n, (i * h + k + 1) * p * n))
      const Δ = new Float64Array(L).map((_, t) => step(q, i, t, k, r))
      const y = form({
        ...{ L, p, n, A: q.A.at(k), Δ, state, starts, firstOf: (t) => first[t]! },
        x: (t, c) => q.x.at(i, t, k, c),
        B: (t, s) => q.B.at(i, t, group, s),
        C: (t, s) => q.C.at(i, t, group, s),
      })
      for (let t = 0; t < L; t++)
        for (let c = 0; c < p; c++) {
          let v = y.at(t, c)
          if (q.D) v = r(v + r((q.D.shape.length === 1 ? q.D.at(k) : q.D.at(k, c)) * q.x.at(i, t, k, c)))
          if (q.z) v = r(v * siluOf(q.z.at(i, t, k, c), r))
          out.set(v, i, t, k, c)
        }
    }
  return { out, finalStates }
}

function step(q: SsdInputs, i: number, t: number, k: number, r: Round): number {
  let dt = q.dt.at(i, t, k)
  if (q.dtBias) dt = r(dt + q.dtBias.at(k))
  if (q.dtSoftplus) dt = softplus(dt, r)
  const [lowest, highest] = q.dtLimit ?? [0, Infinity]
  return Math.min(Math.max(dt, lowest), highest)
}
