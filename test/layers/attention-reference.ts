// The attention layer and the MLP in float64, put together from the reference ops: the readable definition of
// lib/layers/attention.ts and mlp.ts. In 16 bits they are the same with each op's result rounded once.

import type { AttentionConfig, MLPConfig } from '../../lib/layers/index.js'
import { concat, exact, NDArray, type Round } from '../reference/array.js'
import { attention, type AttentionInputs } from '../reference/attention.js'
import { gelu, geluTanh, mul, silu } from '../reference/elementwise.js'
import { linear } from '../reference/linear.js'
import { rmsNorm } from '../reference/rms_norm.js'
import { rotary } from '../reference/rotary.js'

type Weights = Readonly<Record<string, NDArray>>

/** What a token sees: all before it, the last `window`, or `sinks` first ones and the last `window` as StreamingLLM has it. */
export interface Sees {
  window?: number
  sinks?: number
}

/** x (b, L, hidden) → (b, L, hidden), a sequence from its beginning; `r` rounds what each op returns. */
export function attentionLayer(
  config: AttentionConfig,
  w: Weights,
  x: NDArray,
  r: Round = exact,
  sees: Sees = {},
): NDArray {
  const held = (t: NDArray): NDArray => (r === exact ? t : t.map(r))
  const [batch, length] = x.shape as [number, number, number]
  const heads = config.num_attention_heads
  const kvHeads = config.num_key_value_heads ?? heads
  const d = config.head_dim ?? config.hidden_size / heads
  const project = (from: NDArray, name: string): NDArray =>
    held(linear(from, w[`${name}.weight`]!, { bias: w[`${name}.bias`] }))
  const inHeads = (name: string, count: number): NDArray => project(x, name).reshape([batch, length, count, d])
  const normed = (t: NDArray, name: string): NDArray =>
    w[name] ? held(rmsNorm(t, w[name], { eps: config.rms_norm_eps ?? 1e-6 }).out) : t
  const q = normed(inHeads('q_proj', heads), 'q_norm.weight')
  const k = normed(inHeads('k_proj', kvHeads), 'k_norm.weight')
  const v = inHeads('v_proj', kvHeads)
  const turned = (t: NDArray, at?: (token: number) => number): NDArray => {
    if (config.rope_theta === undefined && !config.rope_parameters) return t
    const tables = ropeTables(config, d, length)
    return held(rotary(t, { ...tables, interleaved: config.rope_interleave ?? false }, at && ((_, token) => at(token))))
  }
  const scores = {
    softcap: config.attn_logit_softcapping ?? 0,
    scale: 1 / Math.sqrt(config.query_pre_attn_scalar ?? d),
    sinks: w.sinks ?? null,
  }
  const window = Math.min(
    config.sliding_window ?? Infinity,
    sees.sinks === undefined ? (sees.window ?? Infinity) : Infinity,
  )
  const whole: AttentionInputs = {
    ...{ q: turned(q), k: turned(k), v, causal: true },
    ...{ window: Number.isFinite(window) ? [window - 1, 0] : null, ...scores },
  }
  const out = held(attention(whole).out)
  if (sees.sinks !== undefined) {
    const full = sees.sinks + sees.window!
    for (let p = full; p < length; p++) {
      // Positions within the cache: the sinks, then the window, the last of which is the token itself.
      const shift = p - (full - 1)
      const place = (token: number): number => (token < sees.sinks! ? token : Math.max(0, token - shift))
      const kept = (t: NDArray): NDArray =>
        concat([t.slice(1, 0, sees.sinks!), t.slice(1, p - sees.window! + 1, sees.window!)], 1)
      const one = attention({ q: turned(q, place).slice(1, p, 1), k: kept(turned(k, place)), v: kept(v), ...scores })
      for (let b = 0; b < batch; b++)
        for (let i = 0; i < heads * d; i++)
          out.data[(b * length + p) * heads * d + i] = r(one.out.data[b * heads * d + i]!)
    }
  }
  return project(out.reshape([batch, length, heads * d]), 'o_proj')
}

/** cos and sin for positions from 0 on, of the default kind. */
export function ropeTables(config: AttentionConfig, headDim: number, rows: number): { cos: NDArray; sin: NDArray } {
  const said = config.rope_parameters
  const theta = said?.rope_theta ?? config.rope_theta ?? 10_000
  const dims = headDim * (config.partial_rotary_factor ?? 1)
  const angle = (i: number): number => Math.floor(i / (dims / 2)) / theta ** ((2 * (i % (dims / 2))) / dims)
  const empty = new NDArray([rows, dims / 2])
  return { cos: empty.map((_, i) => Math.cos(angle(i))), sin: empty.map((_, i) => Math.sin(angle(i))) }
}

/** x (…, hidden) → (…, hidden). */
export function mlp(config: MLPConfig, w: Weights, x: NDArray, r: Round = exact): NDArray {
  const held = (t: NDArray): NDArray => (r === exact ? t : t.map(r))
  const project = (from: NDArray, name: string): NDArray =>
    held(linear(from, w[`${name}.weight`]!, { bias: w[`${name}.bias`] }))
  const name = config.hidden_act ?? 'silu'
  const act = name === 'silu' || name === 'swish' ? silu : name === 'gelu' ? gelu : geluTanh
  const up = project(x, 'up_proj')
  const inner = (config.gated ?? true) ? mul(act(project(x, 'gate_proj')), up) : act(up)
  return project(held(inner), 'down_proj')
}
