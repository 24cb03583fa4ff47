// The language models of lib/models/decoder.ts in float64, put together from the reference ops; `r` rounds what each op
// returns, as a dtype of 16 bits does.

import type { AttentionConfig } from '../../lib/layers/index.js'
import { attentionLayer, mlp } from '../layers/attention-reference.js'
import { exact, NDArray, type Round } from '../reference/array.js'
import { softcap } from '../reference/elementwise.js'
import { embedding } from '../reference/embedding.js'
import { linear } from '../reference/linear.js'
import { rmsNorm } from '../reference/rms_norm.js'
import type { ReferenceModel } from './reference.js'

/** ids (b, L) → logits (b, L, vocabulary). */
export function decoderLogits(
  { config, weights: w }: ReferenceModel,
  ids: readonly number[][],
  r: Round = exact,
): NDArray {
  const held = (t: NDArray): NDArray => (r === exact ? t : t.map(r))
  const gemma = config['model_type'] === 'gemma2'
  const eps = config['rms_norm_eps'] as number
  const norm = (x: NDArray, name: string): NDArray =>
    held(rmsNorm(x, gemma ? w[name]!.map((v) => 1 + v) : w[name]!, { eps }).out)
  const table = w['model.embed_tokens.weight']!
  const flat = ids.flat()
  let h = held(embedding(new NDArray([ids.length, flat.length / ids.length], flat), table))
  const root = r(Math.sqrt(config['hidden_size'] as number))
  if (gemma) h = held(h.map((v) => v * root))
  let sum = h // what is normed is not rounded yet
  const add = (y: NDArray): void => {
    sum = h.map((v, i) => v + y.data[i]!)
    h = held(sum)
  }
  const types = config['layer_types'] as string[] | undefined
  for (let i = 0; i < (config['num_hidden_layers'] as number); i++) {
    const prefix = `model.layers.${i}.`
    const below = (name: string): Record<string, NDArray> =>
      Object.fromEntries(
        Object.entries(w)
          .filter(([key]) => key.startsWith(prefix + name))
          .map(([key, t]) => [key.slice((prefix + name).length), t]),
      )
    const windowed = types ? types[i] === 'sliding_attention' : config['model_type'] === 'mistral'
    const attention = {
      ...config,
      sliding_window: windowed ? config['sliding_window'] : null,
    } as unknown as AttentionConfig
    const seen = attentionLayer(attention, below('self_attn.'), norm(sum, `${prefix}input_layernorm.weight`), r)
    add(gemma ? norm(seen, `${prefix}post_attention_layernorm.weight`) : seen)
    const middle = gemma ? 'pre_feedforward_layernorm' : 'post_attention_layernorm'
    const act = (config['hidden_activation'] ?? config['hidden_act']) as string
    const sizes = { hidden_size: 0, intermediate_size: 0, hidden_act: act }
    const y = mlp(sizes, below('mlp.'), norm(sum, `${prefix}${middle}.weight`), r)
    add(gemma ? norm(y, `${prefix}post_feedforward_layernorm.weight`) : y)
  }
  const logits = held(linear(norm(sum, 'model.norm.weight'), w['lm_head.weight'] ?? table))
  return gemma ? held(softcap(logits, config['final_logit_softcapping'] as number)) : logits
}
