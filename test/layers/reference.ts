// The layers of Mamba and Mamba-2 in float64, put together from the reference ops: the readable definitions of
// lib/layers/mamba.ts and mamba2.ts. In 16 bits they are the same with each op's result rounded once.

import type { Mamba2Config, MambaConfig } from '../../lib/layers/index.js'
import { exact, type NDArray, type Round } from '../reference/array.js'
import { causalConv1d } from '../reference/causal_conv1d.js'
import { linear } from '../reference/linear.js'
import { rmsNorm } from '../reference/rms_norm.js'
import { selectiveScan } from '../reference/selective_scan.js'
import { ssdRecurrent } from '../reference/ssd_chunk_scan.js'

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

/** The same of Mamba-2. */
export function mamba2(
  config: Mamba2Config,
  w: Readonly<Record<string, NDArray>>,
  x: NDArray,
  r: Round = exact,
): NDArray {
  const held = (t: NDArray) => (r === exact ? t : t.map(r))
  const [b, L] = x.shape as [number, number]
  const [h, g] = [w.A_log!.size, config.n_groups ?? 1]
  const [d, c] = [w['out_proj.weight']!.shape[1]!, w['conv1d.weight']!.shape[0]!]
  const [p, n] = [d / h, (c - d) / (2 * g)]
  const projected = held(linear(x, w['in_proj.weight']!, { bias: w['in_proj.bias'] }))
  const z = projected.slice(2, 0, d)
  const conv = w['conv1d.weight']!
  const conv1d = causalConv1d({
    x: projected.slice(2, d, c).permute([0, 2, 1]),
    weight: conv.reshape([c, conv.shape[2]!]),
    bias: w['conv1d.bias'],
    activation: 'silu',
  })
  const mixed = held(conv1d.out).permute([0, 2, 1])
  const normed = config.rms_norm ?? true
  const { out } = ssdRecurrent({
    x: mixed.slice(2, 0, d).reshape([b, L, h, p]),
    dt: projected.slice(2, d + c, h),
    A: w.A_log!.map((v) => -Math.exp(v)),
    B: mixed.slice(2, d, g * n).reshape([b, L, g, n]),
    C: mixed.slice(2, d + g * n, g * n).reshape([b, L, g, n]),
    D: config.D_has_hdim ? w.D!.reshape([h, p]) : w.D!,
    z: normed ? null : z.reshape([b, L, h, p]),
    dtBias: w.dt_bias!,
    dtSoftplus: true,
    dtLimit: config.time_step_limit ?? null,
  })
  const y = held(out).reshape([b, L, d])
  const gated = rmsNorm(y, w['norm.weight'] ?? null, {
    z,
    eps: config.layer_norm_epsilon ?? 1e-5,
    groupSize: config.norm_group_size,
    normBeforeGate: config.norm_before_gate ?? false,
  })
  return held(linear(normed ? held(gated.out) : y, w['out_proj.weight']!, { bias: w['out_proj.bias'] }))
}
