// The Mamba layer in float64, put together from the reference ops: the readable definition of lib/layers/mamba.ts. In 16
// bits it is the same with each op's result rounded once.

import type { MambaConfig } from '../../lib/layers/index.js'
import { exact, type NDArray, type Round } from '../reference/array.js'
import { causalConv1d } from '../reference/causal_conv1d.js'
import { linear } from '../reference/linear.js'
import { rmsNorm } from '../reference/rms_norm.js'
import { selectiveScan } from '../reference/selective_scan.js'

/** x (b, L, hidden) → (b, L, hidden), a sequence from its beginning; `r` rounds what each op returns. */
export function mamba(
  config: MambaConfig,
  w: Readonly<Record<string, NDArray>>,
  x: NDArray,
  r: Round = exact,
): NDArray {
  const held = (t: NDArray) => (r === exact ? t : t.map(r))
  const A = w.A_log!.map((v) => -Math.exp(v))
  const [d, n] = A.shape as [number, number]
  const channelsFirst = (t: NDArray) => t.permute([0, 2, 1])
  const projected = held(linear(x, w['in_proj.weight']!, { bias: w['in_proj.bias'] }))
  const conv = w['conv1d.weight']!
  const conv1d = causalConv1d({
    x: channelsFirst(projected.slice(2, 0, d)),
    weight: conv.reshape([d, conv.shape[2]!]),
    bias: w['conv1d.bias'],
    activation: 'silu',
  })
  const u = held(conv1d.out)
  const eps = config.mixer_rms_eps
  const normed = (t: NDArray) => (eps === undefined ? t : held(rmsNorm(t, null, { eps }).out))
  const selected = held(linear(channelsFirst(u), w['x_proj.weight']!))
  const rank = selected.shape[2]! - 2 * n
  const delta = held(linear(normed(selected.slice(2, 0, rank)), w['dt_proj.weight']!))
  const { out } = selectiveScan({
    u,
    delta: channelsFirst(delta),
    A,
    B: channelsFirst(normed(selected.slice(2, rank, n))),
    C: channelsFirst(normed(selected.slice(2, rank + n, n))),
    D: w.D!,
    z: channelsFirst(projected.slice(2, d, d)),
    deltaBias: w['dt_proj.bias']!,
    deltaSoftplus: true,
  })
  return held(linear(channelsFirst(held(out)), w['out_proj.weight']!, { bias: w['out_proj.bias'] }))
}
