// The Mamba and Mamba-2 language models in float64, put together from the reference ops: the readable definition of lib/models/mamba.ts.
// In 16 bits it is the same with each op's result rounded once, but for the residual stream, which is float32 unless
// residual_in_fp32 is false.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'

import { openCheckpoint } from '../../lib/checkpoint/index.js'
import { mamba, mamba2 } from '../layers/reference.js'
import { exact, NDArray, type Round } from '../reference/array.js'
import { embedding } from '../reference/embedding.js'
import { linear } from '../reference/linear.js'
import { rmsNorm } from '../reference/rms_norm.js'

export interface ReferenceModel {
  readonly config: Readonly<Record<string, unknown>>
  readonly weights: Readonly<Record<string, NDArray>>
}

export async function readModel(dir: string): Promise<ReferenceModel> {
  const checkpoint = await openCheckpoint(dir)
  const weights: Record<string, NDArray> = {}
  for (const name of checkpoint.names()) {
    const { shape, data } = await checkpoint.readFloat32(name)
    weights[name] = new NDArray(shape, data)
  }
  await checkpoint.close()
  return { config: JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')) as Record<string, unknown>, weights }
}

/** The model with what `weights: 'bfloat16'` and the like convert, the matrices, rounded. */
export function withMatrices({ config, weights }: ReferenceModel, r: Round): ReferenceModel {
  const isMatrix = (name: string, t: NDArray): boolean => t.shape.length === 2 && !name.endsWith('A_log')
  const entries = Object.entries(weights).map(([name, t]) => [name, isMatrix(name, t) ? t.map(r) : t] as const)
  return { config, weights: Object.fromEntries(entries) }
}

/** ids (b, L) → logits (b, L, vocabulary); `r` rounds what each op returns. */
export function logits({ config, weights: w }: ReferenceModel, ids: readonly number[][], r: Round = exact): NDArray {
  const held = (t: NDArray): NDArray => t.map(r)
  const flat = ids.flat()
  const table = w['backbone.embeddings.weight']!
  const eps = config['layer_norm_epsilon'] as number
  const norm = (h: NDArray, name: string): NDArray => held(rmsNorm(h, w[name]!, { eps }).out)
  const layer = layerOf(config)
  let h = held(embedding(new NDArray([ids.length, flat.length / ids.length], flat), table))
  let sum = h // what is normed is not rounded yet, whatever the stream is held in
  for (let i = 0; i < (config['num_hidden_layers'] as number); i++) {
    const prefix = `backbone.layers.${i}.mixer.`
    const names = Object.keys(w).filter((name) => name.startsWith(prefix))
    const state = Object.fromEntries(names.map((name) => [name.slice(prefix.length), w[name]!]))
    const y = layer(state, norm(sum, `backbone.layers.${i}.norm.weight`), r)
    sum = h.map((v, at) => v + y.data[at]!)
    h = config['residual_in_fp32'] === false ? held(sum) : sum
  }
  return held(linear(norm(sum, 'backbone.norm_f.weight'), w['lm_head.weight'] ?? table))
}

type Layer = (w: Readonly<Record<string, NDArray>>, x: NDArray, r: Round) => NDArray

function layerOf(config: ReferenceModel['config']): Layer {
  const at = (name: string): number => config[name] as number
  const hidden_size = at('hidden_size')
  if (config['model_type'] === 'mamba2') {
    const limit = config['time_step_limit'] as [number, unknown]
    const time_step_limit = typeof limit[1] === 'number' ? ([limit[0], limit[1]] as const) : ([0, Infinity] as const)
    const norm = { layer_norm_epsilon: at('layer_norm_epsilon'), norm_group_size: config['norm_group_size'] as number }
    return (w, x, r) => mamba2({ hidden_size, n_groups: at('n_groups'), time_step_limit, ...norm }, w, x, r)
  }
  const falcon = config['model_type'] === 'falcon_mamba' ? { mixer_rms_eps: at('mixer_rms_eps') } : {}
  return (w, x, r) => mamba({ hidden_size, ...falcon }, w, x, r)
}
