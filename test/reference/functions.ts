import { exact, type Round } from './array.js'

/** x·σ(x). */
export function siluOf(x: number, r: Round = exact): number {
  return r(x / r(1 + r(Math.exp(-x))))
}

/** log(1 + eˣ), which is x itself past 20: there the two agree to 2·10⁻⁹. */
export function softplus(x: number, r: Round = exact): number {
  return x > 20 ? x : r(Math.log1p(r(Math.exp(x))))
}
